"""Windows ML's providers with a catalogue that is written here and onnxruntime's own devices: the package and its
providers exist on Windows only."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from backends import windows_ml
from backends.interface import ModelUnavailable
from backends.onnx_runtime import onnxruntime


@dataclass
class Entry:
    """An entry of the catalogue, with the attributes of the package's ExecutionProvider."""

    name: str
    state: str = "Ready"
    version: str = "1.8.70"
    library_path: str = "C:/providers/provider.dll"
    failure: str = ""

    @property
    def ready_state(self) -> Any:
        return types.SimpleNamespace(name=self.state)

    def ensure_ready(self) -> None:
        if self.failure:
            raise OSError(self.failure)
        self.state = "Ready"


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bool]]:
    """Call it with the entries that the catalogue shall hold; the list it gives tells of each time it was closed."""
    real = importlib.import_module

    def install(*entries: Entry, failure: Exception | None = None) -> list[bool]:
        closed: list[bool] = []
        opened = types.SimpleNamespace(find_all_providers=lambda: list(entries), close=lambda: closed.append(True))

        def open_catalogue() -> Any:
            if failure:
                raise failure
            return opened

        package = types.SimpleNamespace(EpCatalog=open_catalogue)
        monkeypatch.setattr(importlib, "import_module", lambda name: package if name == "windowsml" else real(name))
        return closed

    return install


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Libraries that were registered with onnxruntime, by provider; each then has the device of the processor."""
    libraries: dict[str, str] = {}
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == "CPUExecutionProvider"]

    def found() -> list[Any]:
        return devices + [types.SimpleNamespace(ep_name=name) for name in libraries]

    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", libraries.__setitem__)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", found)
    return libraries


AMD = "AMDGPUExecutionProvider"


def test_the_catalogue_is_listed_and_closed(catalogue: Callable[..., list[bool]]) -> None:
    closed = catalogue(Entry(AMD), Entry("MIGraphXExecutionProvider", "NotPresent"))
    assert windows_ml.providers() == [
        windows_ml.CatalogueProvider("amdgpu", AMD, "1.8.70", is_present=True),
        windows_ml.CatalogueProvider("migraphx", "MIGraphXExecutionProvider", "1.8.70", is_present=False),
    ]
    assert closed == [True]


def test_a_provider_is_registered_once(catalogue: Callable[..., list[bool]], registered: dict[str, str]) -> None:
    catalogue(Entry(AMD, "NotReady"))
    (device,) = windows_ml.plugin_devices("amdgpu")
    assert device.ep_name == AMD
    assert registered == {AMD: "C:/providers/provider.dll"}
    registered[AMD] = "kept"
    assert windows_ml.plugin_devices("AMDGPU") == (device,)
    assert registered == {AMD: "kept"}


def test_nothing_is_downloaded_unless_asked_for(
    catalogue: Callable[..., list[bool]], registered: dict[str, str]
) -> None:
    entry = Entry(AMD, "NotPresent")
    catalogue(entry)
    with pytest.raises(ModelUnavailable, match="run: speech-gateway pull windowsml:amdgpu"):
        windows_ml.plugin_devices("amdgpu")
    assert entry.state == "NotPresent"
    assert windows_ml.fetch("amdgpu").is_present
    assert windows_ml.plugin_devices("amdgpu")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([Entry("VitisAIExecutionProvider")], "no provider 'amdgpu' for this machine; it has windowsml:vitisai"),
        ([], "it has none"),
        ([Entry(AMD, "NotReady", failure="0x80070005")], f"cannot make {AMD} ready: 0x80070005"),
    ],
)
def test_what_is_missing_is_named(
    catalogue: Callable[..., list[bool]], registered: dict[str, str], entries: list[Entry], expected: str
) -> None:
    closed = catalogue(*entries)
    with pytest.raises(ModelUnavailable, match=expected):
        windows_ml.plugin_devices("amdgpu")
    assert closed == [True]
    assert registered == {}


def test_an_older_windows_says_so(catalogue: Callable[..., list[bool]]) -> None:
    catalogue(failure=OSError("class not registered"))
    with pytest.raises(windows_ml.NoCatalogue, match="no catalogue of providers: class not registered"):
        windows_ml.providers()
    with pytest.raises(ModelUnavailable, match="windowsml:amdgpu cannot be used: this Windows has no catalogue"):
        windows_ml.plugin_devices("amdgpu")


def test_without_the_package_nothing_is_tried() -> None:
    with pytest.raises(windows_ml.NoCatalogue, match="the package windowsml cannot be imported"):
        windows_ml.providers()


def test_a_library_that_cannot_be_loaded_is_told(catalogue: Callable[..., list[bool]]) -> None:
    """By onnxruntime itself: there is no such file."""
    catalogue(Entry(AMD, library_path="/nowhere/provider.so"))
    with pytest.raises(ModelUnavailable, match=rf"onnxruntime cannot load {AMD} \(/nowhere/provider.so\)"):
        windows_ml.plugin_devices("amdgpu")


def test_a_provider_without_a_device_is_told(
    catalogue: Callable[..., list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue(Entry(AMD))
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda name, path: None)
    with pytest.raises(ModelUnavailable, match=f"{AMD} finds no device"):
        windows_ml.plugin_devices("amdgpu")
