"""A view of the shared core for sequences of different lengths that are computed in one pass, in both directions.

All rows stand one behind another in a batch of one; each stretch attends within its own sequence only. So there is no
padding, and what one sequence computes does not depend on the lengths of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.transformer.attention import KVCache, attention


@dataclass(frozen=True, slots=True)
class RaggedSequence:
    """Rows start..stop-1 of a sequence of `length` positions, all of which they see.

    cache, slot: where the keys and values of the other positions are remembered, and these ones stored (None: the
    stretch is the whole sequence).
    """

    start: int
    stop: int
    length: int
    cache: KVCache | None = None
    slot: int = 0

    @property
    def rows(self) -> int:
        return self.stop - self.start


class Ragged:
    """The rows of several stretches as one batch [1, total rows]."""

    def __init__(self, stretches: Sequence[RaggedSequence], wanted: Sequence[int] = ()) -> None:
        """wanted: how many rows of each stretch are asked for where not all are (the last layer's queries)."""
        for stretch in stretches:
            if stretch.cache is None and stretch.rows != stretch.length:
                raise ValueError("a part of a sequence needs the cache that holds the rest")
        self._stretches = list(stretches)
        self._rows = [stretch.rows for stretch in stretches]
        self._wanted = list(wanted)

    def rotary(self, table: Tensor) -> Tensor:
        return torch.cat([table[stretch.start : stretch.stop] for stretch in self._stretches])[None, :, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries = self._rows if q.shape[1] == k.shape[1] else self._wanted
        parts = (torch.split(x, rows, dim=1) for x, rows in ((q, queries), (k, self._rows), (v, self._rows)))
        rows = zip(self._stretches, *parts, strict=True)
        return torch.cat([_attend(stretch, layer, *one) for stretch, *one in rows], dim=1)

    def row_positions(self) -> None:
        """Not a pattern for compiled steps."""


def _attend(stretch: RaggedSequence, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v [1, rows, heads, head_dim] of one stretch -> as q, which may have fewer rows."""
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    if stretch.cache is None:
        return attention(q, k, v)
    slot = slice(stretch.slot, stretch.slot + 1)
    keys, values = stretch.cache.k[layer][slot, :, : stretch.length], stretch.cache.v[layer][slot, :, : stretch.length]
    keys[:, :, stretch.start : stretch.stop] = k
    values[:, :, stretch.start : stretch.stop] = v
    return attention(q, keys, values)
