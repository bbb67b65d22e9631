"""The devices of this machine.

Owns the values, what can be said of the processor without any library, and the probes of tensor libraries. Importing
it imports no tensor library; `probe` does, which is why it runs in a process of its own (`backends.devices`). Sizes are
bytes.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import dxgi, windows_ml

# CPU flags with which bfloat16 products are computed and not emulated.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_NO_LIMIT = 1 << 60  # cgroup files hold huge numbers for "no limit"


@dataclass(frozen=True, slots=True)
class Device:
    """id: "cpu", "cuda:0", "directml:0", "windowsml:amdgpu", "mps", "xpu:0"; kind: the id without its number (ROCm
    cards are "cuda", as torch calls them); memory_total 0: unknown; memory_free: at the time of the probe; dtypes: what
    it computes natively; libraries: which of "torch" and "onnxruntime" can use it."""

    id: str
    kind: str
    name: str
    memory_total: int
    memory_free: int
    dtypes: tuple[str, ...] = ("float32",)
    libraries: tuple[str, ...] = ("torch", "onnxruntime")
    driver: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """devices: the CPU last; cores: physical ones that we may use; notes: kind -> why there is none of it."""

    devices: tuple[Device, ...]
    cores: int
    notes: tuple[tuple[str, str], ...] = ()


def cpu_inventory() -> Inventory:
    """What is known at once, before any probe."""
    return Inventory((cpu_device(),), physical_cores(), (("cuda", "devices are being looked for"),))


def probe() -> Inventory:
    """All devices that the libraries of this interpreter can use. Imports them."""
    notes: dict[str, str] = {}
    devices = [*_torch_devices(notes), *_directml_devices(notes), *_windows_ml_devices(notes)]
    return Inventory((*devices, cpu_device()), physical_cores(), tuple(sorted(notes.items())))


# --- The processor ----------------------------------------------------------------------------------------------------


def cpu_device() -> Device:
    total, free = _memory()
    flags = _linux_field("/proc/cpuinfo", "flags", "Features").split()
    dtypes = ("float32", "bfloat16") if _BFLOAT16_FLAGS & set(flags) else ("float32",)
    return Device("cpu", "cpu", _cpu_name(), total, free, dtypes)


def physical_cores() -> int:
    """Cores that this process may use, without their second threads, and not more than a container's quota."""
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))
    cores = len(set(_linux_cores(allowed))) or _other_cores() or len(allowed)
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, -(-int(quota[0]) // int(quota[1])))
    return max(1, cores)


def _linux_cores(allowed: set[int]) -> Iterator[tuple[str, str]]:
    for number in allowed:
        folder = f"/sys/devices/system/cpu/cpu{number}/topology"
        core, package = _read(f"{folder}/core_id"), _read(f"{folder}/physical_package_id")
        if core:
            yield package, core


def _other_cores() -> int:
    command = {
        "darwin": ["sysctl", "-n", "hw.physicalcpu"],
        "win32": ["powershell", "-NoProfile", "-Command", "(Get-CimInstance Win32_Processor).NumberOfCores"],
    }.get(sys.platform)
    return sum(int(line) for line in _output(command).split() if line.isdigit()) if command else 0


def _cpu_name() -> str:
    if sys.platform == "win32":
        return os.environ.get("PROCESSOR_IDENTIFIER", "CPU")
    if sys.platform == "darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or "CPU"
    return _linux_field("/proc/cpuinfo", "model name") or "CPU"


if sys.platform == "win32":
    import ctypes

    class _MemoryStatus(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *(
                (name, ctypes.c_ulonglong)
                for name in ("total", "free", "page", "page_free", "virtual", "virtual_free", "rest")
            ),
        )

    def _memory() -> tuple[int, int]:
        """Total and available physical memory."""
        status = _MemoryStatus()
        status.length = ctypes.sizeof(status)
        ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status.total), int(status.free)

else:

    def _memory() -> tuple[int, int]:
        """Total and available physical memory, of the container if it has less than the machine."""
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        available = _linux_field("/proc/meminfo", "MemAvailable").split()
        free = int(available[0]) * 1024 if available else total // 2
        limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
        if limit.isdigit() and int(limit) < _NO_LIMIT:
            total = min(total, int(limit))
            free = min(free, max(0, int(limit) - int(used or 0)))
        return total, free


def _linux_field(path: str, *names: str) -> str:
    """The value behind the first line "name : value" of a file in /proc, "" elsewhere."""
    for line in _read(path).splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)  # noqa: S603 # fixed commands
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()


# --- Tensor libraries -------------------------------------------------------------------------------------------------


