"""The command `speech-gateway`: names of the commands, nothing else. What they do is in `app/commands/`."""

from __future__ import annotations

import typer

from app.commands.bench import bench
from app.commands.calls import ask, speak, transcribe
from app.commands.console import use_utf8
from app.commands.doctor import doctor
from app.commands.server import serve
from app.commands.training import PASS_ON, dataset, finetune, watermark
from app.commands.weights import models, pull

cli = typer.Typer(
    name="speech-gateway",
    help="A local, private server that speaks Azure OpenAI's audio API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (serve, pull, models, doctor, transcribe, speak, ask, bench):
    cli.command()(command)
cli.command(context_settings=PASS_ON)(finetune)
cli.add_typer(dataset, name="dataset")
cli.add_typer(watermark, name="watermark")


def main() -> None:
    """The console entry."""
    use_utf8()
    cli()


if __name__ == "__main__":
    main()
