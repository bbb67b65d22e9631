"""The client's audio as it came, for as long as it may still become part of an item.

Owns the time line: seconds of audio appended since the session began, which the recognizer's times count on too. Knows
no turn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from app.realtime.formats import AudioFormat

_LEAST_PIECE = 4096  # bytes; shorter ones are joined


@dataclass(frozen=True, slots=True)
class _Piece:
    start: float
    data: bytes
    format: AudioFormat

    @property
    def end(self) -> float:
        return self.start + self.format.seconds(len(self.data))


class Tape:
    """Bytes by time. keeps: whether they are wanted at all, or only counted."""

    def __init__(self, *, keeps: bool, most_bytes: int) -> None:
        self.seconds = 0.0
        self.keeps, self._most_bytes, self._held = keeps, most_bytes, 0
        self._pieces: deque[_Piece] = deque()
        self._odd = b""  # the beginning of a sample whose rest comes with the next piece
        self._format = AudioFormat()

    def push(self, data: bytes, form: AudioFormat) -> bytes:
        """Take what was appended; returns it in whole samples."""
        if form != self._format:
            self._format, self._odd = form, b""
        data = self._odd + data
        cut = len(data) - len(data) % form.width
        data, self._odd = data[:cut], data[cut:]
        if data and self.keeps:
            self._keep(data, form)
        self.seconds += form.seconds(len(data))
        return data

    def forget(self, until: float) -> None:
        """Drop what ends before `until` seconds."""
        while self._pieces and self._pieces[0].end <= until:
            self._drop_first()

    def cut(self, start: float, end: float) -> tuple[bytes, AudioFormat]:
        """The bytes between two times, as far as they are kept, in the format of the first of them."""
        found = [piece for piece in self._pieces if piece.end > start and piece.start < end]
        if not found:
            return b"", self._format
        form = found[0].format
        return b"".join(_between(piece, start, end) for piece in found if piece.format == form), form

    def _keep(self, data: bytes, form: AudioFormat) -> None:
        """Behind what is there, in pieces that are worth a list's entry each."""
        self._held += len(data)
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.format == form and len(last.data) < _LEAST_PIECE:
            self._pieces[-1] = _Piece(last.start, last.data + data, form)
        else:
            self._pieces.append(_Piece(self.seconds, data, form))
        while self._held > self._most_bytes and len(self._pieces) > 1:
            self._drop_first()

    def _drop_first(self) -> None:
        self._held -= len(self._pieces.popleft().data)


def _between(piece: _Piece, start: float, end: float) -> bytes:
    form = piece.format
    return piece.data[form.size(max(0.0, start - piece.start)) : form.size(max(0.0, end - piece.start) + 1e-6)]
