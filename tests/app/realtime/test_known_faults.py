"""Faults that other servers of this protocol were known for and that no other test here has: over a real socket."""

from __future__ import annotations

import base64

import pytest

from backends.live import TurnCommitted, TurnDelta, TurnDone
from tests.app.realtime.test_core import T, core, kinds
from tests.support.live_pool import connected, silence, tone
from tests.support.server import Running

CONVERSATION = "/v1/realtime?model=gpt-realtime"
SPEECH = silence(0.5) + tone(1.0) + silence(1.0)


def test_created_comes_first_and_an_empty_list_of_tools_is_none(server: Running) -> None:
    """speaches sent `session.updated` before `session.created`, and refused `tools: []` and bare items."""
    with connected(server, CONVERSATION) as socket:
        assert socket.update("realtime", tools=[], instructions="Be nice.")["tools"] == []
        assert socket.kinds() == ["session.created", "session.updated"]
        socket.send("conversation.item.create", item={"role": "user", "content": [{"type": "text", "text": "Hello."}]})
        assert socket.until("conversation.item.done")["item"]["content"] == [{"type": "input_text", "text": "Hello."}]


def test_a_truncate_beyond_the_end_does_not_silence_the_session(server: Running) -> None:
    """pipecat saw no audio for the rest of the session."""
    with connected(server, CONVERSATION) as socket:
        for _ in range(2):
            socket.append(SPEECH)
            done = socket.until("response.done")["response"]
            assert done["status"] == "completed"
            assert base64.b64decode(socket.of("output_audio.delta")[-1]["delta"])
            socket.seen.clear()
            socket.send(
                "conversation.item.truncate", item_id=done["output"][0]["id"], content_index=0, audio_end_ms=10**9
            )
            socket.until("conversation.item.truncated")


def test_cancel_without_an_answer_is_told_and_no_more(server: Running) -> None:
    """The JavaScript agents SDK ended calls at it."""
    with connected(server, CONVERSATION) as socket:
        socket.send("response.cancel", event_id="c")
        error = socket.until("error")["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "response_cancel_not_active")
        socket.append(SPEECH)
        assert socket.until("response.done")["response"]["status"] == "completed"


def test_commits_in_the_middle_of_words_lose_no_sound(server: Running) -> None:
    """daintree's client committed every two seconds."""
    with connected(server) as socket:
        socket.update(audio={"input": {"turn_detection": None}})
        for seconds in (2.0, 0.7, 0.1, 1.3):
            socket.append(tone(seconds))
            socket.send("input_audio_buffer.commit")
        for _ in range(4):
            socket.until(f"{T}.completed")
        told = [event["usage"]["seconds"] for event in socket.of("transcription.completed")]
        assert told == pytest.approx([2.0, 0.7, 0.1, 1.3], abs=0.001)
        assert len({event["item_id"] for event in socket.of("input_audio_buffer.committed")}) == 4


def test_words_that_come_late_open_no_turn() -> None:
    """Partials after the end of a turn began phantom turns elsewhere."""
    one = core("transcription")
    one.recognized(TurnCommitted(0, 0.0, 1.0))
    one.recognized(TurnDone(0, " Hello.", 1.0))
    one.take_outputs()
    one.recognized(TurnDelta(0, " Hello."))
    assert one.take_outputs() == []
    one.recognized(TurnDelta(1, " And"))
    assert kinds(one.take_outputs()) == [f"{T}.delta"]
