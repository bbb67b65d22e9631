"""Decode steps in fixed shapes, so that a CUDA graph or compiled code can hold them.

One function for every number of slots and every bucket of length. Positions and tokens are tensors; slots that take no
part in a step are computed along, and what they write lies where their own next row will overwrite it.
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

_BUCKET = 256  # positions of the shortest; each further one is twice as long

Forward = Callable[[Tensor, Tensor], Tensor]


class StaticSteps:
    """compiled: through torch.compile; otherwise captured as CUDA graphs."""

    def __init__(self, model: Llasa, cache: KVCache, *, compiled: bool) -> None:
        self._model, self._cache, self._compiled = model, cache, compiled
        self._made: dict[tuple[str, int, int], Forward] = {}

    def hidden(self, variant: str, places: Mapping[int, int], slots: Sequence[int], last: Tensor) -> Tensor:
        """Hidden states [len(slots), width] of the tokens `last` [len(slots)].

        places: slot -> position of its next row, of all slots in use; slots: those that take part.
        """
        # Compilers cannot trace tensors of inference mode: here they are ordinary ones, only without gradients.
        with torch.inference_mode(False), torch.no_grad():
            return self._hidden(variant, places, slots, last)

    def _hidden(self, variant: str, places: Mapping[int, int], slots: Sequence[int], last: Tensor) -> Tensor:
        count = min(1 << (max(places)).bit_length(), self._cache.slots)
        length = _BUCKET
        while length <= max(places.values()):
            length *= 2
        length = min(length, self._cache.length)
        positions = upload([places.get(slot, 0) for slot in range(count)], last.device)
        rows = upload(slots, last.device)
        tokens = torch.zeros(count, dtype=torch.int64, device=last.device).index_copy_(0, rows, last)
        out: Tensor = self._function(variant, count, length)(tokens, positions)
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
        """Compiled at its first call. Apart from the others: of one piece of code, torch compiles eight shapes and no
        more."""
        traced: Forward = torch.compile(forward, dynamic=False, isolate_recompiles=True)  # type: ignore[call-overload]
        return traced

    def _captured(self, forward: Forward, count: int) -> Forward:
        """A CUDA graph of `forward` with tensors of its own for what goes in and out."""
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
