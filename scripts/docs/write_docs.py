"""Write docs/configuration.md from the settings and the backends' options: `python scripts/docs/write_docs.py
[--check]`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from app.config.settings import DeploymentSettings, DeviceSettings, LimitSettings, LogSettings, ServerSettings, Settings  # noqa: E402
from backends.registry import BackendInfo, backend_info, backend_names  # noqa: E402

PAGE = ROOT / "docs" / "configuration.md"
_HEAD = """# Configuration

Made by `python scripts/docs/write_docs.py` from the settings themselves; a test keeps it current.

Values come from, in rising order: the defaults below, `gateway.toml` (in the folder you start in,
or `--config FILE`), environment variables `SPEECH_GATEWAY_*` (nested with two underscores:
`SPEECH_GATEWAY_SERVER__PORT=8123`), and command line options. An unknown key is an error that names
file, table and key. `gateway.example.toml` shows every key in place. Relative folders
(`models_dir`, `model`, `adapters` and the like) count from the folder you start in, not from the
file's.

Three variables are no settings: `SPEECH_GATEWAY_CONFIG` names the file, `SPEECH_GATEWAY_URL` and
`SPEECH_GATEWAY_KEY` are the server and the key of the commands that talk to one.
"""
_ALIASES = """## `[aliases]`

Further names for deployments, merged with the built-in ones: `"gpt-4o-transcribe" = "whisper-1"`.
"""
_BACKENDS = """## Options of each backend

They stand in the deployment's own table; the backend checks them.
"""
_TABLES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("[server]", ServerSettings),
    ("[limits]", LimitSettings),
    ("[devices]", DeviceSettings),
    ("[log]", LogSettings),
    ('[deployments."NAME"]', DeploymentSettings),
)
_NESTED = {"server", "limits", "devices", "log", "deployments", "aliases"}


def configuration_page() -> str:
    """The whole page, Markdown."""
    parts = [_HEAD, "## Top level\n", _table(row for row in _rows(Settings) if row[0] not in _NESTED)]
    for title, model in _TABLES:
        parts += [f"## `{title}`\n", _table(_rows(model))]
    parts += [_ALIASES, _BACKENDS]
    for name in backend_names():
        parts += _backend(backend_info(name))
    return "\n".join(parts)


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    return (
        "\n".join(["| key | default | meaning |", "|---|---|---|", *map("| `{0[0]}` | {0[1]} | {0[2]} |".format, rows)])
        + "\n"
    )


def _rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        yield name, _default(field), (field.description or "").replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "unset" if value is None else f"`{value.as_posix() if isinstance(value, Path) else value!r}`"


def _backend(info: BackendInfo) -> list[str]:
    engines = ", ".join(f"`{engine}`" for engine in info.engines)
    facts = f"### `{info.name}` ({', '.join(info.tasks)})\n\nEngines: {engines}."
    if info.default_model:
        facts += f" Default model: `{info.default_model}`."
    if info.licence:
        facts += f" Licence of the weights: {info.licence}."
    return [facts + "\n", *_options(info.options)]


def _options(options: type) -> list[str]:
    """The defaults, and what the class's docstring says of the keys after its first line."""
    values: Any = options()
    names = [field.name for field in dataclasses.fields(options)]
    if not names:
        return ["No options of its own.\n"]
    _, _, meaning = inspect.cleandoc(options.__doc__ or "").partition("\n\n")
    lines = ["| key | default |", "|---|---|", *(f"| `{name}` | `{getattr(values, name)!r}` |" for name in names)]
    return ["\n".join(lines) + "\n", meaning + "\n"]


def main() -> None:
    """Write the page; with --check, exit 1 if the file on disk is not current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    page = configuration_page()
    if check:
        sys.exit(
            0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page else "docs/configuration.md is not current"
        )
    PAGE.write_text(page, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
