"""What a window is decoded after: keywords to expect, the client's prompt, and the text of the window before.

Owns how the decoder's positions are shared between them. Knows tokens, no network.

Whisper has no other way to be told of words than text that seems to have come before. Keywords stand first, so that
neither a long prompt nor the text of a window before pushes them out, and have a share of their own, so that they leave
room for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from backends.whisper.active_window import ActiveWindow, DecodingOptions
from backends.whisper.repetition import without_repeats
from backends.whisper.tokenizer import SpecialTokens, WhisperTokenizer


@dataclass(frozen=True, slots=True)
class Given:
    """What a client's prompt and keywords became. repeats: repetitions were cut out of the prompt; left_out: how many
    keywords found no room."""

    prompt: list[int] = field(default_factory=list)
    glossary: list[int] = field(default_factory=list)
    repeats: bool = False
    left_out: int = 0


class PromptWriter:
    """Writes the text before a window. positions: of the decoder, half of which that text may take."""

    def __init__(self, tokenizer: WhisperTokenizer, special: SpecialTokens, positions: int) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._room = positions // 2 - 1

    def given(self, options: DecodingOptions) -> Given:
        """The prompt and the keywords as tokens; keywords that come twice, in whatever case, are said once."""
        prompt = options.prompt.strip()
        tokens = self._tokenizer.encode(f" {prompt}") if prompt else []
        kept = without_repeats(tokens)
        glossary, left_out = self._glossary(options.keywords)
        return Given(kept, glossary, len(kept) < len(tokens), left_out)

    def _glossary(self, keywords: Sequence[str]) -> tuple[list[int], int]:
        """As many whole keywords, from the first on, as half the room holds, and how many others there are."""
        once = list({keyword.casefold(): keyword for keyword in reversed(keywords)}.values())[::-1]
        tokens: list[int] = []
        for number, keyword in enumerate(once):
            more = self._tokenizer.encode(f", {keyword}" if number else f" {keyword}")
            if len(tokens) + len(more) >= self._room // 2:
                return self._ended(tokens), len(once) - number
            tokens += more
        return self._ended(tokens), 0

    def _ended(self, glossary: list[int]) -> list[int]:
        """A full stop, lest the answer goes on with the list."""
        return [*glossary, *self._tokenizer.encode(".")] if glossary else []

    def before(self, item: ActiveWindow) -> list[int]:
        """<|startofprev|>, the keywords, and the end of what the user or the window before said."""
        if self._special.previous is None or self._room <= 0:
            return []
        given = Given() if item.prompt_left_out else self.given(item.decoding_options)
        room = self._room - len(given.glossary)
        text = [*given.glossary, *[*given.prompt, *item.window.context][-room:]]
        return [self._special.previous, *text] if text else []
