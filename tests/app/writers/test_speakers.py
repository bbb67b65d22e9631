"""Who says which word, where segments are cut, and what speakers are called."""

from __future__ import annotations

import pytest

from app.writers.speakers import rttm, speaker_labels, spoken_segments
from app.writers.subtitles import srt, vtt
from backends.interface import Segment, SpeakerTurns, Turn, Word


def words(text: str, start: float = 0.0, each: float = 0.5) -> tuple[Word, ...]:
    return tuple(Word(word, start + n * each, start + (n + 1) * each) for n, word in enumerate(text.split()))


def segment(text: str, start: float = 0.0, number: int = 0) -> Segment:
    timed = words(text, start)
    return Segment(number, start, timed[-1].end, text, words=timed, tokens=(1, 2))


def told(*turns: tuple[float, float, int], known: tuple[int, ...] = ()) -> SpeakerTurns:
    found = tuple(Turn(*turn) for turn in turns)
    return SpeakerTurns(found, found, known)


def said(found: list[Segment]) -> list[tuple[str | None, str]]:
    return [(one.speaker, one.text) for one in found]


def test_a_segment_is_cut_where_the_speaker_of_its_words_changes() -> None:
    found = spoken_segments([segment(" How are you? Fine, and you?")], told((0, 1.5, 0), (1.5, 3, 1)))
    assert said(found) == [("A", " How are you? "), ("B", "Fine, and you?")]
    assert [(one.start, one.end, one.id) for one in found] == [(0, 1.5, 0), (1.5, 3, 1)]
    assert [word.speaker for one in found for word in one.words] == ["A"] * 3 + ["B"] * 3


def test_a_segment_of_one_speaker_stays_whole() -> None:
    (found,) = spoken_segments([segment("one two three")], told((0, 9, 3)))
    assert (found.speaker, found.text, found.tokens) == ("A", "one two three", (1, 2))


def test_a_single_word_in_the_midst_of_another_speaker_is_a_slip() -> None:
    turns = told((0, 1, 0), (1, 1.5, 1), (1.5, 3, 0))
    assert said(spoken_segments([segment("a b c d e f")], turns)) == [("A", "a b c d e f")]
    apart = Segment(0, 0, 6, "a b yes c d", words=(*words("a b"), Word("yes", 2, 2.5), *words("c d", 4)))
    turns = told((0, 1, 0), (1.9, 2.6, 1), (4, 6, 0))
    assert said(spoken_segments([apart], turns)) == [("A", "a b "), ("B", "yes "), ("A", "c d")]


def test_a_word_outside_all_turns_goes_to_the_nearest() -> None:
    turns = told((0, 1, 0), (5, 6, 1))
    lone = [Segment(n, at, at + 0.4, "w", words=(Word("w", at, at + 0.4),)) for n, at in enumerate((1.5, 4.0, 9.0))]
    assert [one.speaker for one in spoken_segments(lone, turns)] == ["A", "B", "B"]


def test_segments_without_words_go_to_who_speaks_most_in_them() -> None:
    bare = [Segment(0, 0, 4, "long"), Segment(1, 4, 5, "short")]
    assert said(spoken_segments(bare, told((0, 1, 0), (1, 5, 1)))) == [("A", "long"), ("A", "short")]
    assert said(spoken_segments(bare, SpeakerTurns())) == [("A", "long"), ("A", "short")]


def test_letters_follow_the_order_of_the_words_and_known_speakers_their_names() -> None:
    talk = [segment("a a"), segment("b b", 1, 1), segment("c c", 2, 2)]
    turns = told((0, 1, 0), (1, 2, 1), (2, 3, 2), known=(2, -1, 0))
    assert [one.speaker for one in spoken_segments(talk, turns, ("Cyd", "Nobody", "Ann"))] == ["Ann", "A", "Cyd"]
    assert [one.speaker for one in spoken_segments(talk[1:], turns, ())] == ["A", "B"]


def test_a_letter_is_never_somebody_elses_name_and_there_are_enough() -> None:
    many = told(*((n, n + 1, n) for n in range(30)), known=(5,))
    labels = speaker_labels([], many, ("A",))
    assert len(set(labels.values())) == 30
    assert (labels[0], labels[5], labels[29]) == ("B", "A", "D2")


def test_text_that_is_not_its_words_is_cut_by_the_words() -> None:
    strange = Segment(0, 0, 2, "@@@", words=words("a b c d"))
    assert said(spoken_segments([strange], told((0, 1, 0), (1, 2, 1)))) == [("A", "a b"), ("B", "c d")]


def test_japanese_is_cut_between_characters() -> None:
    spoken = (Word("はい", 0, 1), Word("そう", 1, 2), Word("です", 2, 3), Word("ね", 3, 4))
    found = spoken_segments([Segment(0, 0, 4, "はいそうですね", words=spoken)], told((0, 2, 0), (2, 4, 1)))
    assert said(found) == [("A", "はいそう"), ("B", "ですね")]


def test_subtitles_bear_the_speakers_names() -> None:
    found = [Segment(0, 0, 1, "Hi.", speaker="Ann <b>"), Segment(1, 1, 2, "Yes?")]
    assert "Ann b: Hi." in srt(found)
    assert "<v Ann b>Hi." in vtt(found)
    assert "\nYes?" in srt(found)


@pytest.mark.parametrize(("names", "label"), [((), "A"), (("Ann Lee",), "Ann_Lee")])
def test_rttm_has_a_line_per_turn(names: tuple[str, ...], label: str) -> None:
    turns = told((0.5, 2.25, 0), (2, 3, 1), known=(0,) if names else ())
    first, second = rttm(turns, names).splitlines()
    assert first == f"SPEAKER audio 1 0.500 1.750 <NA> <NA> {label} <NA> <NA>"
    assert second.split()[3:5] == ["2.000", "1.000"]
