"""`speech-gateway key`: make keys for the people and programs of a home network, and list those that a server accepts.

Only a key's digest goes into the configuration: the key is printed once and kept nowhere. Keys are 256 random bits, so
a plain SHA-256 of one cannot be searched for.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.connection import Config
from app.commands.console import WRONG_USE, fail, messages, output, print_table

if TYPE_CHECKING:
    from app.config.settings import KeyLimits, ServerSettings

_KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

keys = typer.Typer(
    name="key", help="Make and list the API keys that a server accepts.", no_args_is_help=True, rich_markup_mode=None
)


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is; the log shows this name.")],
    requests_per_minute: Annotated[int, typer.Option(help="Most requests in a minute; 0 = any number.", min=0)] = 0,
    concurrent: Annotated[int, typer.Option(help="Most requests at the same time; 0 = any number.", min=0)] = 0,
    config: Config = None,
) -> None:
    """Make a key: it is printed once, with the lines for the configuration, which hold only its digest."""
    if not _NAME.fullmatch(name):
        fail("a key's name is made of letters, digits, dots, dashes and underscores, at most 64", WRONG_USE)
    if name in dict(_configured(_server(config))):
        fail(f"there is a key named {name} already", WRONG_USE)
    key = secrets.token_urlsafe(_KEY_BYTES)
    messages().print(f"The key of {name}, which is shown only now:")
    output().print(key)
    messages().print("\nFor gateway.toml (restart the server afterwards):")
    output().print("\n".join(_lines(name, key, requests_per_minute, concurrent)))


@keys.command("list")
def list_keys(config: Config = None) -> None:
    """List the names and limits of the configured keys. No key is shown."""
    known = _configured(_server(config))
    rows = [(name, kind, _limit(most.requests_per_minute), _limit(most.concurrent)) for name, (kind, most) in known]
    if not rows:
        messages().print("No keys are configured: any key is accepted, and on loopback none is needed.")
        return
    print_table(("name", "kept as", "requests per minute", "at the same time"), rows)


def _lines(name: str, key: str, requests_per_minute: int, concurrent: int) -> Iterator[str]:
    """The key's table in TOML."""
    yield f"[server.keys.{json.dumps(name)}]"
    yield f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"'
    if requests_per_minute:
        yield f"requests_per_minute = {requests_per_minute}"
    if concurrent:
        yield f"concurrent = {concurrent}"


def _server(config: Config) -> ServerSettings:
    from app.config.loading import load_settings
    from app.config.settings import ConfigError

    try:
        return load_settings(config).server
    except ConfigError as error:
        fail(str(error), WRONG_USE)


def _configured(server: ServerSettings) -> Iterator[tuple[str, tuple[str, KeyLimits]]]:
    for key in server.api_keys:
        yield key.name, ("plain text", key)
    for name, hashed in server.keys.items():
        yield name, ("digest", hashed)


def _limit(count: int) -> str:
    return str(count) if count else "any"
