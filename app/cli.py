"""The command `speech-gateway`: names of the commands, nothing else. What they do is in `app/commands/`."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from app import VERSION
from app.commands.bench import bench
from app.commands.certificate import certificate
from app.commands.console import FAILED, forget_output, messages, output, use_utf8
from app.commands.doctor import doctor
from app.commands.inference import ask, speak, transcribe
from app.commands.keys import keys
from app.commands.kubernetes import kubernetes
from app.commands.listen import listen
from app.commands.server import serve
from app.commands.talk import talk
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


def _print_version(requested: bool) -> None:
    if requested:
        output().print(f"speech-gateway {VERSION}")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Global options."""


for command in (serve, pull, models, doctor, transcribe, speak, ask, listen, talk, bench, certificate, kubernetes):
    cli.command()(command)
cli.command(context_settings=PASS_ON)(finetune)
cli.add_typer(dataset, name="dataset")
cli.add_typer(watermark, name="watermark")
cli.add_typer(keys, name="key")


def main() -> None:
    """Run the command line. An error of the operating system is printed on one line, without a traceback."""
    use_utf8()
    try:
        cli(prog_name="speech-gateway")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        with contextlib.suppress(OSError):
            messages().print(f"speech-gateway: {where}{error.strerror or error}")
        forget_output()
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
