"""Write docs/configuration.md and gateway.example.toml from the settings and the backends' options.

`python scripts/docs/generate.py` writes both; with --check it writes nothing and exits 1 if one is not current.
Descriptions are data: `Field(description=...)` of a setting, `Meta(description=...)` of a backend's option.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from msgspec import Meta  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from pydantic_core import PydanticUndefined  # noqa: E402

from app.config.cluster import ReplicaSettings  # noqa: E402
from app.config.deployments import BUILTIN, BUILTIN_ALIASES  # noqa: E402
from app.config.settings import DeploymentSettings, Settings  # noqa: E402
from backends.registry import BackendInfo, backend_info, backend_names  # noqa: E402

PAGE = ROOT / "docs" / "configuration.md"
EXAMPLE = ROOT / "gateway.example.toml"
_REQUIRED = object()
_NAMED = ("deployments", "aliases")  # tables whose keys are names, not settings


class Key(NamedTuple):
    """One line of the configuration."""

    name: str
    default: Any
    description: str


def settings_keys(model: type[BaseModel]) -> list[Key]:
    """The keys of a table of settings."""
    keys = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        default = {} if isinstance(default, BaseModel) else default  # its keys stand in a table of their own
        keys.append(Key(name, _REQUIRED if default is PydanticUndefined else default, field.description or ""))
    return keys


def option_keys(options: type) -> list[Key]:
    """The options of a backend. Raises SystemExit for one without a description."""
    hints, defaults = typing.get_type_hints(options, include_extras=True), options()
    keys = []
    for field in dataclasses.fields(options):
        described = [one.description for one in getattr(hints[field.name], "__metadata__", ()) if isinstance(one, Meta)]
        if not (described and described[0]):
            raise SystemExit(f"{options.__name__}.{field.name} needs Meta(description=...)")
        keys.append(Key(field.name, getattr(defaults, field.name), described[0]))
    return keys


def tables() -> dict[str, list[Key]]:
    """The tables of fixed name, such as [server], in the order of Settings."""
    fields = {name: field.annotation for name, field in Settings.model_fields.items() if name not in _NAMED}
    return {
        name: settings_keys(model)
        for name, model in fields.items()
        if isinstance(model, type) and issubclass(model, BaseModel)
    }


def top_level() -> list[Key]:
    """The keys that stand in no table."""
    return [key for key in settings_keys(Settings) if key.name not in (*_NAMED, *tables())]


# --- docs/configuration.md --------------------------------------------------------------------------------------------

_PAGE_HEAD = """# Configuration

Made by `python scripts/docs/generate.py` from the settings themselves; a test keeps it current.

Values come from, in rising order: the defaults below, `gateway.toml` (in the folder you start in,
or `--config FILE`), environment variables `SPEECH_GATEWAY_*` (nested with two underscores:
`SPEECH_GATEWAY_SERVER__PORT=8123`), and command line options. An unknown key is an error that names
file, table and key. `gateway.example.toml` shows every key in place. Relative folders (`models_dir`,
`model`, `adapters` and the like) count from the folder you start in, not from the file's.

Three variables are no settings: `SPEECH_GATEWAY_CONFIG` names the file, `SPEECH_GATEWAY_URL` and
`SPEECH_GATEWAY_KEY` are the server and the key of the commands that talk to one.
"""
_PAGE_ALIASES = """## `[aliases]`

Further names for deployments, merged with the built-in ones: `"gpt-4o-transcribe" = "whisper-1"`.
"""
_PAGE_BACKENDS = """## Options of each backend

