"""The core alone, without sockets or models: the faults that other servers of this protocol were known for."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import pytest

from app.config.deployments import Deployments
from app.realtime.core import Core, Opening, events
from app.realtime.outputs import Audio, Feed, IdleTimer, Output, Respond, Stop
from app.realtime.participants import find
from app.realtime.session import Kind, Surroundings
from backends.interface import Usage
from backends.live import CommitRefused, TurnCommitted, TurnDelta, TurnDone, TurnStarted, TurnStopped
from tests.support.live_pool import CONTENT, connected, tone
from tests.support.server import Running, fake_settings

KNOWN = Deployments.from_settings(fake_settings())
T = "conversation.item.input_audio_transcription"


def core(kind: Kind = "realtime", **opening: Any) -> Core:
    numbers = itertools.count()
    surroundings = Surroundings(lambda name: find(KNOWN, name, "transcription"), transcription="fake-asr")
    return Core(Opening(kind, "", 99, **opening), surroundings, lambda prefix: f"{prefix}{next(numbers)}")


def outputs(one: Core, kind: str, **fields: Any) -> list[Output]:
    one.receive({"type": kind, **fields})
    return one.take_outputs()


def kinds(taken: list[Output]) -> list[str]:
    return [event["type"] for event in events(taken)]


def speak(one: Core, turn: int = 0, start: float = 0.0) -> list[Output]:
    """A turn that detection found, up to its commit."""
    outputs(one, "input_audio_buffer.append", audio=base64.b64encode(tone(1.0)).decode())
    one.recognized(TurnStarted(turn, start))
    one.recognized(TurnStopped(turn, start + 1.0))
    one.recognized(TurnCommitted(turn, start, start + 1.0))
    return one.take_outputs()


def plans(taken: list[Output]) -> list[Respond]:
    return [output for output in taken if isinstance(output, Respond)]


def test_an_answer_is_announced_at_the_commit_and_made_once_the_words_are_known() -> None:
    """A client cancels after some seconds without `response.created`."""
    one = core()
    taken = speak(one)
    assert kinds(taken)[-1] == "response.created"
    assert not plans(taken)
    one.recognized(TurnDone(0, " Hello.", 1.0))
    plan = plans(one.take_outputs())[0].plan
    assert [part.text for part in plan.history] == ["Hello."]


def test_a_chat_that_takes_audio_does_not_wait_for_the_words() -> None:
    taken = speak(core(takes_audio=True))
    plan = plans(taken)[0].plan
    assert plan.history[0].audio == tone(1.0)


def test_a_noise_is_not_answered() -> None:
    one = core()
    speak(one)
    one.recognized(TurnDone(0, "", 1.0))
    taken = one.take_outputs()
    assert kinds(taken) == ["response.done"]
    assert events(taken)[0]["response"]["output"] == []


def test_cancel_does_not_touch_a_transcription() -> None:
    one = core()
    outputs(one, "session.update", session={"audio": {"input": {"transcription": {"model": "fake-asr"}}}})
    speak(one)
    assert kinds(outputs(one, "response.cancel")) == ["response.done"]
    one.recognized(TurnDone(0, "Hello.", 1.0))
    assert kinds(one.take_outputs()) == [f"{T}.delta", f"{T}.completed"]


def test_updates_of_instructions_count_at_once() -> None:
    one = core()
    for text in ("One.", "Two."):
        outputs(one, "session.update", session={"type": "realtime", "instructions": text})
        plan = plans(outputs(one, "response.create"))[0].plan
        assert plan.instructions == text
        one.answered(plan.response_id, Usage())


def test_a_double_commit_is_one_item_and_one_error_of_the_second() -> None:
    one = core("transcription")
    outputs(one, "input_audio_buffer.append", audio=base64.b64encode(tone(1.0)).decode())
    for name in ("first", "second"):
        assert [type(output) for output in outputs(one, "input_audio_buffer.commit", event_id=name)] == [Feed]
    one.recognized(TurnCommitted(0, 0.0, 1.0))
    one.recognized(CommitRefused(0.0))
    error = events(one.take_outputs())[-1]["error"]
    assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "second")


def test_deltas_are_never_taken_back_and_nothing_is_repeated() -> None:
    one = core("transcription")
    one.recognized(TurnDelta(0, " Hello"))
    one.recognized(TurnCommitted(0, 0.0, 1.0))
    one.recognized(TurnDone(0, " Hullo there.", 1.0))
    taken = events(one.take_outputs())
    assert [event["delta"] for event in taken if event["type"] == f"{T}.delta"] == ["Hello"]
    assert taken[-1]["transcript"] == "Hullo there."
    assert {event.get("content_index", 0) for event in taken} == {0}


def test_a_transcription_session_keeps_no_audio() -> None:
    one = core("transcription")
    speak(one)
    assert all(not item.audio for item in one.conversation)
    assert one.turns.tape.cut(0.0, 99.0)[0] == b""


def test_an_hour_of_speech_holds_little() -> None:
    one = core(audio_bytes=1 << 20)
    data = base64.b64encode(tone(10.0)).decode()
    for turn in range(360):
        outputs(one, "input_audio_buffer.append", audio=data)
        one.recognized(TurnStarted(turn, turn * 10.0))
        one.recognized(TurnStopped(turn, turn * 10.0 + 10))
        one.recognized(TurnCommitted(turn, turn * 10.0, turn * 10.0 + 10))
        one.recognized(TurnDone(turn, "word " * 20, 10.0))
        for plan in plans(one.take_outputs()):
            one.answered(plan.plan.response_id, Usage())
    assert sum(len(item.audio) for item in one.conversation) <= 1 << 20
    assert one.turns.tape.cut(0.0, 3600.0)[0] == b""


def test_an_answer_that_may_not_be_interrupted_is_followed_by_the_next() -> None:
    one = core()
    outputs(one, "session.update", session={"audio": {"input": {"turn_detection": {"interrupt_response": False}}}})
    speak(one)
    one.recognized(TurnDone(0, "One.", 1.0))
    plan = plans(one.take_outputs())[0].plan
    taken = speak(one, 1, 1.0)
    assert not [output for output in taken if isinstance(output, Stop)]
    assert "response.created" not in kinds(taken)
    one.recognized(TurnDone(1, "Two.", 1.0))
    one.answered(plan.response_id, Usage())
    assert plans(one.take_outputs())[0].plan.history[-1].text == "Two."


def test_what_comes_of_an_ended_answer_is_dropped() -> None:
    one = core()
    plan = plans(outputs(one, "response.create"))[0].plan
    one.say(plan.response_id, "Hello. ")
    taken = outputs(one, "response.cancel")
    assert [output for output in taken if isinstance(output, Stop)] == [Stop(plan.response_id)]
    one.take_outputs()
    one.say(plan.response_id, "more")
    one.sound(plan.response_id, b"\0\0")
    one.answered(plan.response_id, Usage())
    assert one.take_outputs() == []


def test_the_wait_for_speech_begins_after_the_audio() -> None:
    one = core()
    turns = {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5000}}
    outputs(one, "session.update", session={"audio": {"input": turns}})
    plan = plans(outputs(one, "response.create"))[0].plan
    one.say(plan.response_id, "Hello.")
    one.sound(plan.response_id, tone(2.0))
    one.answered(plan.response_id, Usage())
    assert IdleTimer(7.0) in one.take_outputs()
    assert IdleTimer(None) in speak(one)


def test_audio_is_handed_on_as_it_came() -> None:
    one = core("transcription")
    taken = outputs(one, "input_audio_buffer.append", audio=base64.b64encode(b"\1\2\3").decode())
    assert [output.data for output in taken if isinstance(output, Audio)] == [b"\1\2"]
    assert outputs(one, "input_audio_buffer.append", audio="") == []


def test_a_defect_fails_one_event_alone(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, item_id: str) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("app.realtime.conversation.Conversation.remove", broken)
    with connected(server, "/v1/realtime?model=gpt-realtime") as socket:
        item = {"id": "one", "type": "message", "role": "user", "content": CONTENT}
        socket.send("conversation.item.create", item=item)
        socket.send("conversation.item.delete", item_id="one")
        assert socket.until("error")["error"]["type"] == "server_error"
        socket.update("realtime")