def _torch_devices(notes: dict[str, str]) -> list[Device]:
    """CUDA and ROCm, XPU, MPS; where there can be none, torch is not even imported, which is slow."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        notes.update(dict.fromkeys(("cuda", "xpu", "mps"), "torch is not installed"))
        return []
    if version.endswith("+cpu"):
        notes.update(dict.fromkeys(("cuda", "xpu", "mps"), f"torch {version} is a build for the CPU only"))
        return []
    if not _may_have_gpu():
        notes.update(dict.fromkeys(("cuda", "xpu", "mps"), "the kernel knows no GPU"))
        return []
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        notes.update(dict.fromkeys(("cuda", "xpu", "mps"), f"torch {version} cannot be imported: {error}"))
        return []
    return [*_cuda(torch, notes), *_xpu(torch, notes), *_mps(torch, notes)]


def _may_have_gpu() -> bool:
    """Whether it is worth the seconds that importing torch takes: on Linux every GPU has a device file."""
    files = ("/dev/nvidiactl", "/dev/kfd", "/dev/dri", "/dev/dxg")
    return platform.system() != "Linux" or any(Path(file).exists() for file in files)


def _cuda(torch: Any, notes: dict[str, str]) -> Iterator[Device]:
    hip = getattr(torch.version, "hip", None)
    driver = f"ROCm {hip}" if hip else f"CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        notes["cuda"] = f"torch {torch.__version__} finds no usable GPU ({driver})"
        return
    libraries = ("torch", "onnxruntime") if "CUDAExecutionProvider" in _onnx_providers() else ("torch",)
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name, major = torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)[0]
        dtypes = ("float32", "float16", "bfloat16") if hip or major >= 8 else ("float32", "float16")
        yield Device(f"cuda:{i}", "cuda", name, total, free, dtypes, libraries, driver)


def _xpu(torch: Any, notes: dict[str, str]) -> Iterator[Device]:
    xpu = getattr(torch, "xpu", None)
    if xpu is None or not xpu.is_available():
        notes["xpu"] = f"torch {torch.__version__} finds no Intel GPU"
        return
    for i in range(xpu.device_count()):
        properties = xpu.get_device_properties(i)
        total = int(properties.total_memory)
        yield Device(f"xpu:{i}", "xpu", properties.name, total, total, ("float32", "float16", "bfloat16"), ("torch",))


def _mps(torch: Any, notes: dict[str, str]) -> Iterator[Device]:
    if not torch.backends.mps.is_available():
        notes["mps"] = f"torch {torch.__version__} finds no Apple GPU"
        return
    total = int(torch.mps.recommended_max_memory())
    yield Device("mps", "mps", "Apple GPU", total, total, ("float32", "float16", "bfloat16"), ("torch",))


def _onnx_providers() -> tuple[str, ...]:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except (ImportError, OSError):
        return ()
    return tuple(onnxruntime.get_available_providers())


def _directml_devices(notes: dict[str, str]) -> list[Device]:
    """Adapters that onnxruntime or torch-directml can drive; DXGI tells which there are, their names and memory."""
    if platform.system() != "Windows":
        notes["directml"] = "DirectML exists on Windows only"
        return []
    with_onnx = "DmlExecutionProvider" in _onnx_providers()
    try:
        dml = importlib.import_module("torch_directml")
        names = [str(dml.device_name(i)).strip("\0 ") for i in range(dml.device_count())]
    except (ImportError, OSError):
        names = []
    if not with_onnx and not names:
        notes["directml"] = "neither onnxruntime-windowsml, onnxruntime-directml nor torch-directml is installed"
        return []
    try:
        adapters = dxgi.adapters()
    except OSError as error:
        notes["directml"] = f"DirectX 12 cannot be asked for its adapters: {error}"
        return []
    if not adapters:
        notes["directml"] = "Windows lists no adapter, apart from software, that DirectX 12 can use"
    if with_onnx:
        return [_directml_device(adapter.number, adapter, _libraries_of(adapter, names)) for adapter in adapters]
    by_name = {adapter.name: adapter for adapter in adapters}
    return [_directml_device(i, by_name[name], ("torch",)) for i, name in enumerate(names) if name in by_name]


def _libraries_of(adapter: dxgi.Adapter, torch_names: list[str]) -> tuple[str, ...]:
    """torch-directml counts adapters in an order of its own; a number means one device only where both agree."""
    with_torch = torch_names[adapter.number : adapter.number + 1] == [adapter.name]
    return ("torch", "onnxruntime") if with_torch else ("onnxruntime",)


def _directml_device(number: int, adapter: dxgi.Adapter, libraries: tuple[str, ...]) -> Device:
    """An adapter without memory of its own takes the system's, of which no more is free than the system has."""
    shared = adapter.shared if adapter.unified else 0
    total, free = adapter.dedicated + shared, adapter.dedicated + min(shared, _memory()[1])
    dtypes = ("float32", "float16")
    return Device(f"directml:{number}", "directml", adapter.name, total, free, dtypes, libraries, adapter.driver)


def _windows_ml_devices(notes: dict[str, str]) -> list[Device]:
    """Providers of Windows ML's catalogue that are on this machine. Where the package that reads it is not installed,
    nobody wants them."""
    if platform.system() != "Windows":
        return []
    try:
        importlib.metadata.version("windowsml")
    except importlib.metadata.PackageNotFoundError:
        notes[windows_ml.KIND] = "opt-in: the package windowsml is not installed"
        return []
    try:
        offered = windows_ml.providers()
    except windows_ml.NoCatalogue as error:
        notes[windows_ml.KIND] = str(error)
        return []
    fetchable = [
        f"speech-gateway pull {windows_ml.KIND}:{provider.name}" for provider in offered if not provider.is_present
    ]
    if fetchable:
        notes[windows_ml.KIND] = f"to be fetched: {', '.join(fetchable)}"
    elif not offered:
        notes[windows_ml.KIND] = "the catalogue has no provider for this machine's graphics"
    return [
        Device(
            f"{windows_ml.KIND}:{provider.name}",
            windows_ml.KIND,
            provider.full_name,
            0,
            0,
            ("float32",),
            ("onnxruntime",),
            provider.version,
        )
        for provider in offered
        if provider.is_present
    ]
