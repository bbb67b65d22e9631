"""Generation: utterances in the slots of one key/value cache, all advanced by one token per step.

A prompt is computed in chunks of fixed boundaries, so that a long one delays the others by one chunk at most and the
result never depends on what else runs. Tokens stay on the device and no step waits for it: what the host must know of
them comes in reports (generation_state.py), and what was drawn after a stop token is dropped. Knows token ids, and
nothing of text or audio.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backends.interface import InvalidInput
from backends.llasa.async_copy import upload
from backends.llasa.cuda_graphs import StaticSteps
from backends.llasa.generation_state import TokenReporter, Utterance
from backends.llasa.options import SamplingParams
from backends.transformer.attention import KVCache, Span, Step
from backends.transformer.sampling import request_generator, sample_rows

if TYPE_CHECKING:
    from backends.llasa.model import Llasa

log = logging.getLogger(__name__)

PREFILL_CHUNK = 256  # prompt rows computed per step
_PREFIXES = 16  # prompt beginnings whose keys and values are kept
# By how much a compiled step may differ, as a share of the largest hidden state: in float32, and with 16 or 8 bits,
# where one rounding that falls to the other side is carried through all layers.
_ROUNDING, _COARSE_ROUNDING = 1e-3, 0.1


class TokenLoop:
    """The slots of one cache, and the step that advances the utterances in them."""

    def __init__(self, model: Llasa, slots: int, length: int) -> None:
        """length: most tokens of a prompt and its answer. Raises InvalidInput for more than there are positions."""
        if length > model.config.stack.max_positions:
            raise InvalidInput(
                f"max_length is {length}; at most {model.config.stack.max_positions} are possible", param="max_length"
            )
        self._model = model
        self.length = length
        self._cache = KVCache(model.config.stack, slots, length, dtype=model.compute, device=model.device)
        self._static: StaticSteps | None = None
        self.given_up = ""  # why fixed shapes were abandoned in the middle of serving
        self._held: dict[int, Utterance] = {}
        self._prefixes: OrderedDict[tuple[str, tuple[int, ...]], Tensor] = OrderedDict()
        self._reporter = TokenReporter(model.vocabulary, model.device)

    @property
    def free(self) -> int:
        return self._cache.free

    @property
    def device(self) -> torch.device:
        return self._model.device

    def bytes(self) -> int:
        return self._cache.bytes()

    def admit(self, utterance: Utterance) -> None:
        """Give an utterance a slot. Raises InvalidInput if it does not fit the cache."""
        if len(utterance.prompt) + utterance.limit > self.length:
            raise InvalidInput(f"{len(utterance.prompt) + utterance.limit} tokens exceed max_length {self.length}")
        device = self._model.device
        utterance.tokens = torch.zeros(utterance.limit, dtype=torch.int64, device=device)
        utterance.seen = self._model.seen(utterance.prompt, utterance.variant)
        utterance.generator = request_generator(utterance.seed, device)
        utterance.slot = self._cache.take()
        self._held[utterance.slot] = utterance

    def release(self, utterance: Utterance) -> None:
        if utterance.slot >= 0:
            del self._held[utterance.slot]
            self._cache.give_back(utterance.slot)
            utterance.slot = -1
            utterance.seen = torch.empty(0)

    @torch.inference_mode()
    def step(self, utterances: Sequence[Utterance]) -> None:
        """One token for every utterance that has its prompt computed, one chunk of prompt for the others."""
        groups: dict[tuple[str, SamplingParams], list[Utterance]] = {}
        going = [utterance for utterance in utterances if not utterance.over and utterance.produced < utterance.limit]
        for utterance in going:
            if utterance.ready:
                groups.setdefault((utterance.variant, utterance.sampling), []).append(utterance)
            else:
                self._prefill(utterance)
        for (variant, _), members in groups.items():
            self._advance(variant, sorted(members, key=lambda member: member.slot))
        self._reporter.poll(utterances, waiting=not going)

    def fix_shapes(self, *, compiled: bool) -> str:
        """Decode in fixed shapes from now on, by CUDA graphs or compiled code. Returns the obstacle, "" if none."""
        steps = StaticSteps(self._model, self._cache, compiled=compiled)
        try:
            for variant in self._model.variants:
                if not self._same_as_plain(steps, variant):
                    return "its results differ from those of plain steps"
        except Exception as error:  # whatever a compiler or driver throws
            return _reason(error)
        self._static = steps
        return ""

    def _same_as_plain(self, steps: StaticSteps, variant: str) -> bool:
        """Whether a step in fixed shapes gives the hidden states of a plain one, but for rounding."""
        token = torch.zeros(1, dtype=torch.int64, device=self.device)
        static = steps.hidden(variant, {0: 0}, [0], token).float()
        plain = self._model.variants[variant].hidden(token[:, None], Step(self._cache, [0], [0]))[:, -1].float()
        exact = self._model.compute == torch.float32 and self._model.kind.weights != "int8"
        allowed = (_ROUNDING if exact else _COARSE_ROUNDING) * float(plain.abs().max())
        return bool((static - plain).abs().max() <= allowed)

    def _advance(self, variant: str, members: Sequence[Utterance]) -> None:
        last = torch.stack([member.tokens[member.produced - 1] for member in members])
        slots = [member.slot for member in members]
        hidden = self._in_fixed_shapes(variant, slots, last)
        if hidden is None:
            view = Step(self._cache, slots, [member.position for member in members])
            hidden = self._model.variants[variant].hidden(last[:, None], view)[:, -1]
        self._draw(variant, hidden, members)

    def _in_fixed_shapes(self, variant: str, slots: Sequence[int], last: Tensor) -> Tensor | None:
        """Hidden states of a step in fixed shapes; None where there are none (any more).

        A new number of slots or bucket of length is captured or compiled in the middle of serving, and that can fail,
        for lack of memory for one. The loop then goes on without fixed shapes: the step writes the same rows again.
        """
        if self._static is None:
            return None
        positions = {slot: utterance.position for slot, utterance in self._held.items()}
        try:
            return self._static.hidden(variant, positions, slots, last)
        except Exception as error:  # whatever a compiler or driver throws
            self._static, self.given_up = None, _reason(error)
            log.warning("steps in fixed shapes are given up, plain ones go on: %s", self.given_up)
            return None

    def _prefill(self, utterance: Utterance) -> None:
        part = self._model.variants[utterance.variant]
        self._reuse_prefix(utterance)
        start, total = utterance.filled, len(utterance.prompt)
        end = utterance.prefix if start < utterance.prefix else min(total, start + PREFILL_CHUNK)
        rows = upload(utterance.prompt[start:end], self._model.device)
        hidden = part.hidden(rows[None], Span(self._cache, utterance.slot, end - start, start, causal=True))
        utterance.filled = end
        if end == utterance.prefix and end:
            self._keep_prefix(utterance)
        if end == total:
            self._draw(utterance.variant, hidden[:, -1], [utterance])

    def _draw(self, variant: str, hidden: Tensor, members: Sequence[Utterance]) -> None:
        part, sampling = self._model.variants[variant], members[0].sampling
        penalise = sampling.repetition_penalty != 1.0
        seen = torch.stack([member.seen for member in members]) if penalise else torch.empty(0)
        generators = [member.generator for member in members]
        rows = sample_rows(part.head(hidden), seen, generators, **asdict(sampling))
        ids = rows if part.row_ids is None else part.row_ids[rows]
        for i, member in enumerate(members):
            member.tokens[member.produced] = ids[i]
            if penalise:
                # A slice: an index without dimensions would be read by the host.
                member.seen.index_fill_(0, rows[i : i + 1], value=True)
            member.produced += 1

    def _reuse_prefix(self, utterance: Utterance) -> None:
        if utterance.filled or not utterance.prefix:
            return
        key = _prefix_key(utterance)
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
            self._cache.restore(utterance.slot, self._prefixes[key])
            utterance.filled = utterance.prefix

    def _keep_prefix(self, utterance: Utterance) -> None:
        self._prefixes[_prefix_key(utterance)] = self._cache.saved(utterance.slot, utterance.prefix)
        while len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)


def _reason(error: Exception) -> str:
    """Kind and first line of an error."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _prefix_key(utterance: Utterance) -> tuple[str, tuple[int, ...]]:
    return utterance.variant, tuple(utterance.prompt[: utterance.prefix])
