"""Audio as a realtime session carries it: 16-bit PCM at several rates, and G.711 in both laws.

Owns the bytes of these formats and their length in time. Knows no session; resampling is `resampling.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidRequest
from backends.interface import Samples

Coding = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
G711_RATE = 8000  # Hz, ITU-T G.711
USUAL_RATE = 24_000  # Hz, the only rate of PCM upstream
PCM_RATES = (8000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # others than USUAL_RATE are an extension


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """coding: the `type` of a session's format; rate: Hz."""

    coding: Coding = "audio/pcm"
    rate: int = USUAL_RATE

    @property
    def width(self) -> int:
        """Bytes per sample."""
        return 2 if self.coding == "audio/pcm" else 1

    def seconds(self, size: int) -> float:
        """Length of `size` bytes."""
        return size / (self.width * self.rate)

    def size(self, seconds: float) -> int:
        """Bytes of so many seconds, whole samples."""
        return int(seconds * self.rate) * self.width

    def document(self) -> dict[str, Any]:
        """As a session shows it."""
        return {"type": self.coding, "rate": self.rate} if self.coding == "audio/pcm" else {"type": self.coding}

    def samples(self, data: bytes) -> Samples:
        """float32 [time] at `rate`; whole samples only."""
        if self.coding == "audio/pcm":
            return np.frombuffer(data, "<i2").astype(np.float32) / 32_768.0
        table = _mu_law() if self.coding == "audio/pcmu" else _a_law()
        return table[np.frombuffer(data, np.uint8)].astype(np.float32) / 32_768.0

    def encoded(self, pcm: NDArray[np.int16]) -> bytes:
        """The bytes of 16-bit samples [time] at `rate`."""
        if self.coding == "audio/pcm":
            return pcm.astype("<i2", copy=False).tobytes()
        codes = _nearest_codes(self.coding)[pcm.astype(np.int32) + 32_768]
        return bytes(codes.tobytes())


def read_format(value: object, param: str) -> AudioFormat:
    """A session's `format` object. Raises InvalidRequest."""
    coding = value.get("type", "audio/pcm") if isinstance(value, dict) else None
    if coding in ("audio/pcmu", "audio/pcma"):
        return AudioFormat(coding, G711_RATE)
    if coding != "audio/pcm":
        raise InvalidRequest(f"{param}.type must be audio/pcm, audio/pcmu or audio/pcma.", param=f"{param}.type")
    rate = value.get("rate") if isinstance(value, dict) else None
    if rate is None:
        return AudioFormat()
    if isinstance(rate, bool) or rate not in PCM_RATES:
        known = ", ".join(map(str, PCM_RATES))
        raise InvalidRequest(f"{param}.rate must be one of {known}.", param=f"{param}.rate")
    return AudioFormat("audio/pcm", int(rate))


@cache
def _mu_law() -> NDArray[np.int16]:
    """[256] 16-bit values, ITU-T G.711 table 2a, scaled from 14 bits."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    size = (((code & 0x0F) << 3) + 0x84) << ((code >> 4) & 7)
    return np.where(code & 0x80, 0x84 - size, size - 0x84).astype(np.int16)


@cache
def _a_law() -> NDArray[np.int16]:
    """[256] 16-bit values, ITU-T G.711 table 1a, scaled from 13 bits."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment, step = (code >> 4) & 7, (code & 0x0F) << 4
    size = np.where(segment == 0, step + 8, (step + 0x108) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, size, -size).astype(np.int16)


@cache
def _nearest_codes(coding: Coding) -> NDArray[np.uint8]:
    """[65536] the code nearest to each 16-bit value, -32768 first."""
    table = _mu_law() if coding == "audio/pcmu" else _a_law()
    order = np.argsort(table, kind="stable")
    values = table[order].astype(np.float64)
    borders = (values[1:] + values[:-1]) / 2
    return order[np.searchsorted(borders, np.arange(-32_768, 32_768))].astype(np.uint8)
