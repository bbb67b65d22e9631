"""The graphics adapters of Windows that DirectX 12 can compute on, as DXGI lists them.

Owns the few calls into dxgi.dll and d3d12.dll; `backends.inventory` makes them in a process of its own, so that a
driver that crashes takes nothing else down. ONNX Runtime's DirectML provider counts adapters in this order, software
ones included.
The positions of the methods, the structures and the constants are those of dxgi.h and d3d12.h in the Windows SDK.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

_IID_FACTORY1 = UUID("770aae78-f26f-4dba-a829-253c83d1b387")  # IDXGIFactory1
_IID_DXGI_DEVICE = UUID("54ec77fa-1377-44e6-8c32-88fd5f44c84c")  # IDXGIDevice, by which the driver's version is asked
_IID_DEVICE = UUID("189819f1-1db6-4b57-be54-1821339b85f7")  # ID3D12Device
_FEATURE_LEVEL_11_0 = 0xB000  # the least that DirectML asks for
_RELEASE = 2  # of IUnknown
_ENUM_ADAPTERS1 = 12  # of IDXGIFactory1
_CHECK_INTERFACE_SUPPORT, _GET_DESC1 = 9, 10  # of IDXGIAdapter1
_CHECK_FEATURE_SUPPORT = 13  # of ID3D12Device
_FEATURE_ARCHITECTURE = 1
_FLAG_SOFTWARE = 2
_BASIC_RENDER_DRIVER = (
    0x1414,
    0x8C,
)  # vendor and device of Microsoft's software adapter, which not always has the flag
_MOST_ADAPTERS = 16

_Function: Any = getattr(ctypes, "WINFUNCTYPE", ctypes.CFUNCTYPE)


@dataclass(frozen=True, slots=True)
class Adapter:
    """number: by which DirectML knows it; dedicated, shared: bytes of its own memory and of the system's that it may
    use; unified: it has no memory apart from the system's, as integrated GPUs; driver: version, "" where it is not
    told."""

    number: int
    name: str
    dedicated: int
    shared: int
    unified: bool
    driver: str = ""


class _Description(ctypes.Structure):
    """DXGI_ADAPTER_DESC1. The name is 128 UTF-16 units, which ctypes' own wide characters are on Windows only."""

    _fields_ = (
        ("name", ctypes.c_uint16 * 128),
        ("vendor", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("subsystem", ctypes.c_uint),
        ("revision", ctypes.c_uint),
        ("dedicated_video", ctypes.c_size_t),
        ("dedicated_system", ctypes.c_size_t),
        ("shared_system", ctypes.c_size_t),
        ("luid_low", ctypes.c_uint),
        ("luid_high", ctypes.c_int),
        ("flags", ctypes.c_uint),
    )


class _Architecture(ctypes.Structure):
    """D3D12_FEATURE_DATA_ARCHITECTURE."""

    _fields_ = (
        ("node", ctypes.c_uint),
        ("tile_based", ctypes.c_int),
        ("unified", ctypes.c_int),
        ("cache_coherent", ctypes.c_int),
    )


def adapters() -> list[Adapter]:
    """Those that DirectX 12 can make a device of. Raises OSError where there is no DirectX 12 or DXGI refuses."""
    if sys.platform == "win32":
        return adapters_of(ctypes.WinDLL("dxgi"), ctypes.WinDLL("d3d12"))
    raise OSError("DirectX exists on Windows only")


def adapters_of(dxgi: Any, d3d12: Any) -> list[Adapter]:
    """As `adapters`, of these libraries."""
    factory = ctypes.c_void_p()
    status = int(dxgi.CreateDXGIFactory1(_guid(_IID_FACTORY1), ctypes.byref(factory)))
    if status < 0:
        raise OSError(f"DXGI answers {status & 0xFFFFFFFF:#010x}")
    with _released(factory):
        adapters = (_adapter(factory, number, d3d12) for number in range(_MOST_ADAPTERS))
        return [adapter for adapter in adapters if adapter is not None]


def _adapter(factory: ctypes.c_void_p, number: int, d3d12: Any) -> Adapter | None:
    adapter, description = ctypes.c_void_p(), _Description()
    if _call(factory, _ENUM_ADAPTERS1, ctypes.c_uint(number), ctypes.byref(adapter)) < 0:
        return None
    with _released(adapter):
        if _call(adapter, _GET_DESC1, ctypes.byref(description)) < 0 or _is_software(description):
            return None
        unified = _is_unified(adapter, d3d12)
        if unified is None:
            return None
        name = bytes(description.name).decode("utf-16-le", "replace").partition("\0")[0].strip()
        dedicated = description.dedicated_video + description.dedicated_system
        return Adapter(number, name, dedicated, description.shared_system, unified, _driver(adapter))


def _is_software(description: _Description) -> bool:
    return bool(description.flags & _FLAG_SOFTWARE) or (description.vendor, description.device) == _BASIC_RENDER_DRIVER


def _is_unified(adapter: ctypes.c_void_p, d3d12: Any) -> bool | None:
    """Whether its memory is the system's; None where DirectX 12 makes no device of it."""
    device, architecture = ctypes.c_void_p(), _Architecture()
    if (
        d3d12.D3D12CreateDevice(adapter, _FEATURE_LEVEL_11_0, _guid(_IID_DEVICE), ctypes.byref(device)) < 0
        or not device
    ):
        return None
    with _released(device):
        size = ctypes.c_uint(ctypes.sizeof(architecture))
        asked = ctypes.c_uint(_FEATURE_ARCHITECTURE)
        succeeded = _call(device, _CHECK_FEATURE_SUPPORT, asked, ctypes.byref(architecture), size) >= 0
        return succeeded and bool(architecture.unified)


def _driver(adapter: ctypes.c_void_p) -> str:
    """Four numbers of 16 bits each, as Windows shows them."""
    version = ctypes.c_uint64()
    if _call(adapter, _CHECK_INTERFACE_SUPPORT, _guid(_IID_DXGI_DEVICE), ctypes.byref(version)) < 0:
        return ""
    return ".".join(str(version.value >> shift & 0xFFFF) for shift in (48, 32, 16, 0))


def _guid(identifier: UUID) -> Any:
    return ctypes.create_string_buffer(identifier.bytes_le, 16)


def _call(interface: ctypes.c_void_p, slot: int, *arguments: Any) -> int:
    """The method at a place in the interface's table; its HRESULT, which is negative for an error."""
    table = ctypes.cast(interface, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
    types = [ctypes.c_uint if isinstance(argument, ctypes.c_uint) else ctypes.c_void_p for argument in arguments]
    method = _Function(ctypes.c_int, ctypes.c_void_p, *types)(table[slot])
    return int(method(interface, *arguments))


@contextmanager
def _released(interface: ctypes.c_void_p) -> Iterator[None]:
    try:
        yield
    finally:
        _call(interface, _RELEASE)
