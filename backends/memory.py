"""Memory of this process and its devices: how much it holds, whether an error means that it ran out, how to free some.

Stands between the step loop and whatever numeric libraries are loaded; imports none of them itself.
"""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path

from backends.device_loss import device_lost
from backends.interface import OutOfMemory

# What torch (CUDA, ROCm, XPU, MPS, its CPU allocator), DirectML, onnxruntime and drivers say when memory is gone.
_PATTERNS = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|failed to allocate|bad_alloc"
    r"|unable to allocate|alloc_failed|could not allocate|insufficient memory|E_OUTOFMEMORY|0?x?8007000E"
    r"|not enough (?:gpu )?(?:video )?memory|ENOMEM|BFCArena.*(?:memory|size)|paging file is too small",
    re.IGNORECASE,
)
_TYPES = {"OutOfMemoryError", "OutOfMemory"}  # torch.OutOfMemoryError, and the same from libraries that wrap it


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that it was raised from, says that host or device memory is exhausted; a device that
    is lost has no memory to run out of."""
    if device_lost(error):
        return False
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | OutOfMemory) or type(seen).__name__ in _TYPES:
            return True
        if _is_of_a_library(seen) and _PATTERNS.search(str(seen)):
            return True
        seen = seen.__cause__
    return False


def _is_of_a_library(error: BaseException) -> bool:
    """Whether the text of the error may be a library's or the system's: onnxruntime's own derive from Exception."""
    return isinstance(error, RuntimeError | OSError) or type(error).__module__.startswith("onnxruntime")


def free_caches() -> None:
    """Give back what no tensor uses: garbage first, then the caching allocators of torch, where torch is loaded."""
    gc.collect()
    torch = sys.modules.get("torch")
    for name in ("cuda", "xpu", "mps"):
        empty = getattr(getattr(torch, name, None), "empty_cache", None)
        if empty is None:
            continue
        try:
            empty()
        except (RuntimeError, AssertionError) as error:  # the library has the module but not the device
            print(f"could not empty the {name} cache: {error}", file=sys.stderr)


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class _Counters(ctypes.Structure):
        _fields_ = (
            ("cb", wintypes.DWORD),
            ("faults", wintypes.DWORD),
            *(
                (name, ctypes.c_size_t)
                for name in ("peak", "working_set", "pool_a", "pool_b", "pool_c", "pool_d", "file", "top")
            ),
        )

    def resident_bytes() -> int:
        """Memory of this process that lies in RAM, bytes; 0 where the system does not tell."""
        counters = _Counters()
        counters.cb = ctypes.sizeof(counters)
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        kernel.K32GetProcessMemoryInfo.argtypes = (wintypes.HANDLE, ctypes.POINTER(_Counters), wintypes.DWORD)
        done = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
        return int(counters.working_set) if done else 0

elif sys.platform == "linux":
    import resource

    def resident_bytes() -> int:
        """Memory of this process that lies in RAM, bytes."""
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()

else:
    import resource

    def resident_bytes() -> int:
        """Memory of this process that lies in RAM, bytes: its peak, which is all that macOS tells without a library."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
