"""Loads the settings: options over environment over gateway.toml over the defaults.

Owns the merge of these layers and errors that say which layer, table and key is wrong. Knows no setting's meaning:
names and types are in `app/config/settings.py`.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.config.deployments import BUILTIN
from app.config.settings import ConfigError, DeploymentSettings, KeySources, Settings

PREFIX = "SPEECH_GATEWAY_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
# Not settings: which file to read, and the server and the key of the commands that talk to one.
_OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, f"{PREFIX}URL", f"{PREFIX}KEY"})
DEFAULT_FILE = Path("gateway.toml")

Path_ = tuple[str, ...]
_BY_NAME = ("deployments", "aliases")  # tables whose keys are names, not settings
# For people who write TOML: what pydantic says in the words of Python.
_PLAIN = {
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "list_type": "must be a list, in square brackets",
    "string_type": "must be text, in quotes",
    "path_type": "must be text, in quotes",
    "missing": "is missing",
}


class _Layers:
    """One nested dict built from several sources, and which source set each key."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[Path_, Callable[[Path_], str]] = {}

    def put(self, values: Mapping[str, Any], source: Callable[[Path_], str], at: Path_ = ()) -> None:
        """Lay `values` over what is there; tables merge, everything else replaces."""
        table = self.table(at)
        for key, value in values.items():
            path = (*at, key)
            if isinstance(value, Mapping) and not _is_value(path):
                table.setdefault(key, {})
                self.put(value, source, path)
            else:
                table[key] = value
            self.sources[path] = source

    def table(self, at: Path_) -> dict[str, Any]:
        table = self.values
        for key in at:
            if not isinstance(table.get(key), dict):
                table[key] = {}
            table = cast(dict[str, Any], table[key])
        return table

    def source_of(self, path: Path_) -> str:
        """Words for where the key, or the nearest table above it, was set; "" if nobody did."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.sources:
                return self.sources[path[:length]](path)
        return ""


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Merge and validate the settings: `config` (default: ./gateway.toml if present), the environment over it, and
    `overrides` on top.

    overrides: tables as dicts (server={"port": 8123}) or with "__" (server__port=8123); None = not set. Raises
    ConfigError.
    """
    layers = _Layers()
    file = _file(config)
    if file is not None:
        text, values = _parse(file)
        lines = _key_lines(text)
        layers.put(values, lambda path: _in_file(file, lines, path))
    _put_environment(layers)
    for key, value in overrides.items():
        if value is not None:
            _put_path(layers, tuple(key.split("__")), value, lambda path: f"option {'.'.join(path)}")
    try:
        return Settings.model_validate(layers.values).come_from(KeySources(layers.source_of))
    except ValidationError as error:
        raise ConfigError("\n".join(str(_problem(layers, detail)) for detail in error.errors())) from None


def _file(config: Path | None) -> Path | None:
    named = config or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named is None:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    if not named.is_file():
        raise ConfigError(f"{named}: there is no such configuration file")
    return named


