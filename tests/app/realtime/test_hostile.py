"""What no client should send: nothing of it ends a session, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.live_pool import CONTENT, Socket, connected, realtime_server, silence, tone
from tests.support.server import Running
from tests.support.waiting import wait_until

CONVERSATION = "/v1/realtime?model=gpt-realtime"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "invalid_event"),
        ("nonsense", "invalid_event"),
        ("[]", "invalid_event"),
        ("{}", "invalid_event"),
        ('{"type": 3}', "invalid_event"),
        ('{"type": "no.such.event"}', "invalid_value"),
        ('{"type": "output_audio_buffer.clear"}', "invalid_event"),
        (b"\x00\x01", "invalid_event"),
        ("[" * 100_000, "invalid_event"),
        (json.dumps({"type": "session.update", "session": {"instructions": "x" * 5_000_000}}), "invalid_event"),
        (json.dumps({"type": "input_audio_buffer.append", "audio": "not base64!"}), "invalid_value"),
        (json.dumps({"type": "input_audio_buffer.append", "audio": 3}), "invalid_value"),
        (json.dumps({"type": "input_audio_buffer.append"}), "invalid_value"),
        (json.dumps({"type": "input_audio_buffer.append", "audio": "A" * (20 * 2**20 + 4)}), "buffer_size_exceeded"),
        (json.dumps({"type": "session.update"}), "invalid_value"),
        (json.dumps({"type": "session.update", "session": []}), "invalid_value"),
        (json.dumps({"type": "input_audio_buffer.commit"}), "input_audio_buffer_commit_empty"),
    ],
)
def test_mistakes_are_told_and_the_session_goes_on(server: Running, message: str | bytes, code: str) -> None:
    with connected(server) as socket:
        socket.connection.send(message)
        assert socket.until("error")["error"]["code"] == code
        socket.update()


def test_a_message_beyond_the_largest_closes_with_1009(server: Running) -> None:
    with connected(server) as socket:
        socket.connection.send('{"audio":"' + "A" * (22 * 2**20))
        with pytest.raises(ConnectionClosed) as closed:
            socket.until("never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


WORDS: tuple[Any, ...] = (
    None,
    "",
    "x",
    0,
    -1,
    1.5,
    True,
    [],
    {},
    ["audio"],
    {"type": "server_vad"},
    "root",
    "inf",
    "none",
)
EVENTS = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.retrieve",
    "conversation.item.delete",
    "conversation.item.truncate",
    "response.create",
    "response.cancel",
    "transcription_session.update",
)
FIELDS = (
    *("session", "audio", "item", "item_id", "previous_item_id", "response", "response_id"),
    *("audio_end_ms", "event_id", "content_index"),
)
INNER = (
    *("type", "audio", "input", "output", "turn_detection", "format", "transcription", "tools", "content", "role"),
    *("voice", "conversation", "metadata", "instructions", "max_output_tokens", "call_id"),
)


def _any_value(rng: random.Random, depth: int = 2) -> Any:
    if depth and rng.random() < 0.5:
        return {rng.choice(INNER): _any_value(rng, depth - 1) for _ in range(rng.randrange(4))}
    return rng.choice(WORDS)


@pytest.mark.parametrize("seed", range(4))
def test_events_in_any_order_with_any_values(server: Running, seed: int) -> None:
    rng = random.Random(seed)
    with connected(server, CONVERSATION if seed % 2 else "/v1/realtime?intent=transcription") as socket:
        for _ in range(150):
            fields = {rng.choice(FIELDS): _any_value(rng) for _ in range(rng.randrange(4))}
            socket.connection.send(json.dumps({"type": rng.choice(EVENTS), **fields}))
            if rng.random() < 0.1:
                socket.append(tone(0.2))
        socket.send("no.such.event", event_id="the end")
        while socket.next().get("error", {}).get("event_id") != "the end":
            pass
        assert not [
            e for e in socket.of("error") if e["error"]["type"] == "server_error" and e["error"]["code"] is None
        ]
    wait_until(lambda: server.pool.active == 0 and server.gateway.realtime.count == 0)


STEPS: tuple[Callable[[Socket], object], ...] = (
    lambda s: s.send("session.update", session={"type": "realtime", "instructions": "Be nice."}),
    lambda s: s.until("session.updated"),
    lambda s: s.append(tone(0.3)),
    lambda s: s.until("input_audio_buffer.speech_started"),
    lambda s: s.append(silence(1.0)),
    lambda s: s.until("input_audio_buffer.speech_stopped"),
    lambda s: s.until("input_audio_buffer.committed"),
    lambda s: s.until("response.created"),
    lambda s: s.until("response.output_audio.delta"),
    lambda s: s.send("response.cancel"),
    lambda s: s.until("response.done"),
    lambda s: s.send("conversation.item.create", item={"type": "message", "role": "user", "content": CONTENT}),
    lambda s: s.send("response.create"),
    lambda s: s.until("response.created"),
    lambda s: s.until("response.output_audio.delta"),
    lambda s: s.append(tone(0.5)),
    lambda s: s.until("response.done"),
    lambda s: s.send("conversation.item.truncate", item_id=_answer(s), content_index=0, audio_end_ms=10),
    lambda s: s.until("conversation.item.truncated"),
    lambda s: s.send("input_audio_buffer.commit"),
    lambda s: s.connection.socket.sendall(b"\x81\xfe\x10"),  # the beginning of a frame
)


def _answer(socket: Socket) -> str:
    return str(socket.of("response.output_item.added")[-1]["item"]["id"])


def test_a_cut_at_any_point_leaves_nothing() -> None:
    with realtime_server() as server:
        server.pool.delay = 0.02
        for count in range(len(STEPS) + 1):
            with connected(server, CONVERSATION) as socket:
                for step in STEPS[:count]:
                    step(socket)
                socket.connection.socket.close()
        wait_until(lambda: server.pool.active == 0)
        wait_until(lambda: server.gateway.in_flight == 0 and server.gateway.realtime.count == 0)
        wait_until(lambda: not server.do(_own_tasks))


def _own_tasks() -> list[str]:
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith(("live", "realtime"))]


def test_a_client_that_does_not_read_holds_speech_back() -> None:
    """No more is made than the client has room for."""
    with realtime_server() as server, connected(server, CONVERSATION, max_queue=1) as socket:
        text = "word " * 4000
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        socket.send("response.create", response={"conversation": "none", "input": [item]})
        socket.until("response.created")
        wait_until(lambda: server.do(lambda: max(_unsent(server), default=0)) > 1024 * 1024)
        assert server.do(lambda: max(_unsent(server))) < 3 * 1024 * 1024
        response_id = socket.seen[-1]["response"]["id"]
        socket.send("response.cancel", response_id=response_id)
        assert socket.until("response.done")["response"]["status"] == "cancelled"


def _unsent(server: Running) -> list[int]:
    return [session.driver.unsent for session in server.gateway.realtime.sessions]  # type: ignore[attr-defined]
