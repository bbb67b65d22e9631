"""Decode steps in fixed shapes, for CUDA graphs and compiled code.

One function for every number of slots and every bucket of length. Positions and tokens are tensors. Slots that take no
part in a step are computed too; what they write is overwritten by their own next row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backends.llasa.async_copy import upload
from backends.transformer.attention import GraphStep, KVCache
from backends.transformer.cuda_graph import capture
from backends.transformer.model import Transformer

if TYPE_CHECKING:
    from backends.llasa.model import Llasa

_BUCKET = 256  # positions of the shortest bucket; each further one is twice as long

Forward = Callable[[Tensor, Tensor], Tensor]


class StaticSteps:
    """The functions of one model and cache. compiled: by torch.compile; otherwise captured as CUDA graphs."""

    def __init__(self, model: Llasa, cache: KVCache, *, compiled: bool) -> None:
        self._model, self._cache, self._compiled = model, cache, compiled
        self._made: dict[tuple[str, int, int], Forward] = {}

    def hidden(self, variant: str, positions: Mapping[int, int], slots: Sequence[int], last: Tensor) -> Tensor:
        """Hidden states [len(slots), width] of the tokens `last` [len(slots)].

        positions: slot -> position of its next row, of all slots in use; slots: those that take part.
        """
        # Compilers cannot trace tensors of inference mode; those of no_grad they can.
        with torch.inference_mode(False), torch.no_grad():
            return self._hidden(variant, positions, slots, last)

    def _hidden(self, variant: str, positions: Mapping[int, int], slots: Sequence[int], last: Tensor) -> Tensor:
        count = min(1 << max(positions).bit_length(), self._cache.slots)
        length = _BUCKET
        while length <= max(positions.values()):
            length *= 2
        length = min(length, self._cache.length)
        row_positions = upload([positions.get(slot, 0) for slot in range(count)], last.device)
        rows = upload(slots, last.device)
        tokens = torch.zeros(count, dtype=torch.int64, device=last.device).index_copy_(0, rows, last)
        out: Tensor = self._function(variant, count, length)(tokens, row_positions)
        return out[rows]

    def _function(self, variant: str, count: int, length: int) -> Forward:
        key = (variant, count, length)
        if key not in self._made:
            forward = self._forward(variant, length)
            self._made[key] = self._traced(forward) if self._compiled else self._captured(forward, count)
        return self._made[key]

    def _forward(self, variant: str, length: int) -> Forward:
        part, cache = self._model.variants[variant], self._cache

        def forward(tokens: Tensor, positions: Tensor) -> Tensor:
            view = GraphStep(cache, positions, length)
            hidden: Tensor = Transformer.__call__.__wrapped__(part.stack, part.table[tokens[:, None]], view)  # type: ignore[attr-defined]
            return hidden[:, -1]

        return forward

    def _traced(self, forward: Forward) -> Forward:
        """`forward` compiled at its first call, apart from the others: torch compiles one function for eight shapes at
        most."""
        traced: Forward = torch.compile(forward, dynamic=False, isolate_recompiles=True)  # type: ignore[call-overload]
        return traced

    def _captured(self, forward: Forward, count: int) -> Forward:
        """`forward` as a CUDA graph, with input and output tensors of its own."""
        device = self._model.device
        tokens = torch.zeros(count, dtype=torch.int64, device=device)
        positions = torch.full((count,), self._cache.length - 1, dtype=torch.int64, device=device)
        graph, out = capture(lambda: forward(tokens, positions), device)

        def replay(new_tokens: Tensor, new_positions: Tensor) -> Tensor:
            tokens.copy_(new_tokens)
            positions.copy_(new_positions)
            graph.replay()
            return out.clone()

        return replay
