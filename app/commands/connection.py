"""Finds the server that a command talks to, or starts one for as long as the command runs.

Owns the choice and the life of the temporary server. Knows no command.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.commands.client import CallFailed, Client
from app.commands.console import WRONG_USE, fail, messages
from app.commands.files import NotWritten
from app.config.loading import load_settings
from app.config.settings import ConfigError, ServerSettings
from backends import children

DEFAULT_PORT = 8000
_START_SECONDS, _STOP_SECONDS = 120.0, 15.0
_LOOK_SECONDS = 0.1

Server = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="SPEECH_GATEWAY_URL",
        help="Address of the server; without it the configured one, or a temporary one.",
    ),
]
Key = Annotated[str, typer.Option("--key", envvar="SPEECH_GATEWAY_KEY", help="Key to send.", show_default=False)]
Config = Annotated[Path | None, typer.Option("--config", help="Configuration file instead of ./gateway.toml.")]
ANY_KEY = "local"  # what is sent where the server has no list of keys


@contextmanager
def session(server: str, key: str, config: Path | None = None) -> Iterator[Client]:
    """Connect as `connected` does; print failures on one line instead of a traceback."""
    try:
        with connected(server, key, config) as client:
            yield client
    except ConfigError as error:
        fail(str(error), WRONG_USE)
    except (CallFailed, NotWritten) as error:
        fail(str(error))


@contextmanager
def connected(server: str, key: str, config: Path | None = None) -> Iterator[Client]:
    """Connect to the named server, of the one at the configured address, or of one started for this command.

    Raises CallFailed when a named server does not answer, ConfigError.
    """
    if server:
        yield Client(server, key or ANY_KEY)
        return
    settings = load_settings(config).server
    client = Client(_address(settings), key or ANY_KEY)
    if _is_gateway(client):
        yield client
        return
    messages().print(f"No server at {client.url}; starting one for this command.")
    own = settings.api_keys[0].key.get_secret_value() if settings.api_keys else ANY_KEY
    with _temporary_server(config) as url:
        yield Client(url, key or own)


def _address(settings: ServerSettings) -> str:
    """Return the URL of a server with these settings, as seen from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 (not listened on)
    port = settings.port or DEFAULT_PORT
    return f"{settings.scheme}://[{host}]:{port}" if ":" in host else f"{settings.scheme}://{host}:{port}"


def _is_gateway(client: Client) -> bool:
    """Whether a speech gateway answers there, and not another program on that port."""
    try:
        return bool(client.get("/health/live").json().get("status") == "ok")
    except (CallFailed, ValueError, AttributeError):
        return False


@contextmanager
def _temporary_server(config: Path | None) -> Iterator[str]:
    """Start a temporary server; returns its address.

    It stays offline: a command that lasts seconds should not begin to fetch gigabytes.
    """
    port = _free_port()
    command = children.command("app.cli", "serve", "--host", "127.0.0.1", "--port", str(port), "--offline")
    command += ["--config", str(config)] if config else []
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=children.environment(extra={"SPEECH_GATEWAY_SERVER__TLS": "off"}),  # nobody else talks to it
            creationflags=children.NEW_GROUP,
        )
        try:
            _wait_until_ready(process, Client(f"http://127.0.0.1:{port}", ANY_KEY))
            yield f"http://127.0.0.1:{port}"
        except _Ended as error:
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()[-5:]
            raise CallFailed("\n".join([str(error), *lines])) from None
        finally:
            _stop(process)


class _Ended(Exception):
    """The temporary server did not start."""


def _wait_until_ready(process: subprocess.Popen[bytes], client: Client) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _Ended(f"the temporary server ended with status {process.returncode}:")
        try:
            client.get("/health/ready")
        except (CallFailed, json.JSONDecodeError):
            time.sleep(_LOOK_SECONDS)
        else:
            return
    raise _Ended(f"the temporary server was not ready after {_START_SECONDS:.0f} s:")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    _ask_to_end(process)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Stop a server by the signal after which it lets running requests end."""
    if sys.platform == "win32":
        try:
            os.kill(process.pid, signal.CTRL_BREAK_EVENT)
        except (OSError, SystemError):  # no console to send it through; Python 3.11 turns that into a SystemError
            messages().print("No console to ask the temporary server through; it was ended at once.")
            process.terminate()
    else:
        process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
