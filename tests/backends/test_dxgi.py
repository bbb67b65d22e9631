"""DXGI's adapters through a table of methods like Windows', written in Python."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from backends import dxgi
from backends.dxgi import Adapter, adapters_of

FAILED, NOT_FOUND = -0x7FFFBFFB, -0x7785FFFE  # E_FAIL, DXGI_ERROR_NOT_FOUND
GIB = 1 << 30


class Interface:
    """A COM object of as many methods as needed: a pointer to a table of functions. released: how often it was."""

    def __init__(self, methods: dict[int, Callable[..., int]], types: dict[int, tuple[Any, ...]]) -> None:
        self.released = 0
        table = (ctypes.c_void_p * 20)()
        self._kept: list[Any] = [table]
        for slot, method in {**methods, 2: self._release}.items():
            function = dxgi._Function(ctypes.c_int, ctypes.c_void_p, *types.get(slot, ()))(method)
            self._kept.append(function)
            table[slot] = ctypes.cast(function, ctypes.c_void_p)
        self._start = ctypes.c_void_p(ctypes.addressof(table))

    def _release(self, this: int) -> int:
        self.released += 1
        return 0

    @property
    def address(self) -> int:
        return ctypes.addressof(self._start)


@dataclass
class Card:
    """An adapter of the fake Windows. device: whether DirectX 12 accepts it; unified: None where it does not tell."""

    name: str
    video: int = 0
    shared: int = 0
    vendor: int = 0x1002
    number: int = 0x15BF
    flags: int = 0
    device: bool = True
    unified: bool | None = False
    driver: int | None = 0x0020_0000_000B_000C
    made: list[Interface] = field(default_factory=list)


def _write(address: int, value: int) -> int:
    ctypes.c_void_p.from_address(address).value = value
    return 0


class Windows:
    """The two libraries with these cards."""

    def __init__(self, *cards: Card) -> None:
        self.cards = cards
        pointer = ctypes.c_void_p
        self.adapters = [
            Interface({9: self._driver(card), 10: self._describe(card)}, {9: (pointer, pointer), 10: (pointer,)})
            for card in cards
        ]
        self.factory = Interface({12: self._enumerate}, {12: (ctypes.c_uint, pointer)})
        self.dxgi = SimpleNamespace(CreateDXGIFactory1=self._make_factory)
        self.d3d12 = SimpleNamespace(D3D12CreateDevice=self._make_device)

    def _make_factory(self, identifier: Any, out: Any) -> int:
        assert identifier.raw.hex() == "78ae0a776ff2ba4da829253c83d1b387"
        return _write(ctypes.addressof(out._obj), self.factory.address)

    def _enumerate(self, this: int, number: int, out: int) -> int:
        return _write(out, self.adapters[number].address) if number < len(self.adapters) else NOT_FOUND

    def _make_device(self, adapter: ctypes.c_void_p, level: int, identifier: Any, out: Any) -> int:
        assert level == 0xB000
        card = next(c for c, a in zip(self.cards, self.adapters, strict=True) if a.address == adapter.value)
        if not card.device:
            return FAILED
        types = {13: (ctypes.c_uint, ctypes.c_void_p, ctypes.c_uint)}
        card.made.append(Interface({13: self._architecture(card)}, types))
        return _write(ctypes.addressof(out._obj), card.made[-1].address)

    @staticmethod
    def _describe(card: Card) -> Callable[..., int]:
        def describe(this: int, out: int) -> int:
            description = dxgi._Description.from_address(out)
            text = card.name.encode("utf-16-le") + bytes(2)
            ctypes.memmove(description.name, text, len(text))
            description.vendor, description.device, description.flags = card.vendor, card.number, card.flags
            description.dedicated_video, description.shared_system = card.video, card.shared
            return 0

        return describe

    @staticmethod
    def _architecture(card: Card) -> Callable[..., int]:
        def check(this: int, feature: int, out: int, size: int) -> int:
            assert (feature, size) == (1, 16)
            if card.unified is None:
                return FAILED
            dxgi._Architecture.from_address(out).unified = int(card.unified)
            return 0

        return check

    @staticmethod
    def _driver(card: Card) -> Callable[..., int]:
        def check(this: int, identifier: int, out: int) -> int:
            if card.driver is None:
                return FAILED
            ctypes.c_uint64.from_address(out).value = card.driver
            return 0

        return check

    def found(self) -> list[Adapter]:
        return adapters_of(self.dxgi, self.d3d12)


def test_an_integrated_and_a_separate_card() -> None:
    windows = Windows(
        Card("AMD Radeon(TM) 780M", GIB // 2, 12 * GIB, unified=True),
        Card("NVIDIA GeForce", 8 * GIB, 16 * GIB, driver=None),
    )
    assert windows.found() == [
        Adapter(0, "AMD Radeon(TM) 780M", GIB // 2, 12 * GIB, True, "32.0.11.12"),
        Adapter(1, "NVIDIA GeForce", 8 * GIB, 16 * GIB, False, ""),
    ]


def test_a_name_in_any_language() -> None:
    assert Windows(Card("内蔵グラフィックス")).found()[0].name == "内蔵グラフィックス"


def test_software_is_no_gpu_but_keeps_its_number() -> None:
    """DirectML counts it."""
    windows = Windows(
        Card("Microsoft Basic Render Driver", flags=2),
        Card("Basic", vendor=0x1414, number=0x8C),
        Card("Arc"),
    )
    assert [(adapter.number, adapter.name) for adapter in windows.found()] == [(2, "Arc")]
    assert not windows.cards[0].made


def test_a_card_that_directx_12_refuses_is_no_device() -> None:
    assert Windows(Card("Old", device=False)).found() == []
    assert Windows().found() == []


def test_a_driver_that_does_not_tell_its_memory_is_taken_for_a_separate_card() -> None:
    assert Windows(Card("Odd", GIB, GIB, unified=None)).found() == [Adapter(0, "Odd", GIB, GIB, False, "32.0.11.12")]


def test_everything_is_given_back_once() -> None:
    windows = Windows(Card("A"), Card("B", device=False))
    windows.found()
    devices = [device for card in windows.cards for device in card.made]
    assert [interface.released for interface in [windows.factory, *windows.adapters, *devices]] == [1, 1, 1, 1]


def test_a_dxgi_that_refuses_is_an_error() -> None:
    windows = Windows()
    windows.dxgi.CreateDXGIFactory1 = lambda *_: FAILED
    with pytest.raises(OSError, match="0x80004005"):
        windows.found()


@pytest.mark.skipif(sys.platform == "win32", reason="where there is no DirectX")
def test_elsewhere_there_is_no_directx() -> None:
    with pytest.raises(OSError, match="Windows only"):
        dxgi.adapters()
