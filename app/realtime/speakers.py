"""Who says what in a session's turns: the letters of its voices, and the segments that clients are told.

Owns which number a voice has over the whole session, the clips by which it is known again, and its letter. Runs
nothing, and knows no event.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from app.writers.speakers import letters, spoken_segments
from backends.interface import ASR_SAMPLE_RATE, Samples, Segment, SpeakerTurns, Turn

CLIP_SECONDS = 6.0  # of a voice that are kept, from its first turns: more makes its embedding hardly better
MOST_VOICES = 16  # that can be known again: each costs an embedding, and its clip 384 KB


class Voices:
    """The voices of one session, numbered in order of appearance; who was silent longest is forgotten first."""

    def __init__(self) -> None:
        self._clips: OrderedDict[int, Samples] = OrderedDict()
        self._count = 0

    def references(self) -> tuple[Samples, ...]:
        """Clips to know them by, float32 [time] at 16 kHz."""
        return tuple(self._clips.values())

    def recognized(self, found: SpeakerTurns, samples: Samples) -> SpeakerTurns:
        """The turns of one recording with the session's numbers. found: told with `references`; its voices, of which
        `samples` are, are known from now on."""
        numbers = dict(zip(found.known, self._clips, strict=False))
        for local in dict.fromkeys(turn.speaker for turn in (*found.turns, *found.exclusive)):
            if local not in numbers:
                numbers[local] = self._count
                self._count += 1
            self._remember(numbers[local], _speech(found.exclusive, local, samples))
        while len(self._clips) > MOST_VOICES:
            self._clips.popitem(last=False)
        turns, exclusive = _renumbered(found.turns, numbers), _renumbered(found.exclusive, numbers)
        return SpeakerTurns(turns, exclusive)

    def _remember(self, number: int, speech: Iterator[Samples]) -> None:
        clip = self._clips.get(number, np.zeros(0, np.float32))
        most = int(CLIP_SECONDS * ASR_SAMPLE_RATE)
        for piece in speech:
            if len(clip) < most:
                clip = np.concatenate([clip, piece[: most - len(clip)]])
        self._clips[number] = clip
        self._clips.move_to_end(number)


def _speech(turns: Sequence[Turn], speaker: int, samples: Samples) -> Iterator[Samples]:
    for turn in turns:
        if turn.speaker == speaker:
            yield samples[int(turn.start * ASR_SAMPLE_RATE) : int(turn.end * ASR_SAMPLE_RATE)]


def _renumbered(turns: Sequence[Turn], numbers: dict[int, int]) -> tuple[Turn, ...]:
    return tuple(replace(turn, speaker=numbers[turn.speaker]) for turn in turns)


class Speakers:
    """The letters of the session's voices, in the order in which words of theirs are told."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}
        self._free = letters()
        self._last = 0  # voice of the last segment
        self._segments = 0

    def segments(self, segments: Sequence[Segment], turns: SpeakerTurns) -> list[Segment]:
        """One turn's segments, each of one speaker, numbered over the session. Where no voice was found the words are
        those of the last one."""
        if not turns.turns and not turns.exclusive:
            turns = SpeakerTurns(exclusive=(Turn(0.0, 0.0, self._last),))
        count = 1 + max(turn.speaker for turn in (*turns.turns, *turns.exclusive))
        numbered = replace(turns, known=tuple(range(count)))  # so that a speaker's name is its number
        return [self._lettered(one) for one in spoken_segments(segments, numbered, [str(n) for n in range(count)])]

    def _lettered(self, segment: Segment) -> Segment:
        voice = segment.speaker or "0"
        if voice not in self._letters:
            self._letters[voice] = next(self._free)
        self._last = int(voice)
        self._segments += 1
        return replace(segment, id=self._segments, speaker=self._letters[voice])