def _parse(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: cannot be read: it is not UTF-8; save it again with that encoding") from error
    except (tomllib.TOMLDecodeError, OSError) as error:
        hint = r"; a Windows path goes in single quotes, 'C:\models'" if "Unescaped '\\'" in str(error) else ""
        raise ConfigError(f"{file}: cannot be read: {error}{hint}") from error


def _put_environment(layers: _Layers) -> None:
    for variable, text in sorted(os.environ.items()):
        if variable.upper().startswith(PREFIX) and variable.upper() not in _OTHER_VARIABLES:
            path = _known_names(layers, tuple(variable[len(PREFIX) :].lower().split("__")))
            _put_path(layers, path, _value(path, text), _variable_source(variable))


def _variable_source(variable: str) -> Callable[[Path_], str]:
    return lambda path: f"environment variable {variable}"


def _known_names(layers: _Layers, path: Path_) -> Path_:
    """The environment has no case: give a deployment or alias the spelling it has elsewhere."""
    if len(path) < 2 or path[0] not in _BY_NAME:
        return path
    known = [*layers.values.get(path[0], {}), *(BUILTIN if path[0] == "deployments" else ())]
    name = next((name for name in known if name.lower() == path[1]), path[1])
    return (path[0], name, *path[2:])


def _value(path: Path_, text: str) -> Any:
    """A variable's text; lists and tables are written as JSON, and so are a backend's own keys, whose types it
    checks."""
    own = len(path) == 3 and path[0] == "deployments" and path[2] not in DeploymentSettings.model_fields
    if own or text.lstrip()[:1] in ("{", "["):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    return text


def _put_path(layers: _Layers, path: Path_, value: Any, source: Callable[[Path_], str]) -> None:
    layers.put({path[-1]: value}, source, path[:-1])


def _is_value(path: Path_) -> bool:
    """A table that is the value of one setting, such as a deployment's voices or a device's budget."""
    return path == ("devices", "memory_budget") or (len(path) == 3 and path[0] == "deployments")


@dataclass(frozen=True, slots=True)
class _Problem:
    """One wrong key. source: words for where it was set; table: its path; key: "" where the table itself is wrong."""

    source: str
    table: Path_
    key: str
    text: str

    def __str__(self) -> str:
        table = f"[{_dotted(self.table)}] " if self.table else ""
        key = f"{self.key}: " if self.key else ""
        return f"{self.source}: {table}{key}{self.text}"


def _problem(layers: _Layers, detail: ErrorDetails) -> _Problem:
    """Describe an error of pydantic in the terms of the file."""
    path = tuple(str(part) for part in detail["loc"] if not _is_union_branch(part))
    is_table = len(path) == 1 and isinstance(layers.values.get(path[0]), dict)
    table, key = (path, "") if is_table or not path else (path[:-1], path[-1])
    return _Problem(layers.source_of(path) or "configuration", table, key, _problem_text(detail, table, key))


def _problem_text(detail: ErrorDetails, table: Path_, key: str) -> str:
    if detail["type"] != "extra_forbidden":
        return _PLAIN.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
    if key:
        return f"there is no such key{_suggestion(table, key)}"
    return f"there is no such table{_suggestion((), table[0])}"


def _is_union_branch(part: object) -> bool:
    return isinstance(part, str) and ("[" in part or part == "str" or part == "int")


def _dotted(table: Path_) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_]+", part) else f'"{part}"' for part in table)


def _suggestion(table: Path_, key: str) -> str:
    fields: Any = Settings.model_fields
    for part in table:
        annotation = fields[part].annotation if part in fields else None
        fields = getattr(annotation, "model_fields", {})
    near = difflib.get_close_matches(key, fields, 1)
    return f"; did you mean {near[0]}?" if near else f" (known: {', '.join(fields)})" if fields else ""


def _in_file(file: Path, lines: Mapping[Path_, int], path: Path_) -> str:
    """Name the file and, where it is known, the line of a key or of the nearest table above it."""
    for length in range(len(path), 0, -1):
        if line := lines.get(path[:length]):
            return f"{file}, line {line}"
    return str(file)


def _key_lines(text: str) -> dict[Path_, int]:
    """Line numbers of `key =` and [table], by path. tomllib does not report them."""
    lines: dict[Path_, int] = {}
    table: Path_ = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\[\]]+)\]+\s*(#.*)?$", line):
            table = _split_key(header[1])
            lines[table] = number
            for length in range(1, len(table)):
                lines.setdefault(table[:length], number)
        elif key := re.match(r"\s*([^=#]+?)\s*=", line):
            lines.setdefault((*table, *_split_key(key[1])), number)
    return lines


def _split_key(dotted: str) -> Path_:
    parts = re.findall(r'"([^"]*)"|\'([^\']*)\'|([A-Za-z0-9_-]+)', dotted)
    return tuple(next(text for text in part if text) for part in parts if any(part))
