"""Decoding in this process, for tests of what is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.media.decode import decode
from app.media.source import Caps, Source

CAPS = Caps(seconds=60.0, decoded_bytes=1 << 28)


def read(data: bytes, rate: int = 16_000, caps: Caps = CAPS) -> tuple[Source, NDArray[np.float32]]:
    """What was read, and float32 [time] at `rate` Hz."""
    pieces: list[NDArray[np.float32]] = []
    source = decode(data, rate, caps, pieces.append)
    return source, np.concatenate([np.zeros(0, np.float32), *pieces])
