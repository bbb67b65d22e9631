"""Conversation sessions over a real socket: the order of an answer's events, barge-in, cancel, what the chat gets."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import ModelUnavailable
from backends.interface import ChatRequest, Done, Request, SpeechRequest, TextDelta
from tests.support.fake_pool import answer
from tests.support.live_pool import Socket, connected, realtime_server, silence, tone
from tests.support.server import Running

CONVERSATION = "/v1/realtime?model=gpt-realtime"
SPEECH = silence(0.5) + tone(1.0) + silence(1.0)
SPOKEN_ANSWER = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]


def _say(socket: Socket, text: str, **fields: Any) -> None:
    content = [{"type": "input_text", "text": text}]
    socket.send("conversation.item.create", item={"type": "message", "role": "user", "content": content}, **fields)
    socket.until("conversation.item.done")


def _in_order(kinds: list[str]) -> list[str]:
    """Repeated deltas once."""
    return [kind for number, kind in enumerate(kinds) if kind not in kinds[:number]]


def _chat_request(server: Running) -> ChatRequest:
    return [request for request in server.pool.requests if isinstance(request, ChatRequest)][-1]


def test_one_spoken_answer_in_order(server: Running) -> None:
    with connected(server, CONVERSATION) as socket:
        _say(socket, "Hello.")
        socket.seen.clear()
        socket.send("response.create", event_id=None, response=None)
        done = socket.until("response.done")["response"]
        assert _in_order(socket.kinds()) == SPOKEN_ANSWER
        assert done["status"] == "completed"
        assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "I heard you."}]
        audio = b"".join(base64.b64decode(event["delta"]) for event in socket.of("output_audio.delta"))
        assert len(audio) == 2 * 2400 * len("I heard you.")
        assert done["usage"]["input_token_details"]["cached_tokens_details"]["audio_tokens"] == 0


def test_a_spoken_turn_is_answered(server: Running) -> None:
    with connected(server, CONVERSATION) as socket:
        socket.update("realtime", audio={"input": {"transcription": {"model": "fake-asr"}}}, instructions="Be nice.")
        socket.append(SPEECH)
        assert socket.until("response.done")["response"]["status"] == "completed"
        kinds = socket.kinds()
        assert kinds.index("conversation.item.done") < kinds.index("response.created")
        request = _chat_request(server)
        assert [(message.role, message.parts[0].text) for message in request.messages] == [  # type: ignore[union-attr]
            ("system", "Be nice."),
            ("user", socket.of("transcription.completed")[0]["transcript"]),
        ]


def test_the_transcript_stays_untold_where_transcription_is_off(server: Running) -> None:
    with connected(server, CONVERSATION) as socket:
        socket.append(SPEECH)
        socket.until("response.done")
        assert not [kind for kind in socket.kinds() if "transcription" in kind]
        assert _chat_request(server).messages[-1].parts[0].text.startswith("one two")  # type: ignore[union-attr]


def test_a_transcript_that_is_not_known_is_null(server: Running) -> None:
    """The JavaScript agents SDK ends the program of an audio part without one."""
    with connected(server, CONVERSATION) as socket:
        socket.update("realtime", audio={"input": {"transcription": {"model": "fake-asr"}}})
        socket.append(SPEECH)
        spoken = socket.until("conversation.item.added")["item"]
        assert spoken["content"] == [{"type": "input_audio", "transcript": None}]
        done = socket.until("conversation.item.input_audio_transcription.completed")
        socket.until("response.done")
        socket.send("conversation.item.retrieve", item_id=spoken["id"])
        told = socket.until("conversation.item.retrieved")["item"]["content"][0]
        assert told["transcript"] == done["transcript"]


def test_metadata_and_overrides(server: Running) -> None:
    with connected(server, CONVERSATION) as socket:
        _say(socket, "Hello.")
        given = {"instructions": None, "output_modalities": ["text"], "metadata": {"client_event_id": "x"}}
        socket.send("response.create", response={**given, "max_output_tokens": 7})
        assert socket.until("response.created")["response"]["metadata"] == {"client_event_id": "x"}
        done = socket.until("response.done")["response"]
        assert (done["output_modalities"], done["metadata"]) == (["text"], {"client_event_id": "x"})
        assert _chat_request(server).max_tokens == 7
        assert "".join(event["delta"] for event in socket.of("output_text.delta")) == "I heard you."
        assert not socket.of("output_audio.delta")


def test_speech_synthesis_needs_no_chat(server: Running) -> None:
    """What wyoming-openai and Open WebUI send."""
    with connected(server, CONVERSATION) as socket:
        server.pool.requests.clear()
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello there, a test."}]}
        socket.send(
            "response.create", response={"conversation": "none", "output_modalities": ["audio"], "input": [item]}
        )
        done = socket.until("response.done")["response"]
        assert done["conversation_id"] is None
        assert done["output"][0]["content"][0]["transcript"] == "Hello there, a test."
        assert not socket.of("conversation.item.added")
        assert {type(request) for request in server.pool.requests} == {SpeechRequest}


def test_cancel_sends_what_there_is_and_keeps_it() -> None:
    with realtime_server() as server, connected(server, CONVERSATION) as socket:
        server.pool.delay = 0.2
        _say(socket, "Hello.")
        socket.send("response.create")
        socket.until("response.output_audio.delta")
        socket.send("response.cancel")
        done = socket.until("response.done")["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        assert {"response.output_audio.done", "response.content_part.done", "conversation.item.done"} <= set(
            socket.kinds()
        )
        item = done["output"][0]
        assert (item["status"], item["content"][0]["transcript"]) == ("incomplete", "I heard you.")
        socket.send("conversation.item.retrieve", item_id=item["id"])
        assert socket.until("conversation.item.retrieved")["item"]["content"][0]["transcript"] == "I heard you."
        socket.send("response.cancel", event_id="c")
        error = socket.until("error")["error"]
        assert (error["code"], error["event_id"]) == ("response_cancel_not_active", "c")
        assert error["message"].startswith("Cancellation failed")


def test_barge_in_stops_chat_and_speech() -> None:
    with realtime_server() as server, connected(server, CONVERSATION) as socket:
        server.pool.delay = 0.2
        _say(socket, "Hello.")
        socket.send("response.create")
        socket.until("response.output_audio.delta")
        socket.append(tone(0.5))
        socket.until("input_audio_buffer.speech_started")
        done = socket.until("response.done")["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
        kinds = socket.kinds()
        assert kinds.index("input_audio_buffer.speech_started") < kinds.index("response.output_audio.done")


def test_truncate_keeps_the_history_true_and_clamps(server: Running) -> None:
    with connected(server, CONVERSATION) as socket:
        _say(socket, "Hello.")
        socket.send("response.create")
        item = socket.until("response.done")["response"]["output"][0]
        socket.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=10_000_000)
        assert socket.until("conversation.item.truncated")["audio_end_ms"] == 1200
        socket.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=800)
        socket.until("conversation.item.truncated")
        socket.send("conversation.item.retrieve", item_id=item["id"])
        assert socket.until("conversation.item.retrieved")["item"]["content"][0]["transcript"] == "I heard"
        _say(socket, "Go on.")
        socket.send("response.create", response={"output_modalities": ["text"]})
        socket.until("response.done")
        assert _chat_request(server).messages[1].parts[0].text == "I heard"  # type: ignore[union-attr]


def test_items(server: Running) -> None:
    with connected(server, CONVERSATION) as socket:
        content = [{"type": "input_text", "text": "one"}]
        item = {"id": "first", "type": "message", "role": "user", "content": content}
        socket.send("conversation.item.create", item=item, previous_item_id="root")
        assert socket.until("conversation.item.done")["previous_item_id"] is None
        socket.send("conversation.item.create", item=item, event_id="twice")
        assert socket.until("error")["error"]["code"] == "item_create_duplicate_item_id"
        socket.send("conversation.item.create", item={**item, "id": "second"}, previous_item_id="first")
        assert socket.until("conversation.item.done")["previous_item_id"] == "first"
        socket.send("conversation.item.create", item={**item, "id": "zero"}, previous_item_id="root")
        assert socket.until("conversation.item.done")["previous_item_id"] is None
        socket.send("conversation.item.create", item={**item, "id": "lost"}, previous_item_id="nowhere")
        assert socket.until("error")["error"]["param"] == "previous_item_id"
        socket.send("conversation.item.delete", item_id="second")
        assert socket.until("conversation.item.deleted")["item_id"] == "second"
        socket.send("conversation.item.retrieve", item_id="second", event_id="rci_second")
        error = socket.until("error")["error"]
        assert (error["code"], error["event_id"]) == ("item_retrieve_invalid_item_id", "rci_second")


def test_retrieved_speech_has_its_audio(server: Running) -> None:
    with connected(server, CONVERSATION) as socket:
        socket.update("realtime", audio={"input": {"turn_detection": None, "transcription": {"model": "fake-asr"}}})
        socket.append(tone(1.0))
        socket.send("input_audio_buffer.commit")
        item_id = socket.until("input_audio_buffer.committed")["item_id"]
        socket.until("conversation.item.input_audio_transcription.completed")
        socket.send("conversation.item.retrieve", item_id=item_id)
        part = socket.until("conversation.item.retrieved")["item"]["content"][0]
        assert (base64.b64decode(part["audio"]), part["transcript"]) == (tone(1.0), "one two")
        assert not socket.of("response.created")  # a commit of the client's creates none


def test_one_answer_at_a_time_writes_to_the_conversation() -> None:
    with realtime_server() as server, connected(server, CONVERSATION) as socket:
        server.pool.delay = 0.2
        _say(socket, "Hello.")
        socket.send("response.create")
        socket.until("response.created")
        socket.send("response.create", event_id="second")
        error = socket.until("error")["error"]
        assert (error["code"], error["event_id"]) == ("conversation_already_has_active_response", "second")
        socket.send("response.create", response={"conversation": "none", "input": [], "output_modalities": ["text"]})
        assert socket.until("response.created")["response"]["conversation_id"] is None


def test_without_a_chat_deployment_the_answer_says_what_to_set(server: Running) -> None:
    server.pool.refuse = ModelUnavailable("diffa is not there.")
    try:
        with connected(server, CONVERSATION) as socket:
            _say(socket, "Hello.")
            socket.send("response.create")
            done = socket.until("response.done")["response"]
            assert done["status"] == "failed"
            error = done["status_details"]["error"]
            assert (error["code"], "realtime.chat" in error["message"]) == ("ModelUnavailable", True)
            assert not socket.of("error")
    finally:
        server.pool.refuse = None


def test_the_longest_answer_is_incomplete() -> None:
    def script(request: Request) -> Iterator[Any]:
        if isinstance(request, ChatRequest):
            yield TextDelta("I hea")
            yield Done("I hea", finish_reason="length")
        else:
            yield from answer(request)

    with realtime_server() as server, connected(server, CONVERSATION) as socket:
        server.pool.script = script
        _say(socket, "Hello.")
        socket.send("response.create", response={"output_modalities": ["text"], "max_output_tokens": 2})
        done = socket.until("response.done")["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")


def test_speech_begins_before_the_answer_is_complete() -> None:
    def script(request: Request) -> Iterator[Any]:
        if isinstance(request, SpeechRequest):
            yield from answer(request)
            return
        yield TextDelta("First. Sec")
        yield TextDelta("ond.")
        yield Done("First. Second.")

    with realtime_server() as server, connected(server, CONVERSATION) as socket:
        server.pool.script = script
        _say(socket, "Hello.")
        socket.send("response.create")
        socket.until("response.done")
        deltas = [event["delta"] for event in socket.of("output_audio_transcript.delta")]
        assert deltas == ["First. ", "Second."]
        kinds = socket.kinds()
        second = [number for number, kind in enumerate(kinds) if kind == "response.output_audio_transcript.delta"][1]
        assert kinds.index("response.output_audio.delta") < second


def test_silence_after_an_answer_becomes_a_turn() -> None:
    with realtime_server() as server, connected(server, CONVERSATION) as socket:
        turns = {"type": "server_vad", "idle_timeout_ms": 50}
        socket.update("realtime", output_modalities=["text"], audio={"input": {"turn_detection": turns}})
        _say(socket, "Hello.")
        socket.send("response.create")
        socket.until("response.done")
        event = socket.until("input_audio_buffer.timeout_triggered")
        assert socket.until("input_audio_buffer.committed")["item_id"] == event["item_id"]
        socket.until("response.created")


@pytest.mark.parametrize("kind", ["response.create", "conversation.item.create", "response.cancel"])
def test_a_transcription_session_answers_nothing(server: Running, kind: str) -> None:
    with connected(server) as socket:
        socket.send(kind, event_id="e")
        assert socket.until("error")["error"]["event_id"] == "e"
        socket.append(SPEECH)
        socket.until("conversation.item.input_audio_transcription.completed")
        assert not socket.of("response.created")
