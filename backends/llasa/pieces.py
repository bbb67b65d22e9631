"""One answer as pieces: a sentence or a few each, with prompt, attempts, codes and audio of its own.

Owns the token cap, the judgement that an attempt ran away, retries with other seeds, and which piece needs which other
piece first. Knows no slots and no other jobs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from backends.llasa.codec import FRAMES_PER_SECOND
from backends.llasa.decoding import Utterance
from backends.llasa.voices import Reference

_LETTERS_PER_SECOND = 6.0  # slow speech in scripts with spaces; ordinary speech has about 15
_CJK_PER_SECOND = 2.0  # slow speech in Chinese or Japanese characters; ordinary speech has 5 to 8
_PAUSE_SECONDS = 2.0
_STUCK_WINDOW, _STUCK_KINDS = 150, 8  # codes looked at; fewer kinds among them are a hum or silence that will not end
_SEED_STEP = 7919


@dataclass(frozen=True, slots=True)
class Prompted:
    """ids: the whole prompt; prefix: of them, shared by every prompt of this header; reference: what it continues."""

    ids: Sequence[int]
    prefix: int
    reference: Reference | None


class Piece:
    """text: what it says; seed: of its first attempt; utterance: the attempt running now; reference: what that continues."""

    def __init__(self, text: str, seed: int) -> None:
        self.text, self._seed = text, seed
        self.attempt = 0
        self.utterance: Utterance | None = None
        self.reference: Reference | None = None
        self.codes: list[int] = []
        self.prompt_tokens = self.output_tokens = 0
        self.done = self.cut = False

    @property
    def seed(self) -> int:
        """Another one for every attempt, the same in every run."""
        return (self._seed + self.attempt * _SEED_STEP) % 2**63

    def finish(self, codes: list[int], *, cut: bool) -> None:
        """cut: it was ended by a limit, not by a stop token."""
        self.codes, self.cut, self.done, self.utterance = codes, cut, True, None


def token_cap(text: str) -> int:
    """Most speech tokens that a text can need, even spoken slowly."""
    wide = sum("぀" <= char <= "鿿" for char in text)
    seconds = _PAUSE_SECONDS + wide / _CJK_PER_SECOND + (len(text) - wide) / _LETTERS_PER_SECOND
    return math.ceil(seconds * FRAMES_PER_SECOND)


def is_stuck(ids: Sequence[int]) -> bool:
    """Whether the end of an answer is a hum: hardly any change over three seconds."""
    return len(ids) >= _STUCK_WINDOW and len(set(ids[-_STUCK_WINDOW:])) < _STUCK_KINDS


def piece_seed(seed: int, number: int) -> int:
    """The seed of a piece; the first piece's is the request's."""
    return (seed + number * 104_729) % 2**63
