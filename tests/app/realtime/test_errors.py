"""The table of errors over a real socket: each mistake has its code, its field and the client's event id, and the
session goes on."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.support.live_pool import CONTENT, connected
from tests.support.server import Running

CONVERSATION = "/v1/realtime?model=gpt-realtime"
GONE = {"type": "item_reference", "id": "gone"}
MESSAGE = {"id": "known", "type": "message", "role": "user", "content": CONTENT}
SOUND = base64.b64encode(bytes(9600)).decode()
SPOKEN = {"type": "output_audio", "audio": SOUND}
IN, TOOL = "session.audio.input", {"type": "function", "name": "f"}
UPDATE, ITEM, RESPONSE, APPEND = (
    "session.update",
    "conversation.item.create",
    "response.create",
    "input_audio_buffer.append",
)

Row = tuple[str, dict[str, Any], str, str | None]


def _set(**fields: Any) -> dict[str, Any]:
    return {"session": {"type": "realtime", **fields}}


def _input(**fields: Any) -> dict[str, Any]:
    return _set(audio={"input": fields})


def _item(**fields: Any) -> dict[str, Any]:
    return {"item": {**MESSAGE, "id": "new", **fields}}


ROWS: tuple[Row, ...] = (
    ("no.such.event", {}, "invalid_value", "type"),
    ("output_audio_buffer.clear", {}, "invalid_event", "type"),
    (UPDATE, {}, "invalid_value", "session"),
    (UPDATE, {"session": {"type": "transcription"}}, "invalid_value", "session.type"),
    (UPDATE, {"session": {"type": "other"}}, "invalid_value", "session.type"),
    (UPDATE, _set(colour=1), "unknown_parameter", "session.colour"),
    (UPDATE, _input(gain=1), "unknown_parameter", f"{IN}.gain"),
    (UPDATE, _input(format={"type": "audio/opus"}), "invalid_value", f"{IN}.format.type"),
    (UPDATE, _input(format={"rate": 11_000}), "invalid_value", f"{IN}.format.rate"),
    (UPDATE, _input(turn_detection={"type": "push"}), "invalid_value", f"{IN}.turn_detection.type"),
    (UPDATE, _input(transcription={"model": "none"}), "model_not_found", f"{IN}.transcription.model"),
    (UPDATE, _input(transcription={"delay": "ages"}), "invalid_value", f"{IN}.transcription.delay"),
    (UPDATE, _input(noise_reduction={"type": "far"}), "invalid_value", f"{IN}.noise_reduction.type"),
    (UPDATE, _set(max_output_tokens=0), "invalid_value", "session.max_output_tokens"),
    (UPDATE, _set(tools=[{"type": "mcp"}]), "unsupported_value", "session.tools[0].type"),
    (UPDATE, _set(tools=[TOOL]), "unsupported_value", "session.tools"),
    (APPEND, {}, "invalid_value", "audio"),
    (APPEND, {"audio": "%%%"}, "invalid_value", "audio"),
    (APPEND, {"audio": SOUND[:-1]}, "invalid_value", "audio"),
    ("input_audio_buffer.commit", {}, "input_audio_buffer_commit_empty", None),
    (ITEM, {}, "invalid_value", "item"),
    (ITEM, _item(type="image"), "invalid_value", "item.type"),
    (ITEM, _item(role="robot"), "invalid_value", "item.role"),
    (ITEM, _item(content=[]), "invalid_value", "item.content"),
    (ITEM, _item(content=[{"type": "input_image"}]), "invalid_value", "item.content[0].type"),
    (ITEM, _item(content=[{"type": "input_audio", "audio": "?"}]), "invalid_value", "item.content[0].audio"),
    (ITEM, _item(role="assistant", content=[SPOKEN]), "invalid_value", "item.content[0].audio"),
    (ITEM, {"item": MESSAGE}, "item_create_duplicate_item_id", "item.id"),
    (ITEM, {**_item(), "previous_item_id": "gone"}, "item_create_invalid_previous_item_id", "previous_item_id"),
    ("conversation.item.retrieve", {"item_id": "gone"}, "item_retrieve_invalid_item_id", "item_id"),
    ("conversation.item.delete", {"item_id": "gone"}, "item_delete_invalid_item_id", "item_id"),
    ("conversation.item.truncate", {"item_id": "known", "audio_end_ms": 1}, "item_truncate_invalid_item_id", "item_id"),
    ("response.cancel", {}, "response_cancel_not_active", "response_id"),
    (RESPONSE, {"response": []}, "invalid_value", "response"),
    (RESPONSE, {"response": {"voices": 1}}, "unknown_parameter", "response.voices"),
    (RESPONSE, {"response": {"conversation": "mine"}}, "invalid_value", "response.conversation"),
    (RESPONSE, {"response": {"metadata": {"a": 1}}}, "invalid_value", "response.metadata"),
    (RESPONSE, {"response": {"metadata": {str(n): "" for n in range(17)}}}, "invalid_value", "response.metadata"),
    (RESPONSE, {"response": {"input": [GONE]}}, "invalid_value", "response.input[0].id"),
    (RESPONSE, {"response": {"tools": [TOOL]}}, "unsupported_value", "response.tools"),
)  # fmt: skip


def test_each_mistake_is_named_and_the_session_goes_on(server: Running) -> None:
    with connected(server, CONVERSATION) as socket:
        socket.update("realtime", instructions="Be nice.")
        socket.send(ITEM, item=MESSAGE)
        socket.until("conversation.item.done")
        for number, (kind, fields, code, param) in enumerate(ROWS):
            socket.send(kind, event_id=f"event {number}", **fields)
            error = socket.until("error")["error"]
            assert error.pop("message")
            expected = {"type": "invalid_request_error", "code": code, "param": param, "event_id": f"event {number}"}
            assert error == expected, (kind, fields)
        assert len(socket.of("error")) == len(ROWS)
        assert socket.update("realtime")["instructions"] == "Be nice."


@pytest.mark.parametrize(("seconds", "shown"), [(1, True), (30, False)])
def test_a_message_with_audio_stays_below_what_clients_take(server: Running, seconds: int, shown: bool) -> None:
    """openai-agents and pipecat ask for each turn, and most clients break off at messages of 1 MiB."""
    with connected(server, CONVERSATION) as socket:
        sound = base64.b64encode(bytes(48_000 * seconds)).decode()
        content = [{"type": "input_audio", "audio": sound, "transcript": "Hello."}]
        socket.send(ITEM, item={**MESSAGE, "content": content})
        socket.until("conversation.item.done")
        socket.send("conversation.item.retrieve", item_id="known")
        part = socket.until("conversation.item.retrieved")["item"]["content"][0]
        assert part.pop("audio", None) == (sound if shown else None)
        assert part == {"type": "input_audio", "transcript": "Hello."}
