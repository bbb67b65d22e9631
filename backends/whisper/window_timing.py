"""How long one real window takes on a device: `python -m backends.whisper.window_timing FOLDER THREADS DEVICE DTYPE`.

A process of its own, for `doctor`: it prints its answer as JSON on the last line, and whatever the driver does happens
to it alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from backends.interface import BackendError
from backends.whisper.engine import Whisper, load_whisper

TOKENS = 50  # decoded one by one after the window; a sentence or two
_ROUNDS = 2  # after one that compiles and allocates


@dataclass(frozen=True, slots=True)
class Timing:
    """load: seconds until the model is ready, with the making of its graphs; window: of one encoded window and TOKENS
    tokens, the best of several; error: why there are no figures."""

    load: float = 0.0
    window: float = 0.0
    error: str = ""


def time_window(folder: Path, threads: int, device: str, dtype: str) -> Timing:
    """Load the model there and time it on a window of noise. What keeps it from running becomes the error."""
    begun = time.perf_counter()
    try:
        model = load_whisper(folder, engine="onnx", device=device, dtype=dtype, threads=threads)
        loaded = time.perf_counter() - begun
        rounds = [_one_window(model) for _ in range(1 + _ROUNDS)]
    except BackendError as error:
        return Timing(error=error.message)
    return Timing(loaded, min(rounds[1:]))


def _one_window(model: Whisper) -> float:
    """Seconds from samples to the last token. The tokens are fixed ones: random weights or noise must not end it
    early."""
    samples = (np.random.default_rng(0).standard_normal(model.dims.window_samples) * 0.1).astype(np.float32)
    begun = time.perf_counter()
    decoding = model.network.decode(model.encode([samples]))
    for _ in range(min(TOKENS, model.dims.target_positions)):
        decoding.feed(np.array([[model.special.start]], np.int64))
    return time.perf_counter() - begun


def main(arguments: Sequence[str]) -> int:
    folder, threads, device, dtype = arguments
    print(json.dumps(asdict(time_window(Path(folder), int(threads), device, dtype))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
