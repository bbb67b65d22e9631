"""How much of a spoken answer was heard: which words belong to which part of its audio.

Owns the estimate within one piece of text, by its length. Knows no event.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.realtime.formats import AudioFormat


@dataclass(slots=True)
class Spoken:
    """What of an item was sent as audio: pieces of text, and where the audio of each begins, bytes."""

    format: AudioFormat
    pieces: list[tuple[int, str]] = field(default_factory=list)
    size: int = 0

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(text for _, text in self.pieces)

    @property
    def milliseconds(self) -> int:
        return int(self.format.seconds(self.size) * 1000)

    def text_until(self, milliseconds: int) -> str:
        """The words whose audio begins within that time, as far as the length of each piece tells."""
        end = self.format.seconds(self.size) * 1000
        edges = [*(self.format.seconds(start) * 1000 for start, _ in self.pieces), end]
        texts = []
        for (_, text), start, stop in zip(self.pieces, edges[:-1], edges[1:], strict=True):
            share = 1.0 if milliseconds >= stop else max(0.0, milliseconds - start) / max(1.0, stop - start)
            texts.append(text if share >= 1.0 else _words(text, share))
        return "".join(texts).rstrip()


def _words(text: str, share: float) -> str:
    """So much of a text, in whole words."""
    cut = text[: int(len(text) * share)]
    return cut if not cut or text[len(cut) : len(cut) + 1].isspace() else cut.rpartition(" ")[0]
