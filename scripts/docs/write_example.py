"""Write gateway.example.toml from the settings and the backends' options: `python scripts/docs/write_example.py
[--check]`.

Every key stands there with its default, commented out, and one line that explains it. Explanations of a backend's
options come from the docstring of its options class ("key: meaning; key, key: meaning").
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pydantic import BaseModel  # noqa: E402

from app.config.deployments import BUILTIN, BUILTIN_ALIASES  # noqa: E402
from app.config.settings import DeploymentSettings, DeviceSettings, LimitSettings, LogSettings, ServerSettings, Settings  # noqa: E402
from backends.registry import backend_info, backend_names  # noqa: E402

FILE = ROOT / "gateway.example.toml"
_HEAD = """\
# Configuration of the speech gateway. Copy it to gateway.toml and remove the "#" before what you want to change: every
# line that is commented out shows the default. Options of the command line beat the environment (SPEECH_GATEWAY_*,
# nested with two underscores: SPEECH_GATEWAY_SERVER__PORT=8123), which beats this file.
# Made by scripts/docs/write_example.py; a test keeps it current.
"""
_TABLES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("server", ServerSettings),
    ("limits", LimitSettings),
    ("devices", DeviceSettings),
    ("log", LogSettings),
)
_DIGEST = hashlib.sha256(b"change-me-as-well").hexdigest()
# Shown instead of a default that says nothing.
EXAMPLES: Mapping[tuple[str, str], str] = {
    ("server", "api_keys"): '[{ name = "laptop", key = "change-me" }]',
    ("server", "admin_key"): '"change-me-too"',
    ("server", "keys"): f'{{ phone = {{ sha256 = "{_DIGEST}", concurrent = 2 }} }}',
}
_KEYS = re.compile(r"(?:^|[;.:] )((?:\w+(?: \([^)]*\))?, )*\w+(?: \([^)]*\))?): ")  # "key, key (remark): "
_COMMON_IN = "whisper-1"  # the deployment whose table shows the keys that all have


def example() -> str:
    """The whole file."""
    parts = [_HEAD, *_lines(Settings, "", leave_out={"server", "limits", "devices", "log", "deployments", "aliases"})]
    for name, model in _TABLES:
        parts += ["", f"[{name}]", *_lines(model, name)]
    for name, table in BUILTIN.items():
        parts += ["", f'[deployments."{name}"]', *_deployment(name, table)]
    parts += [
        "",
        "# A test double for any of the three tasks; never there unless it is configured.",
        '# [deployments."fake"]',
    ]
    parts += ['# backend = "fake"', *_options("fake")]
    parts += ["", "# Further names for deployments; these are built in.", "[aliases]"]
    parts += [f"# {json.dumps(alias)} = {json.dumps(target)}" for alias, target in BUILTIN_ALIASES.items()]
    return "\n".join(parts) + "\n"


def _deployment(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    backend = str(table["backend"])
    yield f"# Options of the backend {backend}" + (
        ", after the keys that every deployment has." if name == _COMMON_IN else "."
    )
    if name == _COMMON_IN:
        yield from _lines(DeploymentSettings, "", values={"backend": backend, **table})
    else:
        own = {"backend": backend, "model": backend_info(backend).default_model, **table}
        yield from (f"# {key} = {_toml(value)}" for key, value in own.items() if value != "")
    yield from _options(backend)


def _lines(
    model: type[BaseModel], table: str, *, leave_out: set[str] | None = None, values: Mapping[str, Any] | None = None
) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name in (leave_out or ()):
            continue
        default = (values or {}).get(name, field.get_default(call_default_factory=True))
        yield f"# {name} = {EXAMPLES.get((table, name)) or _toml(default)}  # {field.description}"


def _options(backend: str) -> Iterator[str]:
    options = backend_info(backend).options
    values, meanings = options(), explanations(options)
    for field in dataclasses.fields(options):
        meaning = meanings.get(field.name, "see docs/configuration.md")
        yield f"# {field.name} = {_toml(getattr(values, field.name))}  # {meaning}"


def explanations(options: type) -> dict[str, str]:
    """Key -> meaning, from the docstring after its first line."""
    names = {field.name for field in dataclasses.fields(options)}
    _, _, text = inspect.cleandoc(options.__doc__ or "").partition("\n\n")
    text = " ".join(text.split())
    found: dict[str, str] = {}
    heads = [match for match in _KEYS.finditer(text) if set(_names(match[1])) <= names]
    for match, after in zip(heads, [*heads[1:], None], strict=True):
        meaning = text[match.end() : after.start() if after else len(text)].strip().rstrip(".;")
        found |= dict.fromkeys(_names(match[1]), meaning)
    return found


def _names(keys: str) -> list[str]:
    return re.sub(r" \([^)]*\)", "", keys).split(", ")


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


def backends_shown() -> set[str]:
    """The backends whose options the file shows; `voices` has all those of espeak."""
    return {str(table["backend"]) for table in BUILTIN.values()} | {"fake", "espeak"}


def main() -> None:
    """Write the file; with --check, exit 1 if the one on disk is not current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    missing = set(backend_names()) - backends_shown()
    if missing:
        sys.exit(f"no deployment shows the options of {', '.join(sorted(missing))}")
    text = example()
    if check:
        current = FILE.exists() and FILE.read_text(encoding="utf-8") == text
        sys.exit(0 if current else f"{FILE.name} is not current: python scripts/docs/write_example.py")
    FILE.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
