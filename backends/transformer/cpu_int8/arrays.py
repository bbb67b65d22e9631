"""Types of what the compiled loops read and write: C-contiguous numpy arrays. Imports no numba."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class KVRows(NamedTuple):
    """Where a step's rows stand in one layer of the key/value cache.

    keys, values: float32 [slots, kv_heads, length, head_dim]; slots, positions: int64 [rows].
    """

    keys: Floats
    values: Floats
    slots: Integers
    positions: Integers
