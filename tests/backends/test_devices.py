"""Placement, dtypes, budgets, threads, ledger, and the probe process."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import devices, inventory
from backends.devices import (
    LIBRARY_BYTES,
    UNLIMITED,
    WEIGHTS_FACTOR,
    WORKER_BYTES,
    DeviceManager,
    parse_bytes,
    resolve_dtype,
)
from backends.dxgi import Adapter
from backends.interface import ModelUnavailable, Placement
from backends.inventory import Device, Inventory, cpu_device, physical_cores, probe
from backends.registry import BackendInfo, backend_info
from backends.windows_ml import CatalogueProvider, NoCatalogue
from tests.support.waiting import LIMIT

GIB = 1 << 30
CPU = Device("cpu", "cpu", "CPU", 16 * GIB, 10 * GIB)
CUDA = Device("cuda:0", "cuda", "RTX", 24 * GIB, 20 * GIB, ("float32", "float16", "bfloat16"), ("torch",))
OLD = Device("cuda:0", "cuda", "GTX", 8 * GIB, 8 * GIB, ("float32", "float16"), ("torch",))
DML = Device("directml:0", "directml", "Radeon", 0, 0, ("float32", "float16"), ("onnxruntime",))
WINDOWS_ML = Device("windowsml:amdgpu", "windowsml", "AMDGPUExecutionProvider", 0, 0, ("float32",), ("onnxruntime",))
MPS = Device("mps", "mps", "Apple", 16 * GIB, 16 * GIB, ("float32", "float16", "bfloat16"), ("torch",))
WHISPER, LLASA = backend_info("whisper"), backend_info("llasa")


def manager(
    *found: Device, cores: int = 8, budget: Any = "auto", notes: tuple[tuple[str, str], ...] = ()
) -> DeviceManager:
    return DeviceManager(budget, inventory=Inventory((*found, CPU), cores, notes))


def place(info: BackendInfo, *found: Device, **keys: Any) -> tuple[str, str, str]:
    placement = manager(*found).place(info, **keys).placement
    return placement.device, placement.engine, placement.dtype


def only(*engines: str) -> Any:
    """The libraries of these engines are installed."""
    return lambda engine: engine in engines


def test_whisper_takes_the_best_device_that_an_installed_engine_can_use() -> None:
    assert place(WHISPER) == ("cpu", "onnx", "auto")
    assert place(WHISPER, DML) == ("directml:0", "onnx", "float32")
    assert place(WHISPER, CUDA, DML) == ("cuda:0", "torch", "bfloat16")
    assert place(WHISPER, CUDA, DML, has_libraries=only("onnx")) == ("directml:0", "onnx", "float32")
    assert place(WHISPER, CUDA, has_libraries=only("onnx")) == ("cpu", "onnx", "auto")
    assert place(WHISPER, CUDA, engine="onnx") == ("cpu", "onnx", "auto")
    assert place(WHISPER, MPS) == ("mps", "torch", "bfloat16")


def test_a_provider_of_windows_ml_is_used_only_where_it_is_named() -> None:
    assert place(WHISPER, WINDOWS_ML) == ("cpu", "onnx", "auto")
    assert place(WHISPER, WINDOWS_ML, DML) == ("directml:0", "onnx", "float32")
    assert place(WHISPER, WINDOWS_ML, DML, device="windowsml:amdgpu") == ("windowsml:amdgpu", "onnx", "float32")
    with pytest.raises(ModelUnavailable, match="llasa cannot run on 'windowsml:amdgpu' here"):
        place(LLASA, WINDOWS_ML, device="windowsml:amdgpu")
    with pytest.raises(
        ModelUnavailable, match=r"whisper cannot run on 'windowsml:amdgpu' here; .* \(opt-in: the package"
    ):
        manager(notes=(("windowsml", "opt-in: the package windowsml is not installed"),)).place(
            WHISPER, device="windowsml:amdgpu"
        )


def test_torch_backends_take_cuda_first() -> None:
    assert place(LLASA, OLD) == ("cuda:0", "torch", "float16")
    assert place(LLASA, DML) == ("cpu", "torch", "auto")


def test_a_preference_is_a_command() -> None:
    assert place(WHISPER, CUDA, device="cpu") == ("cpu", "onnx", "auto")
    assert place(WHISPER, CUDA, device="cuda", dtype="float32") == ("cuda:0", "torch", "float32")
    with pytest.raises(ModelUnavailable, match=r"cannot run on 'cuda:1' here; this machine has cuda:0 \(RTX\), cpu"):
        place(WHISPER, CUDA, device="cuda:1")
    with pytest.raises(ModelUnavailable, match="no engine 'tensorrt'"):
        place(WHISPER, engine="tensorrt")
    with pytest.raises(ModelUnavailable, match="cannot run on 'directml:0'"):
        place(LLASA, DML, device="directml:0")


def test_falling_back_to_the_cpu_names_the_cause() -> None:
    decision = manager(notes=(("cuda", "torch is not installed"),)).place(WHISPER)
    assert "no cuda (torch is not installed)" in decision.fell_back
    assert decision.fell_back in decision.placement.reason
    there = manager(CUDA).place(WHISPER, has_libraries=only("onnx"))
    assert "cuda is there, but no installed engine" in there.fell_back
    assert manager(CUDA).place(WHISPER).fell_back == ""
    assert manager().place(backend_info("espeak")).fell_back == ""  # it wants nothing else
    assert manager(CUDA).place(WHISPER, device="cpu").fell_back == ""  # asked for


def test_another_interpreter_has_its_own_devices() -> None:
    m = manager()
    m.learn(Inventory((DML, CPU), 8), "other-python")
    assert m.place(WHISPER).placement.device == "cpu"
    assert m.place(WHISPER, python="other-python").placement.device == "directml:0"
    assert [d.id for d in m.inventory.devices] == ["directml:0", "cpu"]  # shown, once


@pytest.mark.parametrize(
    ("device", "dtype"),
    [(CUDA, "bfloat16"), (OLD, "float16"), (DML, "float32"), (CPU, "auto"), (MPS, "bfloat16")],
)
def test_dtype_rules(device: Device, dtype: str) -> None:
    assert resolve_dtype("auto", device) == dtype
    assert resolve_dtype("int8", device) == "int8"


# --- Sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("14GiB", 14 * GIB),
        ("800 MB", 800_000_000),
        ("1.5kib", 1536),
        (7, 7),
        ("7", 7),
        ("0", 0),
        (" 2 gb ", 2 * 10**9),
        ("3B", 3),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", -1, "1e9", "5 apples", "1,5GB", "one"])
def test_wrong_sizes(text: str | int) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


@given(st.integers(0, 2**60))
def test_every_number_of_bytes_survives(size: int) -> None:
    assert parse_bytes(size) == parse_bytes(str(size)) == parse_bytes(f"{size}B") == size


def test_budgets() -> None:
    auto = manager(CUDA)
    assert auto.budget("cuda:0") == int(0.9 * 20 * GIB)
    assert auto.budget("cpu") == int(0.8 * 10 * GIB)
    assert manager(DML).budget("directml:0") == UNLIMITED  # does not tell its memory
    set_ones = manager(CUDA, budget={"cuda": "14GiB", "cpu": 5})
    assert set_ones.budget("cuda:0") == 14 * GIB
    assert set_ones.budget("cpu") == 5


# --- Threads ----------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.integers(1, 64), st.lists(st.booleans(), max_size=20))
def test_threads_are_never_oversubscribed_by_more_than_one_per_worker(cores: int, single: list[bool]) -> None:
    m = manager(cores=cores)
    given = [m.claim_threads(str(i), alone=False, single=one) for i, one in enumerate(single)]
    assert all(threads >= 1 for threads in given)
    several = sum(threads for threads in given if threads > 1)
    assert several <= cores
    for i in range(len(single)):
        m.release_threads(str(i))
    assert m.claim_threads("new", alone=True, single=False) == cores


def test_threads_are_shared_by_halves() -> None:
    m = manager(cores=8)
    assert [m.claim_threads(n, alone=False, single=False) for n in "abcde"] == [4, 2, 1, 1, 1]
    m.release_threads("a")
    assert m.claim_threads("f", alone=False, single=False) >= 1


# --- FootprintCache ---------------------------------------------------------------------------------------------------


def test_measured_footprints_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "footprints.json"
    first = DeviceManager(footprint_cache=path)
    key = first.key(WHISPER, "m", Placement("cpu", "int8", "onnx"), {"max_batch": 8})
    assert first.expect(key, 1000) == WORKER_BYTES + int(WEIGHTS_FACTOR * 1000)
    first.record(key, 5000)
    assert DeviceManager(footprint_cache=path).expect(key, 1000, ("torch",)) == 5000
    other = first.key(WHISPER, "m", Placement("cpu", "int8", "onnx"), {"max_batch": 1})
    assert other != key


def test_an_unmeasured_worker_is_expected_to_hold_its_libraries_too() -> None:
    """A tiny model in a large process: what is imported counts, and what is not known to be large does not."""
    m = DeviceManager()
    assert m.expect("new", 1000, ("torch", "safetensors")) == m.expect("new", 1000) + LIBRARY_BYTES["torch"]
    assert m.known("new") == 0


def test_the_footprint_cache_keeps_the_most_a_model_held_and_forgets_one_unusual_job() -> None:
    m = DeviceManager()
    m.record("k", 1000)
    m.record("k", 500)  # a living worker that shrinks may grow again
    assert m.known("k") == 1000
    m.record_life("k", 500)
    assert m.known("k") == 900
    for _ in range(10):
        m.record_life("k", 500)
    assert m.known("k") == 500
    m.record_life("k", 700)
    assert m.known("k") == 700


def test_a_footprint_cache_that_is_damaged_or_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    DeviceManager(footprint_cache=tmp_path / "bad.json").record("k", 5)
    assert json.loads((tmp_path / "bad.json").read_text(encoding="utf-8")) == {"k": 5}
    (tmp_path / "file").write_text("", encoding="utf-8")
    m = DeviceManager(footprint_cache=tmp_path / "file" / "x.json")
    m.record("k", 5)
    assert m.expect("k", 0) == 5


# --- The probe --------------------------------------------------------------------------------------------------------


def test_the_processor_is_known_without_any_library() -> None:
    cpu = cpu_device()
    assert cpu.memory_total >= cpu.memory_free > 0
    assert cpu.name
    assert 1 <= physical_cores() <= 1024


def test_importing_the_manager_imports_no_tensor_library() -> None:
    heavy = "('torch', 'onnxruntime', 'huggingface_hub')"
    code = f"import sys, backends.devices, backends.weights; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class FakeTorch(types.ModuleType):
    """As much of torch as the probe looks at."""

    def __init__(self, **keys: Any) -> None:
        super().__init__("torch")
        nothing = types.SimpleNamespace(is_available=lambda: False)
        self.__version__ = "2.13.0"
        self.version = types.SimpleNamespace(cuda="13.0", hip=None)
        self.cuda = keys.get("cuda", nothing)
        self.xpu = keys.get("xpu", nothing)
        self.backends = types.SimpleNamespace(mps=keys.get("mps", nothing))
        self.mps = keys.get("mps", nothing)


@pytest.fixture
def with_torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(module: FakeTorch | None, version: str = "2.13.0+cu130") -> None:
        real = importlib.metadata.version
        monkeypatch.setattr(importlib.metadata, "version", lambda n: version if n == "torch" else real(n))
        monkeypatch.setitem(sys.modules, "torch", module)
        monkeypatch.setattr(inventory, "_onnx_providers", lambda: ("CPUExecutionProvider",))
        monkeypatch.setattr(inventory, "_may_have_gpu", lambda: True)

    return install


def test_cuda_cards_are_listed_with_their_dtypes(with_torch: Any) -> None:
    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        mem_get_info=lambda i: (5, 10),
        get_device_name=lambda i: f"card {i}",
        get_device_capability=lambda i: ((9, 0), (7, 5))[i],
    )
    with_torch(FakeTorch(cuda=cuda))
    new, old, cpu = probe().devices
    assert (new.id, new.name, new.memory_total, new.memory_free, new.driver) == ("cuda:0", "card 0", 10, 5, "CUDA 13.0")
    assert "bfloat16" in new.dtypes
    assert "bfloat16" not in old.dtypes
    assert cpu.id == "cpu"


def test_intel_and_apple_gpus_are_listed(with_torch: Any) -> None:
    xpu = types.SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_properties=lambda i: types.SimpleNamespace(name="Arc", total_memory=9),
    )
    mps = types.SimpleNamespace(is_available=lambda: True, recommended_max_memory=lambda: 7)
    with_torch(FakeTorch(xpu=xpu, mps=mps))
    assert [(d.id, d.memory_total) for d in probe().devices[:2]] == [("xpu:0", 9), ("mps", 7)]


def test_why_there_is_no_gpu_is_told(with_torch: Any) -> None:
    with_torch(FakeTorch())
    assert "finds no usable GPU" in dict(probe().notes)["cuda"]
    with_torch(None, "2.13.0+cpu")
    assert "a build for the CPU only" in dict(probe().notes)["cuda"]
    with_torch(None)  # installed, but its import fails
    assert "cannot be imported" in dict(probe().notes)["cuda"]


def test_without_torch_the_probe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert dict(probe().notes)["cuda"] == "torch is not installed"


real_version = importlib.metadata.version
RADEON = Adapter(0, "Radeon 780M", GIB // 2, 12 * GIB, True, "32.0.11.12")
GEFORCE = Adapter(2, "GeForce", 8 * GIB, 16 * GIB, False)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch, with_torch: Any) -> Callable[..., None]:
    """Call it with the adapters that DXGI shall list, and what can drive them."""

    def windows(*adapters: Adapter, onnx: bool = True, torch: Sequence[str] = ()) -> None:
        with_torch(None, "2.13.0+cpu")
        real = importlib.import_module
        dml = types.SimpleNamespace(device_count=lambda: len(torch), device_name=lambda i: torch[i] + "\0")
        monkeypatch.setattr(
            importlib, "import_module", lambda name: dml if name == "torch_directml" and torch else real(name)
        )
        monkeypatch.setattr(inventory.platform, "system", lambda: "Windows")
        monkeypatch.setattr(inventory, "_memory", lambda: (32 * GIB, 10 * GIB))
        monkeypatch.setattr(inventory, "_onnx_providers", lambda: ("DmlExecutionProvider",) if onnx else ())
        monkeypatch.setattr(inventory.dxgi, "adapters", lambda: list(adapters))

    return windows


def test_directml_needs_a_library(windows: Callable[..., None]) -> None:
    windows(RADEON, onnx=False)
    assert "neither onnxruntime-windowsml, onnxruntime-directml nor torch-directml" in dict(probe().notes)["directml"]


def test_directml_devices_are_dxgis_adapters_with_their_numbers(windows: Callable[..., None]) -> None:
    windows(RADEON, GEFORCE)
    radeon, geforce, _ = probe().devices
    assert (radeon.id, radeon.name, radeon.libraries, radeon.driver) == (
        "directml:0",
        "Radeon 780M",
        ("onnxruntime",),
        "32.0.11.12",
    )
    assert (radeon.memory_total, radeon.memory_free) == (GIB // 2 + 12 * GIB, GIB // 2 + 10 * GIB), (
        "the system's memory, too"
    )
    assert (geforce.id, geforce.memory_total, geforce.memory_free) == ("directml:2", 8 * GIB, 8 * GIB), (
        "its own memory only"
    )


def test_without_an_adapter_there_is_no_directml(windows: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    windows()
    assert [device.id for device in probe().devices] == ["cpu"]
    assert "no adapter" in dict(probe().notes)["directml"]

    def refuses() -> list[Adapter]:
        raise OSError("no DirectX 12 here")

    monkeypatch.setattr(inventory.dxgi, "adapters", refuses)
    assert [device.id for device in probe().devices] == ["cpu"]
    assert "no DirectX 12 here" in dict(probe().notes)["directml"]


def test_torch_and_onnx_share_a_device_only_where_they_mean_the_same(windows: Callable[..., None]) -> None:
    second = Adapter(1, "GeForce", 8 * GIB, 0, False)
    windows(RADEON, second, torch=["Radeon 780M", "GeForce"])
    assert [device.libraries for device in probe().devices[:-1]] == [("torch", "onnxruntime")] * 2
    windows(RADEON, second, torch=["GeForce", "Radeon 780M"])
    assert [device.libraries for device in probe().devices[:-1]] == [("onnxruntime",)] * 2
    windows(RADEON, second, onnx=False, torch=["GeForce", "Radeon 780M"])
    assert [(device.id, device.name) for device in probe().devices[:-1]] == [
        ("directml:0", "GeForce"),
        ("directml:1", "Radeon 780M"),
    ]


def offers(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], list[CatalogueProvider]]) -> None:
    """The package windowsml is installed, and its catalogue answers so."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.5.96" if name == "windowsml" else "2.13.0+cpu")
    monkeypatch.setattr(inventory.windows_ml, "providers", answer)