They stand in the deployment's own table; the backend checks them.
"""


def configuration_page() -> str:
    """The whole page, Markdown."""
    parts = [_PAGE_HEAD, "## Top level\n", _markdown(top_level())]
    for name, keys in tables().items():
        parts += [f"## `[{name}]`\n", _markdown(keys)]
    parts += ['## `[deployments."NAME"]`\n', _markdown(settings_keys(DeploymentSettings))]
    parts += ['## `[deployments."NAME".cluster]`\n', _markdown(settings_keys(ReplicaSettings))]
    parts += [_PAGE_ALIASES, _PAGE_BACKENDS]
    for name in backend_names():
        parts += _backend_section(backend_info(name))
    return "\n".join(parts)


def _markdown(keys: Iterable[Key]) -> str:
    rows = (f"| `{key.name}` | {_shown(key.default)} | {key.description} |" for key in keys)
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _shown(default: Any) -> str:
    if default is _REQUIRED:
        return "required"
    return "unset" if default is None else f"`{default.as_posix() if isinstance(default, Path) else default!r}`"


def _backend_section(info: BackendInfo) -> list[str]:
    facts = [f"Engines: {', '.join(f'`{engine}`' for engine in info.engines)}."]
    facts += [f"Default model: `{info.default_model}`."] if info.default_model else []
    facts += [f"Licence of the weights: {info.licence}."] if info.licence else []
    keys = option_keys(info.options)
    head = f"### `{info.name}` ({', '.join(info.tasks)})\n\n{' '.join(facts)}\n"
    return [head, _markdown(keys) if keys else "No options of its own.\n"]


# --- gateway.example.toml ---------------------------------------------------------------------------------------------

_EXAMPLE_HEAD = """\
# Configuration of the speech gateway. Copy it to gateway.toml and remove the "#" before what you want to change: every
# line that is commented out shows the default. Options of the command line beat the environment (SPEECH_GATEWAY_*,
# nested with two underscores: SPEECH_GATEWAY_SERVER__PORT=8123), which beats this file.
# Made by scripts/docs/generate.py; a test keeps it current.
"""
_DIGEST = hashlib.sha256(b"change-me-as-well").hexdigest()
# Shown instead of a default that says nothing.
EXAMPLES: Mapping[tuple[str, str], str] = {
    ("server", "api_keys"): '[{ name = "laptop", key = "change-me" }]',
    ("server", "admin_key"): '"change-me-too"',
    ("realtime", "chat_key"): '"change-me-three"',
    ("server", "keys"): f'{{ phone = {{ sha256 = "{_DIGEST}", concurrent = 2 }} }}',
}
_FULL_TABLE = "whisper-1"  # the deployment whose table shows the keys that all have


def example() -> str:
    """The whole file: every key with its default, commented out, and what it means."""
    parts = [_EXAMPLE_HEAD, *_lines(top_level())]
    for name, keys in tables().items():
        parts += ["", f"[{name}]", *_lines(keys, table=name)]
    for name, table in BUILTIN.items():
        parts += ["", f'[deployments."{name}"]', *_deployment(name, table)]
    built_in = {table["backend"] for table in BUILTIN.values()}
    for name in (name for name in backend_names() if name not in built_in):
        parts += ["", f"# {name} is never there unless it is configured.", f'# [deployments."{name}"]']
        parts += [f'# backend = "{name}"', *_lines(option_keys(backend_info(name).options))]
    parts += ["", "# Further names for deployments; these are built in.", "[aliases]"]
    parts += [f"# {json.dumps(alias)} = {json.dumps(target)}" for alias, target in BUILTIN_ALIASES.items()]
    return "\n".join(parts) + "\n"


def _deployment(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    info = backend_info(table["backend"])
    full = name == _FULL_TABLE
    yield f"# Options of the backend {info.name}" + (", after the keys that every deployment has." if full else ".")
    values = {"model": info.default_model} | dict(table)
    for key in settings_keys(DeploymentSettings):
        value = values.get(key.name, key.default)
        if full:
            yield f"# {key.name} = {_toml(value)}  # {key.description}"
        elif values.get(key.name, "") != "":
            explained = f"  # {key.description}" if key.name in ("engine", "device") else ""
            yield f"# {key.name} = {_toml(value)}{explained}"
    yield from _lines(option_keys(info.options))


def _lines(keys: Iterable[Key], *, table: str = "") -> Iterator[str]:
    for key in keys:
        yield f"# {key.name} = {EXAMPLES.get((table, key.name)) or _toml(key.default)}  # {key.description}"


def _toml(value: Any) -> str:
    """A value as TOML; paths with forward slashes."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Path):
        return json.dumps(value.as_posix())
    return json.dumps(value, ensure_ascii=False)


# --- Both -------------------------------------------------------------------------------------------------------------

FILES: Mapping[Path, Callable[[], str]] = {PAGE: configuration_page, EXAMPLE: example}


def main() -> None:
    """Write both files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not current")
    check = parser.parse_args().check
    for file, make in FILES.items():
        text = make()
        if not check:
            file.write_text(text, encoding="utf-8", newline="\n")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            sys.exit(f"{file.name} is not current: python scripts/docs/generate.py")


if __name__ == "__main__":
    main()
