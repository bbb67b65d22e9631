"""When words of live speech are certain: rules on the hypotheses of one turn.

Owns what was confirmed. Knows tokens and words, and neither audio nor the network; a policy is an object, so that
another one can stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from backends.whisper.network import Floats
from backends.whisper.timing import split_words
from backends.whisper.tokenizer import WhisperTokenizer

_FROM_END = 25  # positions, half a second, within which a word may not be whole
_REWIND = 200  # positions, 4 s

Attention = Callable[[], Floats]
"""Called where it is needed: how much each token of a hypothesis is about each 20 ms of audio, [tokens, positions]."""


class Policy(Protocol):
    """confirmed: tokens of the turn that will not change; chunk_seconds: of new speech between two hypotheses, at
    least."""

    confirmed: list[int]
    chunk_seconds: ClassVar[float]

    def take(self, continuation: Sequence[int], language: str | None, attention: Attention) -> int:
        """Note a hypothesis that continues what is confirmed; returns how many of its tokens are so now."""


@dataclass(slots=True)
class LocalAgreement:
    """LocalAgreement-2 (Liu et al. 2020): what two hypotheses in a row agree on is confirmed, in whole words.

    The last word of a hypothesis is never: the audio may end within it.
    """

    chunk_seconds: ClassVar[float] = 0.6

    tokenizer: WhisperTokenizer
    confirmed: list[int] = field(default_factory=list)
    _before: list[int] = field(default_factory=list)

    def take(self, continuation: Sequence[int], language: str | None, attention: Attention) -> int:
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


@dataclass(slots=True)
class AlignAtt:
    """AlignAtt (Papi et al. 2023): a single hypothesis is confirmed as far as the model attends to audio that lies well
    before its end, in whole words and without the last of these.

    A hypothesis whose attention jumps far back has lost its way, and confirms nothing.
    """

    chunk_seconds: ClassVar[float] = 1.0

    tokenizer: WhisperTokenizer
    confirmed: list[int] = field(default_factory=list)

    def take(self, continuation: Sequence[int], language: str | None, attention: Attention) -> int:
        rows = attention()
        settled, last = 0, 0
        for position in rows.argmax(axis=1).tolist() if rows.size else ():
            if last - position > _REWIND:
                return 0
            if position >= rows.shape[1] - _FROM_END:
                break
            settled, last = settled + 1, position
        words = split_words(continuation[:settled], self.tokenizer, language)
        count = sum(len(word.tokens) for word in words[:-1])
        self.confirmed += continuation[:count]
        return count


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


POLICIES: Mapping[str, Callable[[WhisperTokenizer], Policy]] = {
    "local_agreement": LocalAgreement,
    "align_att": AlignAtt,
}
