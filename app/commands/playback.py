"""What a conversation says aloud: the audio that waits to be played, and how much of each answer was played.

Owns the count of what was played, by which an interrupted answer is cut. Knows neither sound devices nor the server.
"""

from __future__ import annotations

import io
import threading
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.commands.files import write_whole
from app.commands.sources import RATE, SAMPLE_BYTES


@dataclass(frozen=True, slots=True)
class Cut:
    """An answer that was cut. item_id: of the server; milliseconds: of it that were played."""

    item_id: str
    milliseconds: int


class Speaker(Protocol):
    """Plays 16-bit mono pcm at RATE."""

    def play(self, item_id: str, data: bytes) -> None: ...

    def stop(self) -> Cut | None:
        """Fall silent. None where all had been played."""

    def is_silent(self) -> bool:
        """Whether nobody needs to wait for it."""


class Playlist:
    """Audio for a device that asks for it, from a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._item_id, self._played = "", 0  # bytes

    def play(self, item_id: str, data: bytes) -> None:
        with self._lock:
            if item_id != self._item_id:
                self._item_id, self._played = item_id, -len(self._waiting)  # the one before is played to its end
            self._waiting += data

    def take(self, size: int) -> bytes:
        """The next bytes, filled up with silence."""
        with self._lock:
            piece = bytes(self._waiting[:size])
            del self._waiting[:size]
            self._played += len(piece)
        return piece.ljust(size, b"\0")

    def stop(self) -> Cut | None:
        with self._lock:
            if not self._waiting:
                return None
            self._waiting.clear()
            return Cut(self._item_id, _milliseconds(max(0, self._played)))

    def is_silent(self) -> bool:
        return not self._waiting


class FileSpeaker:
    """Collects what a listener would hear, whose time passes as the clock's. The file is written by `save`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._ends = clock, 0.0  # when all so far would be played
        self._samples, self._item_id, self._item_start = bytearray(), "", 0

    def play(self, item_id: str, data: bytes) -> None:
        if item_id != self._item_id:
            self._item_id, self._item_start = item_id, len(self._samples)
        self._samples += data
        self._ends = max(self._ends, self._clock()) + len(data) / SAMPLE_BYTES / RATE

    def stop(self) -> Cut | None:
        left = round((self._ends - self._clock()) * RATE) * SAMPLE_BYTES
        if left <= 0:
            return None
        end = max(self._item_start, len(self._samples) - left)
        del self._samples[end:]
        self._ends = self._clock()
        return Cut(self._item_id, _milliseconds(end - self._item_start))

    def is_silent(self) -> bool:
        return True

    def save(self, file: Path) -> None:
        """Write a WAV file. Raises NotWritten."""
        out = io.BytesIO()
        with wave.open(out, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(SAMPLE_BYTES)
            sound.setframerate(RATE)
            sound.writeframes(bytes(self._samples))
        write_whole([out.getvalue()], file)


def _milliseconds(size: int) -> int:
    return size * 1000 // (SAMPLE_BYTES * RATE)
