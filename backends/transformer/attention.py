"""Attention patterns and the key/value cache: one static cache with slots, and one small view per pattern.

A view is given to the model with the rows to compute. It knows the positions of the rows, stores their keys and values,
and attends over the *used* length only. Patterns:

- `Whole`: no cache; all rows see all rows (or their past).
- `Span`: consecutive rows of some slots; a prompt's prefill, or a block of a bidirectional sequence computed anew.
- `Rewrite`: rows at arbitrary positions of a bidirectional sequence, the others being in the cache.
- `Step`: one new row per slot, each at its own position; decoding.
- `GraphStep`: the same with positions in a device tensor and a fixed length, so that a CUDA graph can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from backends.transformer.config import TransformerConfig

_SHORT = 4  # most rows of a sequence that a compiled step computes at once


@dataclass(frozen=True, slots=True)
class RowPositions:
    """Slots and positions of rows that each see their own past and themselves, and the cache they are in.

    slots, positions: int64 [rows]; arrays: keys and values of every layer (KVCache.arrays); last: the largest position.
    """

    slots: NDArray[np.int64]
    positions: NDArray[np.int64]
    arrays: list[tuple[NDArray[np.float32], NDArray[np.float32]]]
    last: int


class View(Protocol):
    """One pattern of attention over rows [batch, time]."""

    def rotary(self, table: Tensor) -> Tensor:
        """The rotations of the rows, [batch or 1, time, 1, head_dim / 2], from the table of all positions."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [batch, time, heads, head_dim], k and v [batch, time, kv_heads, head_dim] -> as q. Stores k and v."""

    def row_positions(self) -> RowPositions | None:
        """The rows for a compiled step (fused.py), by batch, then time; None: it cannot compute this pattern."""


