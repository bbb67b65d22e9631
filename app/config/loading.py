"""Where settings come from: options over environment over gateway.toml over the defaults.

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
        layers.put(values, lambda path: _in_file(file, text, path))
    _put_environment(layers)
    for key, value in overrides.items():
        if value is not None:
            _put_path(layers, tuple(key.split("__")), value, lambda path: f"option {'.'.join(path)}")
    try:
        return Settings.model_validate(layers.values).come_from(KeySources(layers.source_of))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(layers, detail) for detail in error.errors())) from None


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
            _put_path(layers, path, _value(path, text), lambda _, name=variable: f"environment variable {name}")  # type: ignore[misc]


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


def _explain(layers: _Layers, detail: ErrorDetails) -> str:
    path = tuple(str(part) for part in detail["loc"] if not _is_union_branch(part))
    table, key = (path[:-1], path[-1]) if len(path) > 1 else ((), path[0] if path else "")
    if path and isinstance(layers.values.get(path[0]), dict) and len(path) == 1:
        table, key = path, ""
    where = (
        f"{layers.source_of(path) or 'configuration'}: "
        + (f"[{_dotted(table)}] " if table else "")
        + (f"{key}: " if key else "")
    )
    if detail["type"] == "extra_forbidden":
        what = "key" if key else "table"
        return where + f"there is no such {what}" + (_suggestion(table, key) if key else _suggestion((), table[0]))
    return where + (_PLAIN.get(detail["type"]) or detail["msg"].removeprefix("Value error, "))


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


def _in_file(file: Path, text: str, path: Path_) -> str:
    """The file and, where it can be told, the line of a key."""
    line = _line_of(text, path)
    return f"{file}, line {line}" if line else str(file)


def _line_of(text: str, path: Path_) -> int | None:
    """Line of `key =` under its [table] header; None where the file writes it some other way (inline tables, dotted
    keys)."""
    table: Path_ = ()
    found: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\[\]]+)\]+\s*(#.*)?$", line):
            table = _split_key(header[1])
            if table == path[: len(table)] or (found is None and table[: len(path)] == path):
                found = number
        elif (key := re.match(r"\s*([^=#]+?)\s*=", line)) and path[: len(table) + 1] == (*table, *_split_key(key[1])):
            return number
    return found


def _split_key(dotted: str) -> Path_:
    parts = re.findall(r'"([^"]*)"|\'([^\']*)\'|([A-Za-z0-9_-]+)', dotted)
    return tuple(next(text for text in part if text) for part in parts if any(part))
