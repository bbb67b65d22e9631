"""One 80 ms frame for many utterances at once: slots of the backbone's cache, prefill, and the step of all of them.

Knows rows and codes; no text, no waveform, no request. On CUDA the whole frame (31 decoder steps, 32 draws, the next
backbone step) is one graph replay; elsewhere the same functions run eagerly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from backends.csm.model import CsmModel, FrameDecoder
from backends.interface import InvalidInput
from backends.transformer.attention import GraphStep, KVCache, Span, Step, View
from backends.transformer.cuda_graph import capture

_BATCHES = (1, 2, 4, 8, 16, 32)
_LENGTHS = (256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one row's codes are sampled: noise Exp(1) [codebooks, allowed_codes] (None: greedy), temperature, top_k."""

    noise: Tensor | None
    temperature: float
    top_k: int


class FrameBatch:
    """The slots of the backbone's cache, and the frame of the utterances in them."""

    def __init__(self, model: CsmModel, slots: int, allowed_codes: int | None = None) -> None:
        self.model = model
        self.cache = KVCache(model.config.backbone, slots, None, model.dtype, model.device)
        self._depth = FrameDecoder(model, slots, allowed_codes)
        self.allowed_codes = self._depth.allowed_codes

    @property
    def positions(self) -> int:
        """Rows that a slot can hold."""
        return self.cache.length

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Tensor, mask: Tensor, start: int = 0) -> Tensor:
        """The last row's hidden state [width] of prompt rows start..start+n-1. Raises InvalidInput if they do not
        fit."""
        if start + len(tokens) > self.positions:
            raise InvalidInput(f"the prompt of {start + len(tokens)} rows exceeds the model's {self.positions}")
        rows = self.model.embed_rows(tokens, mask)[None]
        return self.model.backbone(rows, Span(self.cache, slot, len(tokens), start, causal=True))[0, -1]

    @torch.inference_mode()
    def frame(
        self, slots: Sequence[int], positions: Sequence[int], hidden: Tensor, sampling_params: Sequence[SamplingParams]
    ) -> tuple[Tensor, Tensor]:
        """The next codes int64 [batch, codebooks] of hidden [batch, width], and the hidden states after them.

        The codes become the rows at `positions` of their slots. A row's result does not depend on the others.
        """
        noise, temperature, top_k = _stacked(sampling_params)
        return self._computed(hidden, noise, temperature, top_k, Step(self.cache, slots, positions))

    def _computed(
        self, hidden: Tensor, noise: Tensor | None, temperature: float | Tensor, top_k: int | Tensor, view: View
    ) -> tuple[Tensor, Tensor]:
        codes = self._depth(hidden, noise, temperature, top_k)
        after = self.model.backbone(self.model.embed_frames(codes)[:, None], view)[:, -1]
        return codes, after

    def bytes(self) -> int:
        return self.cache.bytes() + self._depth.bytes()


class GraphedFrames(FrameBatch):
    """The same with one CUDA graph per (batch bucket, length bucket), captured at first use.

    Row i of the static buffers is slot i. Rows of slots that do not take part compute something that nobody reads; what
    they write into the cache lies at their own next position, which their next real step overwrites.
    """

    def __init__(self, model: CsmModel, slots: int, allowed_codes: int | None = None) -> None:
        super().__init__(model, slots, allowed_codes)
        config, device = model.config, model.device
        self._hidden = torch.zeros(slots, config.backbone.width, dtype=model.dtype, device=device)
        self._noise = torch.ones(slots, config.codebooks, self.allowed_codes, device=device)
        self._temperature = torch.zeros(slots, device=device)
        self._top_k = torch.zeros(slots, dtype=torch.int64, device=device)
        self._positions = torch.zeros(slots, dtype=torch.int64, device=device)
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]] = {}

    def prefill(self, slot: int, tokens: Tensor, mask: Tensor, start: int = 0) -> Tensor:
        hidden = super().prefill(slot, tokens, mask, start)
        self._positions[slot] = min(start + len(tokens), self.positions - 1)
        return hidden

    @torch.inference_mode()
    def frame(
        self, slots: Sequence[int], positions: Sequence[int], hidden: Tensor, sampling_params: Sequence[SamplingParams]
    ) -> tuple[Tensor, Tensor]:
        self._fill(slots, positions, hidden, sampling_params)
        batch = min(bucket(max(slots) + 1, _BATCHES), self.cache.slots)
        length = min(bucket(max(positions) + 1, _LENGTHS), self.positions)
        codes, after = self._replayed(batch, length)
        rows = torch.tensor(slots, device=codes.device)
        return codes[rows], after[rows]

    def _fill(
        self, slots: Sequence[int], positions: Sequence[int], hidden: Tensor, sampling_params: Sequence[SamplingParams]
    ) -> None:
        rows = torch.tensor(slots, device=self._hidden.device)
        self._hidden[rows] = hidden
        self._positions[rows] = torch.tensor(positions, device=rows.device)
        self._temperature[rows] = torch.tensor([row.temperature for row in sampling_params], device=rows.device)
        self._top_k[rows] = torch.tensor([row.top_k for row in sampling_params], device=rows.device)
        for slot, row in zip(slots, sampling_params, strict=True):
            if row.noise is not None:
                self._noise[slot] = row.noise

    def _replayed(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """Run the graph of this bucket on the static buffers."""
        if (batch, length) not in self._graphs:
            self._graphs[batch, length] = capture(partial(self.static_frame, batch, length), self.model.device)
        graph, outputs = self._graphs[batch, length]
        graph.replay()
        return outputs

    def static_frame(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """The frame of the static buffers' first `batch` rows; reads and branches on nothing that lies on the
        device."""
        view = GraphStep(self.cache, self._positions[:batch], length)
        settings = (self._noise[:batch], self._temperature[:batch], self._top_k[:batch])
        return self._computed(self._hidden[:batch], *settings, view)


def frame_batch(model: CsmModel, slots: int, allowed_codes: int | None = None) -> FrameBatch:
    """The implementation for the model's device."""
    kind = GraphedFrames if model.device.type == "cuda" else FrameBatch
    return kind(model, slots, allowed_codes)


def bucket(value: int, sizes: Sequence[int]) -> int:
    """The smallest size that holds `value` (the largest, if none does)."""
    return next((size for size in sizes if size >= value), sizes[-1])


def _stacked(sampling_params: Sequence[SamplingParams]) -> tuple[Tensor | None, float | Tensor, int | Tensor]:
    """Noise, temperature and top_k of all rows: numbers where the rows agree, else tensors with one value per row."""
    some = next((row.noise for row in sampling_params if row.noise is not None), None)
    if some is None:
        return None, 0.0, 0
    noise = torch.stack([torch.ones_like(some) if row.noise is None else row.noise for row in sampling_params])
    if len({(row.temperature, row.top_k) for row in sampling_params}) == 1:
        return noise, sampling_params[0].temperature, sampling_params[0].top_k
    temperature = torch.tensor([row.temperature for row in sampling_params], device=some.device)
    return noise, temperature, torch.tensor([row.top_k for row in sampling_params], device=some.device)
