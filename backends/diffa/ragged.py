"""A view of the shared core for sequences of different lengths that are computed in one pass, in both directions.

All rows stand one behind another in a batch of one; each attends within its own sequence only. So there is no padding,
and what one sequence computes does not depend on the lengths of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.transformer.attention import KVCache, attention


@dataclass(frozen=True, slots=True)
class RaggedSequence:
    """The rows start..stop-1 to compute of a sequence of `length` positions, all of which they see.

    cache, slot: hold the keys and values of the other positions, and take those of these rows (None: the rows are the
    whole sequence).
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
    """The rows of several sequences as one batch [1, total rows]."""

    def __init__(self, sequences: Sequence[RaggedSequence], query_rows: Sequence[int] = ()) -> None:
        """query_rows: queries per sequence in the last layer, if it computes only some of the rows."""
        for sequence in sequences:
            if sequence.cache is None and sequence.rows != sequence.length:
                raise ValueError("a part of a sequence needs the cache that holds the rest")
        self._sequences = list(sequences)
        self._rows = [sequence.rows for sequence in sequences]
        self._query_rows = list(query_rows)

    def rotary(self, table: Tensor) -> Tensor:
        return torch.cat([table[sequence.start : sequence.stop] for sequence in self._sequences])[None, :, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries = self._rows if q.shape[1] == k.shape[1] else self._query_rows
        parts = (torch.split(x, rows, dim=1) for x, rows in ((q, queries), (k, self._rows), (v, self._rows)))
        rows = zip(self._sequences, *parts, strict=True)
        return torch.cat([_attend(sequence, layer, *qkv) for sequence, *qkv in rows], dim=1)

    def row_positions(self) -> None:
        """None: compiled steps do not know this pattern."""


def _attend(sequence: RaggedSequence, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v [1, rows, heads, head_dim] of one sequence -> as q, which may have fewer rows."""
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    if sequence.cache is None:
        return attention(q, k, v)
    slot = slice(sequence.slot, sequence.slot + 1)
    keys, values = (
        sequence.cache.k[layer][slot, :, : sequence.length],
        sequence.cache.v[layer][slot, :, : sequence.length],
    )
    keys[:, :, sequence.start : sequence.stop] = k
    values[:, :, sequence.start : sequence.stop] = v
    return attention(q, keys, values)
