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
from app.commands.console import fail, messages
from app.commands.files import NotWritten

DEFAULT_URL = "http://127.0.0.1:8000"
_START_SECONDS, _STOP_SECONDS = 120.0, 15.0
_LOOK_SECONDS = 0.1

Server = Annotated[
    str, typer.Option("--server", envvar="SPEECH_GATEWAY_URL", help=f"Address of the server; {DEFAULT_URL} or a temporary one.")
]
Key = Annotated[str, typer.Option("--key", envvar="SPEECH_GATEWAY_KEY", help="Key to send.", show_default=False)]
Config = Annotated[Path | None, typer.Option("--config", help="Configuration file instead of ./gateway.toml.")]
ANY_KEY = "local"  # what is sent where the server has no list of keys


@contextmanager
def session(server: str, key: str) -> Iterator[Client]:
    """`connected`, with failures told on one line instead of a traceback."""
    try:
        with connected(server, key) as client:
            yield client
    except (CallFailed, NotWritten) as error:
        fail(str(error))


@contextmanager
def connected(server: str, key: str) -> Iterator[Client]:
    """A client of the named server, of the one at the default address, or of one started for this command.

    Raises CallFailed when a named server does not answer.
    """
    client = Client(server or DEFAULT_URL, key or ANY_KEY)
    if server or _is_gateway(client):
        yield client
        return
    messages().print(f"No server at {DEFAULT_URL}; starting one for this command.")
    with _temporary_server() as url:
        yield Client(url, key or ANY_KEY)


def _is_gateway(client: Client) -> bool:
    """Whether one of ours answers there, and not just anything on that port."""
    try:
        return bool(client.get("/health/live").json().get("status") == "ok")
    except (CallFailed, ValueError, AttributeError):
        return False


@contextmanager
def _temporary_server() -> Iterator[str]:
    """Its address. It stays offline: a command that lasts seconds should not begin to fetch gigabytes."""
    port = _free_port()
    command = [sys.executable, "-m", "app.cli", "serve", "--host", "127.0.0.1", "--port", str(port), "--offline"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, creationflags=_new_group()
        )
        try:
            _wait_until_ready(process, Client(f"http://127.0.0.1:{port}", ANY_KEY))
            yield f"http://127.0.0.1:{port}"
        except _Ended as error:
            log.seek(0)
            told = log.read().decode("utf-8", "replace").strip().splitlines()[-5:]
            raise CallFailed("\n".join([str(error), *told])) from None
        finally:
            _stop(process)


def _new_group() -> int:
    """On Windows the server needs a process group of its own, to be sent Ctrl+Break without the command getting it too."""
    if sys.platform == "win32":
        return subprocess.CREATE_NEW_PROCESS_GROUP
    return 0


class _Ended(Exception):
    """The temporary server did not come up."""


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
    if sys.platform == "win32":
        os.kill(process.pid, signal.CTRL_BREAK_EVENT)
    else:
        process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
