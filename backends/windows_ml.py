"""Execution providers of Windows ML: which there are, fetching one, and registering it with onnxruntime.

Windows 11 (24H2 and later) keeps providers that the makers of GPUs and NPUs wrote, such as AMD's. The package
`windowsml`, which nobody needs otherwise, reads their catalogue. A provider is a library that onnxruntime loads at run
time and takes its devices from. Only `fetch` lets Windows download anything. Knows no model.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from backends.interface import ModelUnavailable

KIND = "windowsml"  # of a device, "windowsml:amdgpu"
_SUFFIX = "ExecutionProvider"
_NOT_PRESENT = "NotPresent"  # of the package's EpReadyState: Ready, NotReady (installed only), NotPresent


class NoCatalogue(Exception):
    """The catalogue cannot be read on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class CatalogueProvider:
    """name: as in a device, "amdgpu"; full_name: onnxruntime's, "AMDGPUExecutionProvider"; is_present: its files are on
    this machine."""

    name: str
    full_name: str
    version: str
    is_present: bool


def providers() -> list[CatalogueProvider]:
    """All that the catalogue offers to this machine, fetched or not. Raises NoCatalogue."""
    with _catalogue() as entries:
        return [_described(entry) for entry in entries]


def fetch(name: str) -> CatalogueProvider:
    """Let Windows download and install a provider. Raises NoCatalogue and ModelUnavailable."""
    with _catalogue() as entries:
        entry = _entry(entries, name)
        _make_ready(entry)
        return _described(entry)


def plugin_devices(name: str) -> tuple[Any, ...]:
    """onnxruntime's devices of a provider that is on this machine, which is registered with it first.

    Raises ModelUnavailable that says what is missing.
    """
    from backends.onnx_runtime import onnxruntime

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise ModelUnavailable(f"onnxruntime {onnxruntime.__version__} cannot load providers; update it")
    try:
        full_name, library = _library(name)
    except NoCatalogue as error:
        raise ModelUnavailable(f"{KIND}:{name} cannot be used: {error}") from error
    found = _devices_of(onnxruntime, full_name)
    if not found:
        try:
            onnxruntime.register_execution_provider_library(full_name, library)
        except Exception as error:  # onnxruntime's own have no base class but this
            raise ModelUnavailable(f"onnxruntime cannot load {full_name} ({library}): {error}") from error
        found = _devices_of(onnxruntime, full_name)
    if not found:
        raise ModelUnavailable(f"{full_name} finds no device on this machine that it can use")
    return found


def _devices_of(onnxruntime: Any, full_name: str) -> tuple[Any, ...]:
    return tuple(device for device in onnxruntime.get_ep_devices() if device.ep_name == full_name)


def _library(name: str) -> tuple[str, str]:
    """onnxruntime's name of a provider and the path of its library."""
    with _catalogue() as entries:
        entry = _entry(entries, name)
        if not _described(entry).is_present:
            raise ModelUnavailable(f"Windows has not fetched {entry.name} yet; run: speech-gateway pull {KIND}:{name}")
        _make_ready(entry)
        return str(entry.name), str(entry.library_path)


@contextmanager
def _catalogue() -> Iterator[list[Any]]:
    """The catalogue's own entries, which live as long as it is open."""
    try:
        windowsml = importlib.import_module("windowsml")
    except ImportError as error:
        raise NoCatalogue(f"the package windowsml cannot be imported: {error}") from error
    except OSError as error:  # Windows before 11 24H2 lacks what its library is linked to
        raise NoCatalogue(f"this Windows has no Windows ML: {error}") from error
    try:
        catalogue = windowsml.EpCatalog()
    except OSError as error:
        raise NoCatalogue(f"this Windows has no catalogue of providers: {error}") from error
    try:
        yield catalogue.find_all_providers()
    finally:
        catalogue.close()


def _entry(entries: list[Any], name: str) -> Any:
    for entry in entries:
        if _short(entry.name) == name.lower():
            return entry
    there = ", ".join(f"{KIND}:{_short(entry.name)}" for entry in entries) or "none"
    raise ModelUnavailable(f"Windows ML has no provider {name!r} for this machine; it has {there}")


def _make_ready(entry: Any) -> None:
    try:
        entry.ensure_ready()
    except OSError as error:
        raise ModelUnavailable(f"Windows cannot make {entry.name} ready: {error}") from error


def _described(entry: Any) -> CatalogueProvider:
    return CatalogueProvider(
        _short(entry.name), str(entry.name), str(entry.version), entry.ready_state.name != _NOT_PRESENT
    )


def _short(full_name: str) -> str:
    return full_name.removesuffix(_SUFFIX).lower()
