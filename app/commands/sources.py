"""Where live audio comes from that is no sound device: a file at the pace of its own time, or a pipe.

Owns decoding and pace. Every source gives 16-bit mono pcm, little endian. Knows no server.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Protocol

import numpy as np

RATE = 24_000  # Hz, of the API's pcm
SAMPLE_BYTES = 2
PIECE_SECONDS = 0.1  # of audio in one event
STANDARD_INPUT, MICROPHONE = "-", "microphone"
_LONGEST_SECONDS = 24 * 3600.0
_MOST_DECODED_BYTES = 1 << 40  # the file is the user's own, so that only its length counts


class NoSource(Exception):
    """There is no audio to be had; the text is for the user."""


class Source(Protocol):
    """rate: of the samples, Hz."""

    @property
    def rate(self) -> int: ...

    def pieces(self, stop: threading.Event) -> Iterator[bytes]:
        """Yield audio as it comes, until there is no more or `stop` is set."""


OpenSource = Callable[[], AbstractContextManager[Source]]


@dataclass(frozen=True, slots=True)
class FileSource:
    """samples: of a whole file, given out as if they were said now."""

    samples: bytes
    rate: int = RATE

    def pieces(self, stop: threading.Event) -> Iterator[bytes]:
        """A piece comes when its last sample has been said."""
        size = round(self.rate * PIECE_SECONDS) * SAMPLE_BYTES
        begun = monotonic()
        for start in range(0, len(self.samples), size):
            piece = self.samples[start : start + size]
            said = begun + (start + len(piece)) / SAMPLE_BYTES / self.rate
            if stop.wait(max(0.0, said - monotonic())):
                return
            yield piece


@dataclass(frozen=True, slots=True)
class PipeSource:
    """Raw samples from another program, passed on as they come."""

    stream: io.RawIOBase
    rate: int = RATE

    def pieces(self, stop: threading.Event) -> Iterator[bytes]:
        most = round(self.rate * PIECE_SECONDS) * SAMPLE_BYTES
        while not stop.is_set() and (piece := self.stream.read(most)):
            yield piece


def standard_input() -> io.RawIOBase:
    """Standard input without Python's buffer, whose lock a thread that waits for audio would hold at the end."""
    return io.FileIO(sys.stdin.fileno(), closefd=False)


def read_file(file: Path) -> tuple[FileSource, str]:
    """Decode any format that the server decodes. Returns with it what of the file could not be read, "" if nothing.

    Raises NoSource, OSError.
    """
    from app.media.decode import decode
    from app.media.pool import SUPPORTED_FORMATS
    from app.media.source import Caps, Unreadable

    pieces: list[bytes] = []
    try:
        source = decode(
            file.read_bytes(),
            RATE,
            Caps(_LONGEST_SECONDS, _MOST_DECODED_BYTES),
            lambda samples: pieces.append(to_pcm16(samples)),
        )
    except Unreadable as error:
        raise NoSource(f"{file}: {str(error).format(formats=SUPPORTED_FORMATS)}") from error
    found = FileSource(b"".join(pieces))
    return found, source.damage.note(len(found.samples) / SAMPLE_BYTES / RATE)


def to_pcm16(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> bytes:
    """samples: float32 [time] in -1..1."""
    return (np.clip(samples, -1.0, 1.0) * 32_767).round().astype("<i2").tobytes()
