"""`speech-gateway serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.connection import Config
from app.commands.console import WRONG_USE, fail


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default="8000", min=0, max=65535)
    ] = None,
    config: Config = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never reach for a model hub.")] = False,
) -> None:
    """Start the server. An option beats the environment (SPEECH_GATEWAY_*), which beats the configuration file."""
    from app.main import run_server
    from app.settings import ConfigError, load_settings

    try:
        settings = load_settings(config, server__host=host, server__port=port, offline=True if offline else None)
        status = run_server(settings)
    except ConfigError as error:
        fail(str(error), WRONG_USE)
    raise typer.Exit(status or 0)
