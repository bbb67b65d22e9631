"""The preview's shape at the edge: both directions, and when a client is taken to speak it."""

from __future__ import annotations

from typing import Any

import pytest

from app.realtime.preview import Dialect
from tests.support.live_pool import connected, silence, tone
from tests.support.server import Running

FLAT = {"modalities": ["text", "audio"], "voice": "alloy", "input_audio_format": "pcm16", "turn_detection": None}
LIVEKIT = {
    "input_audio_format": "pcm16",
    "input_audio_transcription": {"model": "fake-asr"},
    "max_response_output_tokens": "inf",
    "modalities": ["audio", "text"],
    "model": "gpt-realtime",
    "output_audio_format": "g711_ulaw",
    "speed": 1.0,
    "tool_choice": "auto",
    "temperature": 0.7,
    "turn_detection": {"type": "server_vad", "create_response": True, "silence_duration_ms": 200, "threshold": 0.5},
    "voice": "marin",
}


@pytest.mark.parametrize(
    ("session", "preview"),
    [
        (FLAT, True),
        (LIVEKIT, True),
        ({"instructions": "Be nice."}, True),
        ({"type": "realtime", "voice": "alloy"}, False),
        ({"audio": {"input": {"turn_detection": None}}}, False),
    ],
)
def test_the_first_update_tells_the_shape(session: dict[str, Any], preview: bool) -> None:
    for header in (True, False):
        dialect = Dialect(preview=header)
        dialect.incoming({"type": "session.update", "session": session})
        assert dialect.preview is preview


def test_a_later_update_without_a_type_changes_nothing() -> None:
    dialect = Dialect(preview=False)
    dialect.incoming({"type": "session.update", "session": {"type": "realtime"}})
    dialect.incoming({"type": "session.update", "session": {"instructions": "x"}})
    assert not dialect.preview


@pytest.mark.parametrize(
    "event", [None, [], "x", {}, {"type": 3}, {"type": "session.update"}, {"type": "session.update", "session": 1}]
)
def test_what_is_no_update_passes(event: Any) -> None:
    Dialect(preview=True).incoming(event)


@pytest.mark.parametrize(
    "kind",
    [
        "conversation.item.done",
        "conversation.item.input_audio_transcription.segment",
        "input_audio_buffer.timeout_triggered",
    ],
)
def test_events_that_the_preview_does_not_know_stay_away(kind: str) -> None:
    assert Dialect(preview=True).outgoing({"type": kind}) == []
    assert Dialect(preview=False).outgoing({"type": kind}) == [{"type": kind}]


def test_a_conversation_in_the_preview(server: Running) -> None:
    with connected(server, "/openai/realtime?api-version=2025-04-01-preview&deployment=gpt-realtime") as socket:
        socket.send("session.update", session=LIVEKIT, event_id="u")
        session = socket.until("session.updated")["session"]
        assert session["modalities"] == ["audio", "text"]
        assert (session["input_audio_format"], session["output_audio_format"]) == ("pcm16", "g711_ulaw")
        assert (session["voice"], session["turn_detection"]["silence_duration_ms"]) == ("marin", 200)
        assert (session["temperature"], session["max_response_output_tokens"]) == (0.7, "inf")
        content = [{"type": "input_text", "text": "Hello."}]
        socket.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        socket.until("conversation.item.created")
        socket.send("response.create", response={"modalities": ["audio", "text"]})
        done = socket.until("response.done")["response"]
        assert done["output"][0]["content"][0]["type"] == "audio"
        kinds = set(socket.kinds())
        assert {"response.audio.delta", "response.audio_transcript.delta", "response.audio.done"} <= kinds
        assert not [kind for kind in kinds if "output_audio" in kind or kind == "conversation.item.added"]


def test_transcription_in_the_preview(server: Running) -> None:
    headers = {"authorization": "Bearer k", "openai-beta": "realtime=v1"}
    with connected(server, "/v1/realtime?intent=transcription", additional_headers=headers) as socket:
        assert socket.seen[0]["type"] == "transcription_session.created"
        assert socket.seen[0]["session"]["input_audio_format"] == "pcm16"
        given = {
            "input_audio_format": "pcm16",
            "input_audio_transcription": {"model": "fake-asr", "language": "en", "prompt": ""},
            "turn_detection": {"type": "server_vad"},
            "input_audio_noise_reduction": {"type": "near_field"},
        }
        socket.send("transcription_session.update", session=given)
        updated = socket.until("transcription_session.updated")["session"]
        assert updated["input_audio_transcription"]["language"] == "en"
        socket.append(silence(0.5) + tone(1.0) + silence(1.0))
        socket.until("conversation.item.input_audio_transcription.completed")
        assert len(socket.of("conversation.item.created")) == 1


def test_unknown_keys_of_a_flat_session_are_named(server: Running) -> None:
    with connected(server, "/v1/realtime?model=gpt-realtime") as socket:
        socket.send("session.update", session={**FLAT, "colour": "red"}, event_id="e")
        error = socket.until("error")["error"]
        assert (error["code"], error["param"], error["event_id"]) == ("unknown_parameter", "session.colour", "e")
