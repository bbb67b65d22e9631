"""Words and turns to segments of one speaker each, and the names that speakers get.

Owns the rule that words decide: each word belongs to the turn it overlaps most, a segment is cut where the speaker of
its words changes, and a single word between words of somebody else is taken for a slip of the times. Knows no HTTP and
no format.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import NamedTuple

from backends.interface import Segment, SpeakerTurns, Turn, Word

_CLOSE = 0.3  # seconds; a word nearer than this to both its neighbours is spoken in one breath with them
_LETTERS = 26


class _Placed(NamedTuple):
    """A word of a segment, and who says it."""

    word: Word
    segment: int
    speaker: int


def spoken_segments(segments: Sequence[Segment], turns: SpeakerTurns, names: Sequence[str] = ()) -> list[Segment]:
    """The segments with their speakers' names, cut where the speaker changes; names: of the known speakers."""
    index = _TurnIndex(turns.exclusive or turns.turns)
    timed = list(_words(segments))
    speakers = _smoothed(timed, [index.speaker(word.start, word.end) for word, _ in timed])
    placed = [_Placed(word, number, speaker) for (word, number), speaker in zip(timed, speakers, strict=True)]
    by_segment = {number: list(group) for number, group in groupby(placed, lambda one: one.segment)}
    labelled: list[tuple[Segment, int]] = []
    for number, segment in enumerate(segments):
        if number in by_segment:
            labelled += _cut(segment, by_segment[number])
        else:
            labelled.append((segment, index.speaker(segment.start, segment.end)))
    labels = speaker_labels([speaker for _, speaker in labelled], turns, names)
    return [_labelled(segment, number, labels[speaker]) for number, (segment, speaker) in enumerate(labelled)]


def speaker_labels(speakers: Iterable[int], turns: SpeakerTurns, names: Sequence[str] = ()) -> dict[int, str]:
    """The name of each speaker: as given where known, else letters in the order of `speakers`, then of the turns."""
    known = {
        speaker: names[number] for number, speaker in enumerate(turns.known) if speaker >= 0 and number < len(names)
    }
    order = dict.fromkeys([*speakers, *(turn.speaker for turn in (*turns.turns, *turns.exclusive))])
    free = letters(frozenset(names))
    return {speaker: known[speaker] if speaker in known else next(free) for speaker in order}


def letters(taken: frozenset[str] = frozenset()) -> Iterator[str]:
    """A to Z, then A2 to Z2 and so on, without those that are somebody's name already."""
    number = 0
    while True:
        letter = chr(ord("A") + number % _LETTERS) + (str(number // _LETTERS + 1) if number >= _LETTERS else "")
        if letter not in taken:
            yield letter
        number += 1


class _TurnIndex:
    """Turns that do not overlap, found by time."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = sorted(turns, key=lambda turn: turn.start)
        self._starts = [turn.start for turn in self._turns]

    def speaker(self, start: float, end: float) -> int:
        """Whose turn it is for most of start..end, else whose is nearest; 0 without any turn."""
        if not self._turns:
            return 0
        shares: dict[int, float] = {}
        first = max(0, bisect_right(self._starts, start) - 1)
        last = bisect_right(self._starts, end)
        for turn in self._turns[first:last]:
            shared = min(end, turn.end) - max(start, turn.start)
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + max(shared, 0.0)
        if any(shares.values()):
            return max(shares, key=lambda speaker: shares[speaker])
        near = self._turns[max(0, first - 1) : last + 1]
        return min(near, key=lambda turn: max(turn.start - end, start - turn.end)).speaker


def _words(segments: Sequence[Segment]) -> Iterator[tuple[Word, int]]:
    for number, segment in enumerate(segments):
        yield from ((word, number) for word in segment.words)


def _smoothed(words: Sequence[tuple[Word, int]], speakers: Sequence[int]) -> list[int]:
    """The speakers without single words in the midst of somebody else's."""
    smoothed = list(speakers)
    for index in range(1, len(smoothed) - 1):
        before, own, after = (words[index + step][0] for step in (-1, 0, 1))
        alone = smoothed[index - 1] == speakers[index + 1] != speakers[index]
        if alone and own.start - before.end < _CLOSE and after.start - own.end < _CLOSE:
            smoothed[index] = smoothed[index - 1]
    return smoothed


def _cut(segment: Segment, words: Sequence[_Placed]) -> list[tuple[Segment, int]]:
    """The segment's pieces of one speaker each, with their parts of its text."""
    groups = [list(group) for _, group in groupby(words, lambda one: one.speaker)]
    if len(groups) == 1:
        return [(segment, groups[0][0].speaker)]
    texts = _texts(segment.text, [[one.word.word for one in group] for group in groups])
    edges = [segment.start, *(group[0].word.start for group in groups[1:])]
    ends = [*(group[-1].word.end for group in groups[:-1]), segment.end]
    return [
        (_piece(segment, max(start, edges[0]), max(start, end), text, group), group[0].speaker)
        for start, end, text, group in zip(edges, ends, texts, groups, strict=True)
    ]


def _piece(segment: Segment, start: float, end: float, text: str, words: Sequence[_Placed]) -> Segment:
    """Tokens and log probabilities stay with the whole: which belong to which word is not known here."""
    return replace(
        segment, start=start, end=end, text=text, words=tuple(one.word for one in words), tokens=(), logprobs=()
    )


def _texts(text: str, groups: Sequence[Sequence[str]]) -> list[str]:
    """A segment's text cut before the first word of every group but the first; the words alone where they are not
    in it."""
    cuts, at = [0], 0
    for group in groups:
        for number, word in enumerate(group):
            start_of_word = text.find(word.strip(), at)
            if start_of_word < 0:
                return [" ".join(words) for words in groups]
            if number == 0 and group is not groups[0]:
                cuts.append(start_of_word)
            at = start_of_word + len(word.strip())
    return [text[start:end] for start, end in pairwise([*cuts, len(text)])]


def _labelled(segment: Segment, number: int, label: str) -> Segment:
    words = tuple(replace(word, speaker=label) for word in segment.words)
    return replace(segment, id=number, speaker=label, words=words)


def rttm(turns: SpeakerTurns, names: Sequence[str] = (), recording: str = "audio") -> str:
    """The turns as NIST's Rich Transcription Time Marked lines; blanks in a name become underscores."""
    labels: Mapping[int, str] = speaker_labels([], turns, names)
    return "".join(
        f"SPEAKER {recording} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> "
        f"{'_'.join(labels[turn.speaker].split())} <NA> <NA>\n"
        for turn in turns.turns
    )
