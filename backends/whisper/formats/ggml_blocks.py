"""The number formats of whisper.cpp's files: floats, and rows of blocks of 32 values that share a scale.

Knows bytes only. Sizes are bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0"}  # by their number in the file
BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34}
_BLOCK = 32
_FLOAT_BYTES = {"F32": 4, "F16": 2}


def row_bytes(dtype: str, count: int) -> int:
    """Of a row of so many values. Raises ValueError where they are no whole blocks."""
    if dtype in _FLOAT_BYTES:
        return count * _FLOAT_BYTES[dtype]
    blocks, left = divmod(count, _BLOCK)
    if left:
        raise ValueError(f"a row of {count} values is no row of whole blocks of {_BLOCK}")
    return blocks * BLOCK_BYTES[dtype]


def dequantised(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """Rows of blocks, uint8 [..., bytes], as float32 [..., values]. A block: a scale, a minimum where the type ends in
    1, the fifth bits where it has five, then signed bytes or the halves of bytes."""
    blocks = raw.reshape(*raw.shape[:-1], -1, BLOCK_BYTES[dtype])
    head, bits = (4 if dtype.endswith("_1") else 2), int(dtype[1])
    scales = np.ascontiguousarray(blocks[..., :head]).view("<f2").astype(np.float32)
    if bits == 8:
        values = blocks[..., head:].view(np.int8) * scales
    elif head == 4:
        values = _unsigned(blocks[..., head:], bits) * scales[..., :1] + scales[..., 1:]
    else:
        values = (_unsigned(blocks[..., head:], bits) - np.float32(1 << bits - 1)) * scales
    result: NDArray[np.float32] = values.reshape(*raw.shape[:-1], -1)
    return result


def _unsigned(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers of 4 or 5 bits: fifth bits in order, then bytes whose lower halves are the first 16 numbers."""
    halves = packed[..., bits * 4 - 16 :]
    whole: NDArray[np.uint8] = np.concatenate([halves & 15, halves >> 4], axis=-1)
    if bits == 5:
        whole += np.unpackbits(packed[..., :4], axis=-1, bitorder="little") * np.uint8(16)
    return whole
