"""The denoising of one answer, block by block, as a state that asks for logits and takes them.

Owns the loop of the reference and of its accelerated variants. Knows no network: `window` says which positions have to
be computed next, `take` commits tokens from the logits of the current block. So one loop serves one answer or many at
once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.diffa import remasking
from backends.diffa.decoding import DecodingOptions


@dataclass(frozen=True, slots=True)
class Window:
    """The positions of the answer that the next forward pass computes.

    start, stop: rows to feed; whole: the prompt too (keys and values of everything are new); block: the rows whose
    logits are needed; keep: keys and values of this pass are used by later ones.
    """

    start: int
    stop: int
    whole: bool
    block: slice
    keep: bool


class Denoising:
    """An answer in progress: `ids` int64 [max_new_tokens] on the device, all masks at first."""

    def __init__(
        self,
        options: DecodingOptions,
        mask_id: int,
        ends: Collection[int],
        fill: int,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        """ends: ids after which early stop may skip; fill: the id that skipped positions get."""
        self.options = options
        self.ids = torch.full((options.max_new_tokens,), mask_id, dtype=torch.int64, device=device)
        self.done = False
        self.steps_done = 0
        self.forward_passes = 0
        self.blocks_done = 0
        self.committed: list[list[int]] = []  # answer positions, one list per step
        self._mask_id, self._ends, self._fill, self._generator = mask_id, frozenset(ends), fill, generator
        self._step = 0  # within the block
        self._schedule = remasking.transfer_counts(options.block_length, options.steps_per_block)
        self._left = options.block_length  # masks in the block

    @property
    def rows(self) -> int:
        """Sequences that every pass computes: two with guidance."""
        return 2 if self.options.cfg_scale > 0 else 1

    @property
    def block(self) -> slice:
        start = self.blocks_done * self.options.block_length
        return slice(start, start + self.options.block_length)

    @property
    def steps_planned(self) -> int:
        """Steps in all, at most: a confidence rule or an early stop may need fewer."""
        if self.done:
            return self.steps_done
        later = self.options.blocks - self.blocks_done - 1
        if self.options.parallel:
            return self.steps_done + self._left + later * self.options.block_length
        return self.steps_done + self._steps_in_block() - self._step + later * self._steps_in_block()

    def window(self) -> Window:
        """The pass that the next step needs. The first one of a block refreshes everything."""
        block, cache = self.block, self.options.cache
        if cache == "none" or self._step == 0:
            return Window(0, len(self.ids), whole=True, block=block, keep=cache != "none")
        stop = block.stop if cache == "dual" else len(self.ids)
        return Window(block.start, stop, whole=False, block=block, keep=True)

    def take(self, logits: Tensor) -> None:
        """One step. logits: [rows, block_length, vocabulary] of the current block's positions."""
        self.forward_passes += self.rows
        clean = remasking.guided(logits, self.options.cfg_scale) if self.rows == 2 else logits[0]
        tokens, confidence = remasking.candidates(clean, self._mask_id, self.options.temperature, self._generator)
        block_ids = self.ids[self.block]
        chosen = self._pick(confidence, (block_ids == self._mask_id).to(confidence.device))
        block_ids[chosen.to(block_ids.device)] = tokens[chosen].to(block_ids.device)
        self.committed.append([self.block.start + index for index in chosen.tolist()])
        self._left -= len(chosen)
        self._step += 1
        self.steps_done += 1
        if self._block_over():
            self._next_block()

    def _pick(self, confidence: Tensor, masked: Tensor) -> Tensor:
        if self.options.factor is not None:
            return remasking.pick_by_factor(confidence, masked, self.options.factor)
        if self.options.threshold is not None:
            return remasking.pick_confident(confidence, masked, self.options.threshold)
        return remasking.pick_scheduled(confidence, masked, self._schedule[self._step])

    def _steps_in_block(self) -> int:
        """Of the fixed schedule. The plain loop makes every step, even those that commit nothing; the cached ones do
        not."""
        if self.options.cache == "none":
            return self.options.steps_per_block
        return min(self.options.steps_per_block, self.options.block_length)

    def _block_over(self) -> bool:
        return self._left == 0 if self.options.parallel else self._step == self._steps_in_block()

    def _next_block(self) -> None:
        ended = self.options.early_stop and not self._ends.isdisjoint(self.ids[self.block].tolist())
        if ended:
            self.ids[self.block.stop :] = self._fill
        self.blocks_done += 1
        self._step, self._left = 0, self.options.block_length
        self.done = ended or self.blocks_done == self.options.blocks
