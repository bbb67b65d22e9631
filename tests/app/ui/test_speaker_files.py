"""Who said what as files, with the names that a visitor gave, from documents that a browser sends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.ui import html
from app.ui.speaker_files import speaker_file, turns_in

HOSTILE = '<img src=x onerror="alert(1)">'


def document(*said: tuple[float, float, str, str]) -> dict[str, Any]:
    segments = [
        {"type": "transcript.text.segment", "id": f"seg_{n:03d}", "start": a, "end": b, "text": text, "speaker": who}
        for n, (a, b, text, who) in enumerate(said, 1)
    ]
    return {"task": "transcribe", "duration": 9.0, "text": "", "segments": segments}


TALK = document((0, 1, " Good morning.", "A"), (1, 2.5, " How are you?", "A"), (3, 4, " Fine.", "B"))
NAMES = {"A": "Ann  Lee", "B": "B"}


def test_neighbours_of_one_speaker_are_one_turn() -> None:
    found = [(turn.start, turn.end, turn.text, turn.speaker) for turn in turns_in(TALK)]
    assert found == [(0, 2.5, "Good morning. How are you?", "A"), (3, 4, "Fine.", "B")]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("txt", "Ann Lee: Good morning. How are you?\nB: Fine.\n"),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:01,000\nAnn Lee: Good morning.\n\n"
            "2\n00:00:01,000 --> 00:00:02,500\nAnn Lee: How are you?\n\n"
            "3\n00:00:03,000 --> 00:00:04,000\nB: Fine.\n\n",
        ),
        (
            "rttm",
            "SPEAKER audio 1 0.000 2.500 <NA> <NA> Ann_Lee <NA> <NA>\n"
            "SPEAKER audio 1 3.000 1.000 <NA> <NA> B <NA> <NA>\n",
        ),
    ],
)
def test_a_file_has_the_names_that_were_given(form: str, expected: str) -> None:
    assert speaker_file(TALK, NAMES, form) == expected


def test_vtt_marks_voices_and_json_stays_the_apis_document() -> None:
    assert "<v Ann Lee>Good morning." in speaker_file(TALK, NAMES, "vtt")
    named = json.loads(speaker_file(TALK, NAMES, "json"))
    assert [one["speaker"] for one in named["segments"]] == ["Ann Lee", "Ann Lee", "B"]
    assert {name: value for name, value in named.items() if name != "segments"} == {
        name: value for name, value in TALK.items() if name != "segments"
    }


def test_two_speakers_who_get_one_name_are_one_voice() -> None:
    told = speaker_file(document((0, 1, "a", "A"), (1, 2, "b", "B")), {"B": "A"}, "rttm")
    assert told == "SPEAKER audio 1 0.000 2.000 <NA> <NA> A <NA> <NA>\n"


@pytest.mark.parametrize(
    ("given", "names", "form"),
    [
        (None, {}, "txt"),
        ([], {}, "txt"),
        ({"segments": [{"start": "0"}]}, {}, "txt"),
        ({"segments": [{"start": -1, "end": 2, "text": "a", "speaker": "A"}]}, {}, "txt"),
        (TALK, {"A": "x" * 65}, "txt"),
        (TALK, ["A"], "txt"),
        (TALK, {}, "exe"),
    ],
)
def test_what_is_no_conversation_is_refused(given: Any, names: Any, form: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        speaker_file(given, names, form)


def test_turns_are_drawn_in_their_speakers_colours() -> None:
    shown = html.turns(turns_in(TALK), "/ui/file=a b.wav")
    assert shown.count('class="sg-turn sg-voice-0"') == shown.count('class="sg-turn sg-voice-1"') == 1
    assert 'data-start="0.000" data-end="2.500"' in shown
    assert "0:00.0 to 0:02.5" in shown
    many = document(*((n, n + 1, "x", f"S{n}") for n in range(9)))
    assert html.turns(turns_in(many), "").count('class="sg-turn sg-voice-0"') == 2
    assert "Nobody speaks" in html.turns([], "")
    late = html.turns(turns_in(document((3723.96, 3724.04, "x", "A"))), "")
    assert "1:02:04.0 to 1:02:04.0" in late


def test_what_comes_from_outside_is_escaped() -> None:
    shown = html.turns(turns_in(document((0, 1, HOSTILE, HOSTILE))), f'"{HOSTILE}')
    assert "<img" not in shown
