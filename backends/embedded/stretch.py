"""Changes the length of speech and keeps its pitch, for rates beyond espeak's own control.

Waveform-similarity overlap-add (WSOLA: Verhelst and Roelands, ICASSP 1993): frames are taken at a changed step, each
shifted a little to where it best continues the one before. Knows nothing of voices or words.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.interface import Samples

_FRAME_SECONDS = 0.030  # two to four pitch periods
_SEARCH_SECONDS = 0.010  # one period of the deepest voice


def stretch(samples: Samples, rate: int, factor: float) -> Samples:
    """`samples` (float32 [time] at `rate` Hz) made `factor` times as long; 1 gives them back unchanged."""
    hop = int(_FRAME_SECONDS * rate) // 2
    if abs(factor - 1) < 0.01 or len(samples) < 4 * hop:
        return samples
    search = int(_SEARCH_SECONDS * rate)
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)  # shifted copies at half a frame add up to one
    padded = np.concatenate([np.zeros(hop + search, np.float32), samples, np.zeros(3 * hop + search, np.float32)])
    frames = int(len(samples) * factor) // hop + 1
    out = np.zeros((frames + 1) * hop, np.float32)
    expected = search  # where the natural continuation of the last frame begins
    for index in range(frames):
        centre = min(search + int(index * hop / factor), len(padded) - 2 * hop - search)
        begin = _best_start(padded, expected, centre, search, hop)
        out[index * hop : (index + 2) * hop] += window * padded[begin : begin + 2 * hop]
        expected = min(begin + hop, len(padded) - 2 * hop)
    return out[hop : hop + int(len(samples) * factor)]


def _best_start(signal: NDArray[np.float32], expected: int, centre: int, search: int, hop: int) -> int:
    """The start within centre ± search whose first half-frame looks most like the one at `expected`."""
    target = signal[expected : expected + hop]
    region = signal[centre - search : centre + search + hop]
    likeness = np.correlate(region, target, mode="valid")
    power = np.cumsum(np.concatenate([[0.0], np.square(region, dtype=np.float64)]))
    energy = power[hop:] - power[:-hop]
    return centre - search + int(np.argmax(likeness / np.sqrt(energy + 1e-9)))
