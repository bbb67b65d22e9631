"""The context of a request as segments, and the history of answers, kept as codes under their ids.

An answer that comes back as context is never encoded again: what the model said is exactly what it remembers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from backends.csm.voices import Encode, Segment, Voices, speaker_number, trimmed
from backends.interface import ContextTurn, InvalidInput

_ANSWERS_KEPT = 256  # about 10 kB each


class AnswerHistory:
    """The last answers by id, each as the segments (sentences) that were spoken."""

    def __init__(self, kept: int = _ANSWERS_KEPT) -> None:
        self._kept, self._answers = kept, OrderedDict[str, tuple[Segment, ...]]()

    def keep(self, answer_id: str, segments: Sequence[Segment]) -> None:
        if answer_id and segments:
            self._answers[answer_id] = tuple(segments)
            self._answers.move_to_end(answer_id)
            while len(self._answers) > self._kept:
                self._answers.popitem(last=False)

    def segments(self, answer_id: str) -> tuple[Segment, ...]:
        """Raises InvalidInput for an answer that was never given here, or is too long ago."""
        if answer_id not in self._answers:
            raise InvalidInput(
                f"there is no earlier answer {answer_id!r} (the last {self._kept} are kept)", param="context"
            )
        self._answers.move_to_end(answer_id)
        return self._answers[answer_id]


def context_segments(
    turns: Sequence[ContextTurn], history: AnswerHistory, voices: Voices, encode: Encode, rate: int
) -> list[Segment]:
    """The segments of the context's turns, in order. Raises InvalidInput for one without audio, text or speaker."""
    segments: list[Segment] = []
    for turn in turns:
        if turn.answer_id:
            segments += history.segments(turn.answer_id)
            continue
        if turn.samples is None or not len(turn.samples):
            raise InvalidInput("every turn of the context needs its audio or the id of an answer", param="context")
        if not turn.text.strip():
            raise InvalidInput("every turn of the context needs the text of its audio", param="context")
        codes = encode(trimmed(turn.samples, rate)).cpu()
        segments.append(Segment(_speaker(turn.speaker, voices), turn.text.strip(), codes))
    return segments


def _speaker(name: str, voices: Voices) -> int:
    """A number, or the number of a voice."""
    number = speaker_number(name)
    if number is not None:
        return number
    try:
        return voices.voice(name).speaker
    except InvalidInput as error:
        raise InvalidInput(f"unknown speaker in the context: {error.message}", param="context") from error
