"""Who says what in a session: the segments before `completed`, the letters over several turns, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from app.errors import Overloaded
from app.realtime.speakers import MOST_VOICES, Speakers, Voices
from backends.interface import DiarizationRequest, Segment, SpeakerTurns, Turn, Word
from backends.live import LiveRequest
from tests.support.fake_pool import answer
from tests.support.live_pool import Socket, connected, realtime_server, silence, tone
from tests.support.server import FAKES, Running

EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
DIARIZE = "gpt-4o-transcribe-diarize"
T = "conversation.item.input_audio_transcription"
TARGET = f"/v1/realtime?intent=transcription&model={DIARIZE}"


@pytest.fixture(scope="module")
def diarizing() -> Iterator[Running]:
    tables = {**FAKES, "diarize": {"backend": "fake", "task": "diarization"}}
    tables["embedded-asr"] = {"backend": "whisper", "model": "whisper-base", "engine": "onnx", "device": "cpu"}
    with realtime_server(
        deployments=tables, aliases={"gpt-4o-transcribe": "embedded-asr", DIARIZE: "diarize"}
    ) as server:
        yield server


@pytest.fixture
def pool(diarizing: Running) -> Iterator[Any]:
    diarizing.pool.requests.clear()
    yield diarizing.pool
    diarizing.pool.script, diarizing.pool.fail_turn = answer, 0


def manual(socket: Socket, **transcription: Any) -> None:
    wanted = {"model": DIARIZE, **transcription}
    socket.update(audio={"input": {"turn_detection": None, "transcription": wanted}})


def turn(socket: Socket, seconds: float = 2.0) -> list[tuple[str, str]]:
    """A turn's speakers and their words."""
    before = len(socket.of(".segment"))
    socket.append(tone(seconds))
    socket.send("input_audio_buffer.commit")
    socket.until(f"{T}.completed")
    return [(event["speaker"], event["text"]) for event in socket.of(".segment")[before:]]


def test_segments_come_before_the_whole(diarizing: Running, pool: Any) -> None:
    with connected(diarizing, TARGET) as socket:
        assert socket.seen[0]["session"]["audio"]["input"]["transcription"]["model"] == DIARIZE
        socket.append(silence(0.5) + tone(2.2) + silence(1.0))
        done = socket.until(f"{T}.completed")
        assert socket.kinds()[-3:] == [f"{T}.segment", f"{T}.segment", f"{T}.completed"]
        first, second = socket.of(".segment")
        assert (first["speaker"], second["speaker"]) == ("A", "B")
        assert f"{first['text']} {second['text']}" == done["transcript"]
        assert {first["item_id"], second["item_id"]} == {done["item_id"]}
        assert (first["id"], second["id"], first["content_index"]) == ("seg_001", "seg_002", 0)
        assert first["start"] == 0.0
        assert first["end"] <= second["start"] < second["end"] == pytest.approx(done["usage"]["seconds"], abs=0.01)
        for event in socket.of(".segment"):
            assert EVENT.validate_python(event).type == f"{T}.segment"
    (live,) = (one for one in pool.requests if isinstance(one, LiveRequest))
    (asked,) = (one for one in pool.requests if isinstance(one, DiarizationRequest))
    assert live.words
    assert len(asked.samples) == pytest.approx(16_000 * done["usage"]["seconds"], abs=2)


def test_a_voice_keeps_its_letter_over_the_session(diarizing: Running, pool: Any) -> None:
    """The fake's second recording begins with the last voice of the first and goes on with a stranger."""
    with connected(diarizing, TARGET) as socket:
        manual(socket)
        assert turn(socket) == [("A", "one two"), ("B", "three four")]
        assert turn(socket) == [("B", "one two"), ("C", "three four")]
    asked = [one for one in pool.requests if isinstance(one, DiarizationRequest)]
    assert [len(one.references) for one in asked] == [0, 2]
    assert [len(clip) for clip in asked[1].references] == [16_000, 16_000]


def test_words_without_speakers_are_better_than_none(diarizing: Running, pool: Any) -> None:
    def script(request: Any) -> Any:
        if isinstance(request, DiarizationRequest):
            raise Overloaded("The queue is full.", retry_after=1.0)
        return answer(request)

    pool.script = script
    with connected(diarizing, TARGET) as socket:
        manual(socket)
        socket.append(tone(1.0))
        socket.send("input_audio_buffer.commit")
        error = socket.until("error")["error"]
        assert error["message"] == "The queue is full."
        assert socket.until(f"{T}.completed")["transcript"] == "one two"
        assert not socket.of(".segment")