def test_providers_of_windows_ml_are_devices_once_they_are_fetched(
    windows: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    windows(RADEON)
    assert "windowsml" not in {device.kind for device in probe().devices}
    amd = CatalogueProvider("amdgpu", "AMDGPUExecutionProvider", "1.8", is_present=True)
    other = CatalogueProvider("migraphx", "MIGraphXExecutionProvider", "2.19", is_present=False)
    offers(monkeypatch, lambda: [amd, other])
    found = probe()
    assert [(device.id, device.name, device.driver) for device in found.devices] == [
        ("directml:0", "Radeon 780M", "32.0.11.12"),
        ("windowsml:amdgpu", "AMDGPUExecutionProvider", "1.8"),
        ("cpu", found.devices[-1].name, ""),
    ]
    assert dict(found.notes)["windowsml"] == "to be fetched: speech-gateway pull windowsml:migraphx"


def test_why_there_is_no_provider_of_windows_ml(windows: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    windows(RADEON)
    monkeypatch.setattr(importlib.metadata, "version", real_version)
    assert dict(probe().notes)["windowsml"] == "opt-in: the package windowsml is not installed"

    def fails() -> list[CatalogueProvider]:
        raise NoCatalogue("this Windows has no Windows ML: module not found")

    offers(monkeypatch, fails)
    assert dict(probe().notes)["windowsml"] == "this Windows has no Windows ML: module not found"
    offers(monkeypatch, list)
    assert dict(probe().notes)["windowsml"] == "the catalogue has no provider for this machine's graphics"


def test_torch_directml_that_cannot_load_its_library_is_no_crash(
    monkeypatch: pytest.MonkeyPatch, with_torch: Any
) -> None:
    """On plain Linux the import dies with OSError: libd3d12.so."""
    with_torch(None, "2.13.0+cpu")
    monkeypatch.setattr(inventory.platform, "system", lambda: "Windows")
    real = importlib.import_module

    def fails(name: str) -> Any:
        if name == "torch_directml":
            raise OSError("libd3d12.so: cannot open shared object file")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", fails)
    assert [d.id for d in probe().devices] == ["cpu"]


def test_the_probe_process_answers_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "backends.devices", "--json"], capture_output=True, check=True, timeout=LIMIT
    )
    found = devices.parse_inventory(b"a library prints this first\n" + done.stdout)
    assert found.devices[-1].id == "cpu"
    assert found.cores >= 1


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"{}", b'{"devices": [{}], "cores": 1, "notes": []}'])
def test_a_broken_probe_is_an_error(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"probe|Expecting"):
        devices.parse_inventory(answer)


def test_the_listing_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "probe", lambda: Inventory((CUDA, CPU), 4, (("mps", "not a Mac"),)))
    assert devices.main([]) == 0
    out = capsys.readouterr().out
    assert "RTX, 24.0 GiB" in out
    assert "no mps: not a Mac" in out
