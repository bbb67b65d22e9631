"""Which backends exist and what the gateway may know of each without loading it.

Every engine package has an `info.py` that holds its `BackendInfo` as INFO, or several as INFOS; this module finds the
packages by that file and checks a deployment's backend-specific options. Knows no HTTP and no backend by name; imports
no engine code, so the gateway may import it.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from backends.interface import Backend, Request, SpeechRequest, Task
from backends.spoken_text.option import without_reading_option

_PACKAGES = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class NoOptions:
    """For backends without options of their own."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What is known of a backend before it runs.

    entry: "module:Class" of its Backend; engines: first is the default of "auto"; device_preference: device kinds, the
    best first ("cuda", "directml", "mps", "xpu", "cpu"); engine_device_preference: the same for engines that differ;
    named_devices: further kinds, used only where a deployment names one;
    check: "module:function" that refuses a request for its settings alone, see `check_request`;
    libraries: modules that must be importable in the worker's interpreter, by engine ("" = all engines); extra: the
    pyproject extra that installs them; options: a frozen dataclass with a default for every key;
    default_model: hub id; required_files and pull_patterns: glob patterns inside the model folder;
    extra_models: option name -> further hub id it needs; bytes_hint: rough download size, for messages;
    optional_packages: what it can do besides, for people -> packages it needs for that;
    input_rate: Hz of audio in its requests; chat_audio: its chat takes the audio of a conversation itself;
    speech_context: its speech takes earlier turns of a conversation; clones: it speaks with the voice of a clip, a
    request's or one in a folder of voices; words ... diarization: as in Capabilities; live: has live jobs, see
    `backends.live`; single_threaded: computes with one thread only, whatever it is given; detector: module that looks
    for the watermark in its speech, started as a program; request_fields: what a chat request may set at its top level
    besides the names of the options;
    licence: of the default weights.
    """

    name: str
    entry: str
    tasks: tuple[Task, ...]
    engines: tuple[str, ...]
    device_preference: tuple[str, ...] = ("cpu",)
    check: str = ""
    engine_device_preference: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    named_devices: tuple[str, ...] = ()
    libraries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    extra: str = ""
    options: type = NoOptions
    default_model: str = ""
    required_files: tuple[str, ...] = ()
    pull_patterns: tuple[str, ...] = ()
    extra_models: Mapping[str, str] = field(default_factory=dict)
    bytes_hint: int = 0
    optional_packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    input_rate: int = 16_000
    chat_audio: bool = False
    speech_context: bool = False
    clones: bool = False
    words: bool = False
    logprobs: bool = False
    translation: bool = False
    diarization: bool = False
    live: bool = False
    single_threaded: bool = False
    detector: str = ""
    request_fields: tuple[str, ...] = ()
    licence: str = ""


class UnknownOption(ValueError):
    """A backend-specific key that the backend does not have, or whose value is of the wrong type or out of range.

    key: its name.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def engine_packages() -> tuple[str, ...]:
    """Names of the folders of `backends` that hold an `info.py`, sorted."""
    return tuple(sorted(file.parent.name for file in _PACKAGES.glob("*/info.py")))


@cache
def _infos() -> dict[str, BackendInfo]:
    """All backends by name, in the order of their packages."""
    modules = [importlib.import_module(f"backends.{package}.info") for package in engine_packages()]
    infos: list[BackendInfo] = [info for module in modules for info in _of_module(module)]
    return {info.name: info for info in infos}


def _of_module(module: Any) -> tuple[BackendInfo, ...]:
    infos: tuple[BackendInfo, ...] = module.INFOS if hasattr(module, "INFOS") else (module.INFO,)
    return infos


def backend_names() -> tuple[str, ...]:
    return tuple(_infos())


def backend_info(name: str) -> BackendInfo:
    """Raises KeyError for a backend that does not exist."""
    return _infos()[name]


def check_options(info: BackendInfo, values: Mapping[str, Any]) -> dict[str, Any]:
    """The backend's options with `values` over the defaults. Raises UnknownOption."""
    known = {f.name for f in fields(info.options)}
    for key in values:
        if key not in known:
            names = ", ".join(sorted(known)) or "none"
            raise UnknownOption(key, f"backend {info.name} has no option {key!r} (it has: {names})")
        try:
            msgspec.convert({key: values[key]}, _single_field(info.options, key), strict=True)
        except msgspec.ValidationError as error:
            raise UnknownOption(key, f"option {key!r} of backend {info.name}: {error}") from error
    return asdict(info.options(**values))


def check_request(info: BackendInfo, options: Mapping[str, Any], request: Request) -> None:
    """Refuse what the backend would refuse for its settings alone, before it waits for a model or a slot.

    options: the deployment's. Raises InvalidInput.
    """
    if isinstance(request, SpeechRequest):
        request = without_reading_option(request)
    if info.check:
        module, _, attribute = info.check.partition(":")
        getattr(importlib.import_module(module), attribute)(request, options)


def make_backend(name: str) -> Backend:
    """Import and build a backend; only a worker process calls this."""
    module, _, attribute = backend_info(name).entry.partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend


def _single_field(options: type, key: str) -> type:
    return msgspec.defstruct("Option", [(key, typing.get_type_hints(options, include_extras=True)[key])])