def test_a_turn_that_is_not_transcribed_has_no_segments(diarizing: Running, pool: Any) -> None:
    pool.fail_turn = 1
    with connected(diarizing, TARGET) as socket:
        manual(socket)
        socket.append(tone(1.0))
        socket.send("input_audio_buffer.commit")
        socket.until(f"{T}.failed")
        assert not socket.of(".segment")
        assert len(turn(socket)) == 2


def test_another_model_has_no_segments(diarizing: Running, pool: Any) -> None:
    with connected(diarizing, TARGET) as socket:
        manual(socket, model="fake-asr")
        assert turn(socket) == []
        manual(socket)
        assert len(turn(socket)) == 2
    assert [one.words for one in pool.requests if isinstance(one, LiveRequest)] == [True, False, True]


def test_a_conversation_tells_its_speakers_too(diarizing: Running, pool: Any) -> None:
    with connected(diarizing, "/v1/realtime?model=gpt-realtime") as socket:
        wanted = {"input": {"transcription": {"model": DIARIZE}, "turn_detection": None}}
        socket.update("realtime", audio=wanted)
        assert [speaker for speaker, _ in turn(socket)] == ["A", "B"]


@pytest.mark.parametrize("field", [{"prompt": "Godot"}, {"keywords": ["Godot"]}])
def test_a_prompt_is_refused_as_by_the_http_route(diarizing: Running, field: dict[str, Any]) -> None:
    with connected(diarizing, TARGET) as socket:
        transcription = {"model": DIARIZE, **field}
        socket.send(
            "session.update", session={"type": "transcription", "audio": {"input": {"transcription": transcription}}}
        )
        error = socket.until("error")["error"]
        assert (error["code"], error["param"]) == (
            "unsupported_parameter",
            "session.audio.input.transcription.prompt",
        )


# --- Voices and letters alone -----------------------------------------------------------------------------------------


def told(*speakers: int, known: tuple[int, ...] = ()) -> SpeakerTurns:
    """One second of each speaker after the other."""
    turns = tuple(Turn(float(at), at + 1.0, speaker) for at, speaker in enumerate(speakers))
    return SpeakerTurns(turns, turns, known)


def said(seconds: int) -> list[Segment]:
    return [Segment(at, float(at), at + 1.0, f" w{at}", words=(Word(f"w{at}", at, at + 1.0),)) for at in range(seconds)]


def numbers(turns: SpeakerTurns) -> list[int]:
    return [turn.speaker for turn in turns.exclusive]


def test_a_voice_is_known_by_its_clip() -> None:
    voices, audio = Voices(), np.arange(48_000, dtype=np.float32)
    assert numbers(voices.recognized(told(0, 1, 0), audio)) == [0, 1, 0]
    first, second = voices.references()
    assert first.tolist() == [*audio[:16_000], *audio[32_000:]]
    assert second.tolist() == audio[16_000:32_000].tolist()
    assert numbers(voices.recognized(told(0, 1, known=(-1, 0)), audio)) == [1, 2]
    assert [clip[0] for clip in voices.references()] == [0, 16_000, 16_000]
    assert [len(clip) for clip in voices.references()] == [32_000, 32_000, 16_000]
    for _ in range(9):
        voices.recognized(told(0, 0, known=(0,)), audio)
    assert max(len(clip) for clip in voices.references()) == 6 * 16_000


def test_the_voice_that_was_silent_longest_is_forgotten() -> None:
    voices, audio = Voices(), np.zeros(16_000, np.float32)
    for number in range(MOST_VOICES + 1):
        assert numbers(voices.recognized(told(0, known=()), audio)) == [number]
    assert len(voices.references()) == MOST_VOICES
    assert numbers(voices.recognized(told(0, known=(0,)), audio)) == [1]  # the oldest that is left


def test_letters_go_to_those_who_say_words() -> None:
    speakers = Speakers()
    silent = SpeakerTurns((Turn(8.0, 9.0, 0), *told(2, 5).turns), told(2, 5).exclusive)
    assert [one.speaker for one in speakers.segments(said(2), silent)] == ["A", "B"]
    assert [(one.id, one.speaker) for one in speakers.segments(said(1), told(0))] == [(3, "C")]
    assert [one.speaker for one in speakers.segments(said(1), told(5))] == ["B"]


def test_words_without_a_voice_are_the_last_speakers() -> None:
    speakers = Speakers()
    assert [one.speaker for one in speakers.segments(said(1), SpeakerTurns())] == ["A"]
    assert [one.speaker for one in speakers.segments(said(2), told(0, 1))] == ["A", "B"]
    assert [one.speaker for one in speakers.segments(said(1), SpeakerTurns())] == ["B"]
