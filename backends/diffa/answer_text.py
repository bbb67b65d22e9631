"""Readable text out of blocks of ids, as they are finished.

Owns what may be shown already: an answer ends at its first end token or stop text, has no surrounding white space, and
a character whose bytes are not complete yet waits. Knows no tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from backends.diffa.tokens import Tokenizer

_INCOMPLETE = "\ufffd"


class AnswerText:
    """The text so far. All that `add` and `finish` return, joined, is `text`."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._shown = ""
        self.ended = self.stopped = False  # by an end token or a stop text; by a stop text
        self.tokens = 0  # up to and including the end token

    @property
    def text(self) -> str:
        return self._shown

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        return "stop" if self.ended else "length"

    def add(self, ids: Sequence[int]) -> str:
        """Take a finished block; returns the new part of the text that can no longer change."""
        if self.ended:
            return ""
        until_end = self._tokenizer.until_end(ids)
        self.ended = len(until_end) < len(ids)
        self.tokens += len(until_end) + self.ended
        self._ids += until_end
        text = self._cut_at_stop(self._tokenizer.decode(self._ids).lstrip())
        return self._show(text.rstrip() if self.ended else self._final_part(text))

    def finish(self) -> str:
        """End the answer; returns the text that was held back."""
        return "" if self.ended else self._show(self._tokenizer.decode(self._ids).strip())

    def _show(self, text: str) -> str:
        new, self._shown = text[len(self._shown) :], text
        return new

    def _cut_at_stop(self, text: str) -> str:
        ends = [index for stop in self._stop if (index := text.find(stop)) >= 0]
        if ends:
            self.ended = self.stopped = True
            return text[: min(ends)]
        return text

    def _final_part(self, text: str) -> str:
        """Text without trailing white space, an incomplete character, or the beginning of a stop text."""
        text = text.rstrip(_INCOMPLETE).rstrip()
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        return text[: len(text) - held].rstrip() if held else text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
