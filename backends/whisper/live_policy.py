"""When words of live speech are certain: rules on successive hypotheses of one turn.

Owns what was confirmed. Knows tokens and words, and neither audio nor the network; a policy is an object, so that
another one can stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backends.whisper.timing import split_words
from backends.whisper.tokenizer import WhisperTokenizer


class Policy(Protocol):
    """confirmed: tokens of the turn that will not change."""

    confirmed: list[int]

    def take(self, continuation: Sequence[int], language: str | None) -> int:
        """Note a hypothesis that continues what is confirmed; returns how many of its tokens are so now."""


@dataclass(slots=True)
class LocalAgreement:
    """LocalAgreement-2 (Liu et al. 2020): what two hypotheses in a row agree on is confirmed, in whole words.

    The last word of a hypothesis is never: the audio may end within it.
    """

    tokenizer: WhisperTokenizer
    confirmed: list[int] = field(default_factory=list)
    _before: list[int] = field(default_factory=list)

    def take(self, continuation: Sequence[int], language: str | None) -> int:
        tokens = list(continuation)
        agreed = _common(self._before, tokens)
        words = split_words(tokens, self.tokenizer, language)
        count = 0
        for word in words[:-1]:
            if count + len(word.tokens) > agreed:
                break
            count += len(word.tokens)
        self.confirmed += tokens[:count]
        self._before = tokens[count:]
        return count


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