class KVCache:
    """Keys and values of `slots` independent sequences of at most `length` positions, in one static block.

    k, v: per layer [slots, kv_heads, length, head_dim]. Slots are taken and given back; what a slot holds is
    overwritten by its next owner, so freeing costs nothing. Lengths are the caller's (they are in its views).
    """

    def __init__(
        self,
        config: TransformerConfig,
        slots: int,
        length: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.slots, self.length = slots, length or config.max_positions
        shape = (2, config.layers, slots, config.kv_heads, self.length, config.head_dim)
        self._block = torch.zeros(shape, dtype=dtype, device=device)
        self.k, self.v = list(self._block[0]), list(self._block[1])
        self._free = list(range(slots))

    @cached_property
    def arrays(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Keys and values of every layer without a copy; float32 on the CPU only."""
        return [(k.numpy(), v.numpy()) for k, v in zip(self.k, self.v, strict=True)]

    def rows(self, slots: Sequence[int], positions: Sequence[int]) -> RowPositions | None:
        """Rows at these positions, or None for a cache that only torch can read. Raises IndexError outside of it."""
        if self._block.dtype is not torch.float32 or self._block.device.type != "cpu":
            return None
        if min(slots) < 0 or max(slots) >= self.slots or min(positions) < 0 or max(positions) >= self.length:
            raise IndexError(f"slots {slots}, positions {positions} in a cache of {self.slots} x {self.length}")
        return RowPositions(np.array(slots, np.int64), np.array(positions, np.int64), self.arrays, max(positions))

    def take(self) -> int:
        """The lowest free slot. Raises IndexError when none is free."""
        slot = min(self._free)
        self._free.remove(slot)
        return slot

    def give_back(self, slot: int) -> None:
        if slot in self._free:
            raise ValueError(f"slot {slot} is already free")
        self._free.append(slot)

    @property
    def free(self) -> int:
        return len(self._free)

    def bytes(self) -> int:
        return self._block.numel() * self._block.element_size()

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Positions 0..length-1 of one slot into another: a prompt's common prefix computed once."""
        self._block[:, :, target, :, :length] = self._block[:, :, source, :, :length]

    def saved(self, slot: int, length: int) -> Tensor:
        """Copy positions 0..length-1 of a slot: [2, layers, kv_heads, length, head_dim]."""
        return self._block[:, :, slot, :, :length].clone()

    def restore(self, slot: int, prefix: Tensor) -> None:
        """Write the result of `saved` into a slot."""
        self._block[:, :, slot, :, : prefix.shape[3]] = prefix


class Whole:
    """All rows of a batch, without a cache. mask: bool, broadcastable to [batch, 1, time, time], True = visible."""

    def __init__(self, rows: int, *, causal: bool, mask: Tensor | None = None) -> None:
        self._rows, self._causal, self._mask = rows, causal, mask
        if causal and mask is not None:
            self._causal, self._mask = False, mask & past(rows, 0, mask.device)

    def rotary(self, table: Tensor) -> Tensor:
        return table[None, : self._rows, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k.transpose(1, 2), v.transpose(1, 2), self._mask, causal=self._causal)

    def row_positions(self) -> RowPositions | None:
        return None


class Span:
    """Rows start..start+rows-1 of the slots first..first+count-1 (batch = count).

    causal: each row sees the positions up to its own. Otherwise all rows see positions 0..length-1 (default: up to the
    last row), of which those outside the span are in the cache.
    """

    def __init__(
        self,
        cache: KVCache,
        first: int,
        rows: int,
        start: int = 0,
        *,
        causal: bool,
        count: int = 1,
        length: int | None = None,
    ) -> None:
        self._slots, self._rows = slice(first, first + count), slice(start, start + rows)
        self._cache, self._length = cache, length or start + rows
        if max(self._length, start + rows) > cache.length:
            raise ValueError(f"{start + rows} positions in a cache of {cache.length}")
        self._short = causal and rows <= _SHORT
        self._causal = causal and start == 0 and rows > 1
        self._mask = past(rows, start, cache.k[0].device) if causal and start and rows > 1 else None

    def rotary(self, table: Tensor) -> Tensor:
        return table[None, self._rows, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._cache.k[layer][self._slots], self._cache.v[layer][self._slots]
        keys[:, :, self._rows] = k.transpose(1, 2)
        values[:, :, self._rows] = v.transpose(1, 2)
        length = self._length
        return attention(q, keys[:, :, :length], values[:, :, :length], self._mask, causal=self._causal)

    def row_positions(self) -> RowPositions | None:
        return self._row_positions if self._short else None

    @cached_property
    def _row_positions(self) -> RowPositions | None:
        slots, rows = range(self._slots.start, self._slots.stop), range(self._rows.start, self._rows.stop)
        return self._cache.rows([slot for slot in slots for _ in rows], [row for _ in slots for row in rows])


class Rewrite:
    """Rows at positions int64 [rows] of the slots first..first+count-1, all seeing positions 0..length-1."""

    def __init__(self, cache: KVCache, first: int, positions: Tensor, length: int, *, count: int = 1) -> None:
        self._slots, self._positions = slice(first, first + count), positions
        self._cache, self._length = cache, length

    def rotary(self, table: Tensor) -> Tensor:
        return table[self._positions][None, :, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._cache.k[layer][self._slots], self._cache.v[layer][self._slots]
        keys.index_copy_(2, self._positions, k.transpose(1, 2))
        values.index_copy_(2, self._positions, v.transpose(1, 2))
        return attention(q, keys[:, :, : self._length], values[:, :, : self._length])

    def row_positions(self) -> RowPositions | None:
        return None


class Step:
    """One new row for each of `slots`, at `positions` (batch = len(slots), time = 1).

    Rows in lockstep on neighbouring slots attend in one call. Otherwise each row attends alone over exactly its own
    length, so that what it computes does not depend on who else is in the batch.
    """

    def __init__(self, cache: KVCache, slots: Sequence[int], positions: Sequence[int]) -> None:
        if max(positions) >= cache.length:
            raise ValueError(f"position {max(positions)} in a cache of {cache.length}")
        self._cache, self._positions = cache, list(positions)
        first, count = slots[0], len(slots)
        self._together = slice(first, first + count) if _lockstep(slots, positions) else None
        self._rows = list(zip(slots, positions, strict=True))
        self._layer_views: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def rotary(self, table: Tensor) -> Tensor:
        if self._together is not None:
            position = self._positions[0]
            return table[None, position : position + 1, None]
        # An index made of these numbers would be copied to the device, and that copy waits for it.
        return torch.cat([table[position : position + 1] for position in self._positions])[:, None, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._together is not None:
            if layer not in self._layer_views:
                self._layer_views[layer] = self._views(layer, self._together, self._positions[0])
            return _one_row(*self._layer_views[layer], q, k, v)
        rows = [
            _one_row(*self._views(layer, slice(slot, slot + 1), position), q[i : i + 1], k[i : i + 1], v[i : i + 1])
            for i, (slot, position) in enumerate(self._rows)
        ]
        return torch.cat(rows)

    def row_positions(self) -> RowPositions | None:
        return self._row_positions

    @cached_property
    def _row_positions(self) -> RowPositions | None:
        slots, positions = zip(*self._rows, strict=True)
        return self._cache.rows(slots, positions)

    def _views(self, layer: int, slots: slice, position: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views of the cache: the new row's key and value, and the used parts of keys and values."""
        keys, values = self._cache.k[layer][slots], self._cache.v[layer][slots]
        return keys[:, :, position], values[:, :, position], keys[:, :, : position + 1], values[:, :, : position + 1]


class GraphStep:
    """One new row for each of the slots 0..batch-1, at positions int64 [batch] on the device; nothing read on the host.

    Attends over the first `length` positions of the cache (a bucket at least as long as the longest row), masked to
    each row's own past. The results of idle slots' rows are not used.
    """

    def __init__(self, cache: KVCache, positions: Tensor, length: int) -> None:
        self._cache, self._positions, self._length = cache, positions, length
        self._slots = torch.arange(len(positions), device=positions.device)
        columns = torch.arange(length, device=positions.device)
        self._mask = (columns <= positions[:, None])[:, None, None]

    def rotary(self, table: Tensor) -> Tensor:
        return table.index_select(0, self._positions)[:, None, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, length = len(self._slots), self._length
        keys, values = self._cache.k[layer], self._cache.v[layer]
        keys[self._slots, :, self._positions] = k[:, 0]
        values[self._slots, :, self._positions] = v[:, 0]
        return _grouped(q, keys[:batch, :, :length], values[:batch, :, :length], self._mask)

    def row_positions(self) -> RowPositions | None:
        return None


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """q [batch, time, heads, D] over k, v [batch, kv_heads, length, D] -> [batch, time, heads, D]."""
    if q.shape[1] == 1 and mask is None:
        return _grouped(q, k, v)
    grouped = q.shape[2] != k.shape[1]
    out = scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
    return out.transpose(1, 2)


def past(rows: int, start: int, device: torch.device | str) -> Tensor:
    """bool [rows, start + rows]: row i, at position start + i, sees the positions up to its own."""
    return torch.ones(rows, start + rows, dtype=torch.bool, device=device).tril(start)


def _grouped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of one row per sequence, q [batch, 1, heads, D].

    The query heads of a group take the time axis of their key head, so that keys and values need not be copied.
    """
    batch, _, heads, width = q.shape
    groups = q.view(batch, k.shape[1], heads // k.shape[1], width)
    return scaled_dot_product_attention(groups, k, v, attn_mask=mask).reshape(batch, 1, heads, width)


def _one_row(
    new_key: Tensor, new_value: Tensor, keys: Tensor, values: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """Store one row's k and v in new_key and new_value [batch, kv_heads, D], and attend over keys and values."""
    new_key.copy_(k[:, 0])
    new_value.copy_(v[:, 0])
    return _grouped(q, keys, values)


def _lockstep(slots: Sequence[int], positions: Sequence[int]) -> bool:
    return len(set(positions)) == 1 and list(slots) == list(range(slots[0], slots[0] + len(slots)))
