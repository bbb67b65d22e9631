"""Loads the settings: options over environment over gateway.toml over the defaults.

Owns these sources and errors that say which of them, which table and which key is wrong; pydantic-settings lays them
over each other. Knows no setting's meaning: names and types are in `app/config/settings.py`.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import PydanticBaseSettingsSource

from app.config.deployments import BUILTIN
from app.config.settings import ConfigError, DeploymentSettings, KeySources, Settings, settings_from

PREFIX = "SPEECH_GATEWAY_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
# Not settings: which file to read, and the server and the key of the commands that talk to one.
_OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, f"{PREFIX}URL", f"{PREFIX}KEY"})
DEFAULT_FILE = Path("gateway.toml")

Path_ = tuple[str, ...]
Table = dict[str, Any]
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


class _Layer(PydanticBaseSettingsSource):
    """One source of settings. values: nested as the tables are; words: for where a key of them was set."""

    def __init__(self, values: Table, words: Callable[[Path_], str]) -> None:
        super().__init__(Settings)
        self.values, self.words = values, words

    def __call__(self) -> Table:
        return self.values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one table, its key, and that it is not JSON any more."""
        return self.values.get(field_name), field_name, False

    def has(self, path: Path_) -> bool:
        table: Any = self.values
        for key in path:
            if not isinstance(table, dict) or key not in table:
                return False
            table = cast(Table, table)[key]
        return True


def _where_set(layers: Sequence[_Layer], path: Path_) -> str:
    """Words for where the key, or the nearest table above it, was set; "" if nobody did."""
    for length in range(len(path), 0, -1):
        for layer in layers:
            if layer.has(path[:length]):
                return layer.words(path)
    return ""


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Merge and validate the settings: `config` (default: ./gateway.toml if present), the environment over it, and
    `overrides` on top.

    overrides: tables as dicts (server={"port": 8123}) or with "__" (server__port=8123); None = not set. Raises
    ConfigError.
    """
    below = [] if (file := _file(config)) is None else [_file_layer(file)]
    environment = _environment_layers(below[0].values if below else {})
    layers = [*_option_layers(overrides), *environment, *below]
    try:
        with settings_from(layers):
            settings = Settings()
    except ValidationError as error:
        raise ConfigError("\n".join(str(_problem(layers, detail)) for detail in error.errors())) from None
    return settings.come_from(KeySources(lambda path: _where_set(layers, path)))


def _option_layers(overrides: Mapping[str, Any]) -> Iterator[_Layer]:
    for key, value in overrides.items():
        if value is not None:
            yield _Layer(_nested(tuple(key.split("__")), value), lambda path: f"option {'.'.join(path)}")


def _file_layer(file: Path) -> _Layer:
    text, values = _parse(file)
    lines = _key_lines(text)
    return _Layer(values, lambda path: _in_file(file, lines, path))


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


def _environment_layers(file: Table) -> Iterator[_Layer]:
    """One for each variable, so that an error names it."""
    for variable, text in sorted(os.environ.items()):
        if variable.upper().startswith(PREFIX) and variable.upper() not in _OTHER_VARIABLES:
            path = _known_names(file, tuple(variable[len(PREFIX) :].lower().split("__")))
            yield _Layer(_nested(path, _value(path, text)), _variable_source(variable))


def _variable_source(variable: str) -> Callable[[Path_], str]:
    return lambda path: f"environment variable {variable}"


def _known_names(file: Table, path: Path_) -> Path_:
    """The environment has no case: give a deployment or alias the spelling it has elsewhere."""
    if len(path) < 2 or path[0] not in _BY_NAME:
        return path
    named = file.get(path[0])
    known = [*(named if isinstance(named, dict) else ()), *(BUILTIN if path[0] == "deployments" else ())]
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


def _nested(path: Path_, value: Any) -> Table:
    for key in reversed(path):
        value = {key: value}
    return cast(Table, value)


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


def _problem(layers: Sequence[_Layer], detail: ErrorDetails) -> _Problem:
    """Describe an error of pydantic in the terms of the file."""
    path = tuple(str(part) for part in detail["loc"] if not _is_union_branch(part))
    is_table = len(path) == 1 and any(isinstance(layer.values.get(path[0]), dict) for layer in layers)
    table, key = (path, "") if is_table or not path else (path[:-1], path[-1])
    return _Problem(_where_set(layers, path) or "configuration", table, key, _problem_text(detail, table, key))


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
