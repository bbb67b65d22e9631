"""One answer as text chunks: a sentence or a few each, with prompt, attempts and codes of its own.

Owns the token cap and the seeds of attempts. Knows no slots and no other jobs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from backends.llasa.codec import FRAMES_PER_SECOND
from backends.llasa.generation_state import Utterance
from backends.llasa.voices import Reference

_LETTERS_PER_SECOND = 6.0  # slow speech in scripts with spaces; ordinary speech has about 15
_CJK_PER_SECOND = 2.0  # slow speech in Chinese or Japanese characters; ordinary speech has 5 to 8
_PAUSE_SECONDS = 2.0
_SEED_STEP = 7919


@dataclass(frozen=True, slots=True)
class ChunkPrompt:
    """ids: the whole prompt; prefix: of them, shared by every prompt of this header; reference: what it continues."""

    ids: Sequence[int]
    prefix: int
    reference: Reference | None


class TextChunk:
    """text: to speak; seed: of the first attempt; utterance: the current attempt; reference: what it continues."""

    def __init__(self, text: str, seed: int) -> None:
        self.text, self._seed = text, seed
        self.attempt = 0
        self.utterance: Utterance | None = None
        self.reference: Reference | None = None
        self.codes = torch.empty(0, dtype=torch.int64)
        self.prompt_tokens = self.output_tokens = 0
        self.done = self.cut = False

    @property
    def seed(self) -> int:
        """The seed of the current attempt, the same in every run."""
        return (self._seed + self.attempt * _SEED_STEP) % 2**63

    def finish(self, codes: Tensor, *, cut: bool) -> None:
        """Set the result. codes: int64 [time], on any device; cut: ended by a limit, not by a stop token."""
        self.codes, self.cut, self.done, self.utterance = codes, cut, True, None

    @cached_property
    def spoken(self) -> tuple[int, ...]:
        """The codes of a finished chunk, copied to the host for the chunks that continue it."""
        return tuple(self.codes.tolist())


def token_cap(text: str) -> int:
    """Most speech tokens that a text can need, even spoken slowly."""
    wide = sum("぀" <= char <= "鿿" for char in text)
    seconds = _PAUSE_SECONDS + wide / _CJK_PER_SECOND + (len(text) - wide) / _LETTERS_PER_SECOND
    return math.ceil(seconds * FRAMES_PER_SECOND)


def chunk_seed(seed: int, number: int) -> int:
    """The seed of a chunk; the first chunk's is the request's."""
    return (seed + number * 104_729) % 2**63
