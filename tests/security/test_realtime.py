"""Realtime sessions: one client takes neither all places nor the server's time, however it writes its messages."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from app.config.settings import RealtimeSettings
from app.errors import InvalidRequest, Overloaded
from app.http.websockets import MOST_FRAGMENTS, GatewaySocket
from app.realtime.driver import Driver
from app.realtime.ephemeral_keys import MOST_SESSION_BYTES, EphemeralKeys
from app.realtime.hub import RealtimeHub
from app.realtime.responder import SentenceCutter
from app.realtime.voice import Voice
from app.serving.fair_store import FairStore
from tests.support.live_pool import CONTENT, connected, realtime_server
from tests.support.pools import fake, pool_of
from tests.support.server import Running
from tests.support.waiting import until, wait_until

KEYS = {"api_keys": [{"name": "hostile", "key": "h"}, {"name": "honest", "key": "g"}]}
CONVERSATION = "/v1/realtime?model=gpt-realtime"


# --- Places -----------------------------------------------------------------------------------------------------------


def test_sessions_of_one_key_leave_places_for_another() -> None:
    with realtime_server(server=KEYS, realtime={"sessions": 4}) as server, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(server, key="h"))
        with pytest.raises(InvalidStatus) as refused:
            stack.enter_context(connected(server, key="h"))
        assert refused.value.response.status_code == 429
        stack.enter_context(connected(server, key="g"))


@pytest.mark.parametrize("price", [None, 0.2])
async def test_live_jobs_of_one_key_leave_places_for_another(
    price: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """price: seconds of work per second of audio, of which 0.9 may be taken: four sessions."""
    monkeypatch.setattr("app.config.settings.ServerSettings.several_owners", True)
    monkeypatch.setattr("app.serving.live.LivePrice.value", price)
    deployment = fake()
    limits = {"live_sessions": 4 if price is None else 100}
    async with pool_of(deployment, limits=limits) as pool, AsyncExitStack() as stack:

        async def session(owner: str) -> None:
            await stack.enter_async_context(pool.admit(deployment, owner=owner, request_id="r", live=True))

        for _ in range(3):
            await session("hostile")
        with pytest.raises(Overloaded, match="kept for others"):
            await session("hostile")
        await session("honest")


def test_ephemeral_keys_of_one_client_are_forgotten_for_its_own_only() -> None:
    keys = EphemeralKeys(fair=True, most=200_000)
    honest = keys.new("honest", "honest", 60, {"type": "realtime"})
    hostile = [keys.new("hostile", "hostile", 60, {"type": "realtime"}) for _ in range(100)]
    assert keys.find(honest.value.encode()) == honest
    assert keys.find(hostile[-1].value.encode()) == hostile[-1]
    for number in range(20):  # whoever holds little may use what is kept for that
        keys.new(f"other {number}", "", 60, {"type": "realtime"})
    assert keys.find(honest.value.encode()) == honest


def test_a_session_that_is_too_large_gets_no_ephemeral_key() -> None:
    keys = EphemeralKeys(fair=False)
    with pytest.raises(InvalidRequest, match="at most 1048576"):
        keys.new("one", "one", 60, {"id": "x" * MOST_SESSION_BYTES})


def test_a_store_without_room_refuses_and_forgets_nothing_of_others() -> None:
    now = [0.0]
    store = FairStore[str](10_000, fair=False, clock=lambda: now[0])
    assert store.put("one", "a", "A", size=0, expires_at=10)
    assert store.put("one", "b", "B", size=0, expires_at=20)
    assert not store.put("two", "c", "C", size=0, expires_at=20)
    assert [store.get(name) for name in "abc"] == ["A", "B", None]
    now[0] = 10.0
    assert store.put("two", "c", "C", size=0, expires_at=20)
    assert [store.get(name) for name in "abc"] == [None, "B", "C"]


# --- Time -------------------------------------------------------------------------------------------------------------


async def test_everything_else_has_its_turn_between_two_events() -> None:
    hub = RealtimeHub(RealtimeSettings(), fair=True)
    order: list[str] = []

    async def session(owner: str, events: int) -> None:
        for _ in range(events):
            async with hub.turn(owner):
                order.append(owner)

    async def others() -> None:
        while True:
            order.append("other")
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    sessions = [asyncio.create_task(session("hostile", 20)) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.gather(session("honest", 5), *sessions)
    other.cancel()
    pairs = list(itertools.pairwise(order))
    assert not [pair for pair in pairs if "other" not in pair]
    events = [owner for owner in order if owner != "other"]
    assert events[:20].count("honest") == 5  # by turns, though ten others wait with 200


def test_a_flood_of_messages_is_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, marks = list[Any](), list[int]()
    receive = Driver.receive

    def received(driver: Driver, event: Any) -> None:
        if not taken:
            asyncio.get_running_loop().call_soon(lambda: marks.append(len(taken)))
        taken.append(event)
        receive(driver, event)

    monkeypatch.setattr(Driver, "receive", received)
    with realtime_server() as server, connected(server, CONVERSATION) as client:
        client.connection.socket.sendall(_frame(Opcode.TEXT, b"{}") * 1000)
        wait_until(lambda: len(taken) == 1000)
    assert marks == [1]


def test_the_sentences_of_a_long_text_are_its_text() -> None:
    text = "一。" * 2000 + " Two. " * 2000
    cutter = SentenceCutter()
    pieces = [*cutter.push(text), *cutter.finish()]
    assert "".join(pieces) == text
    assert pieces[:2] == ["一。", "一。"]
    assert len(pieces) == 4000


def test_a_long_text_to_be_spoken_is_cut_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = [0]
    push = SentenceCutter.push

    def pushed(cutter: SentenceCutter, text: str) -> list[str]:
        longest[0] = max(longest[0], len(text))
        return push(cutter, text)

    monkeypatch.setattr(SentenceCutter, "push", pushed)
    monkeypatch.setattr(Voice, "speak", _nothing)
    text = "One. " * 4000
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    with realtime_server() as server, connected(server, CONVERSATION) as client:
        client.send("response.create", response={"conversation": "none", "input": [item]})
        client.until("response.done")
        said = [event["delta"] for event in client.of("output_audio_transcript.delta")]
    assert "".join(said) == text
    assert 0 < longest[0] <= 4096


async def _nothing(voice: Voice, text: str) -> Any:
    for piece in list[bytes]():
        yield piece


# --- Messages ---------------------------------------------------------------------------------------------------------


def _frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def test_a_message_of_too_many_fragments_closes_with_1009() -> None:
    with realtime_server() as server, connected(server) as client:
        fragments = _frame(Opcode.TEXT, b"", fin=False) + _frame(Opcode.CONT, b"", fin=False) * MOST_FRAGMENTS
        client.connection.socket.sendall(fragments)
        with pytest.raises(ConnectionClosed) as closed:
            client.until("never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert httpx.get(f"{server.url}/health/live").status_code == 200


class _Transport(asyncio.Transport):
    """A connection whose client reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


async def _accepting(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


async def _opened() -> tuple[GatewaySocket, _Transport]:
    config = uvicorn.Config(_accepting, ws=GatewaySocket, ws_per_message_deflate=False)
    config.load()
    protocol, transport = GatewaySocket(config, ServerState(), {}), _Transport()
    protocol.connection_made(transport)
    head = "GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"
    protocol.data_received("\r\n".join((*head, f"Sec-WebSocket-Key: {'A' * 22}==", "", "")).encode())
    await until(lambda: bool(transport.written))
    return protocol, transport


def _read(protocol: GatewaySocket, data: bytes) -> None:
    """As the event loop hands over what has come."""
    while data:
        buffer = protocol.get_buffer(-1)
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]


async def test_pings_of_a_client_that_does_not_read_are_not_answered() -> None:
    protocol, transport = await _opened()
    before = len(transport.written)
    _read(protocol, _frame(Opcode.PING, b"ping"))
    assert len(transport.written) == before + 6
    protocol.pause_writing()
    _read(protocol, _frame(Opcode.PING, b"ping") * 10_000)
    assert len(transport.written) == before + 6
    protocol.resume_writing()
    _read(protocol, _frame(Opcode.PING, b"ping"))
    assert len(transport.written) == before + 12
    protocol.connection_lost(None)


async def test_what_takes_long_to_parse_is_read_in_small_pieces_with_rests() -> None:
    protocol, transport = await _opened()
    assert len(protocol.get_buffer(1 << 20)) <= 4096
    protocol.data_received = lambda data: _busy(0.005)  # type: ignore[method-assign]
    _read(protocol, b"x")
    assert not transport.reading
    await until(lambda: transport.reading)
    protocol.connection_lost(None)


def _busy(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while loop.time() < ends:
        pass


@pytest.mark.parametrize(
    "head",
    [f"X: {'x' * 10_000}", "\r\n".join(f"X-{number}: x" for number in range(300))],
    ids=["long line", "many lines"],
)
def test_a_head_that_the_websocket_library_refuses_is_answered(head: str) -> None:
    upgrade = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{head}"
    with realtime_server() as server, server.connect() as connection:
        key = f"Sec-WebSocket-Key: {'A' * 22}=="
        connection.sendall(f"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n{key}\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65_536):  # to the end of the connection
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"does not open a WebSocket" in answer


def test_a_refused_handshake_is_no_failure_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    with realtime_server(server=KEYS) as server:
        with pytest.raises(InvalidStatus) as refused, connected(server, key="wrong"):
            pass
        assert refused.value.response.status_code == 401
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


# --- What every event of a session repeats ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"prompt": {"id": "x" * 20_000}}, "session.prompt"),
        ({"tracing": {"group": [[]] * 10_000}}, "session.tracing"),
        ({"tool_choice": {"name": "x" * 20_000}}, "session.tool_choice"),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": {"x": "x" * 300_000}}]},
            "session.tools",
        ),
    ],
)
def test_settings_that_are_kept_have_bounds(session: dict[str, Any], param: str) -> None:
    with realtime_server() as server, connected(server, CONVERSATION) as client:
        client.send("session.update", session={"type": "realtime", **session})
        error = client.until("error")["error"]
        assert error["param"] == param
        assert len(json.dumps(client.update("realtime"))) < 4000


def test_overrides_of_an_answer_have_bounds() -> None:
    with realtime_server() as server, connected(server, CONVERSATION) as client:
        client.send("conversation.item.create", item={"type": "message", "role": "user", "content": CONTENT})
        client.send("response.create", response={"prompt": {"id": "x" * 20_000}})
        assert client.until("error")["error"]["param"] == "response.prompt"


def test_an_update_does_not_change_what_was_shown_before(server: Running) -> None:
    with connected(server) as client:
        before = client.update(audio={"input": {"turn_detection": {"type": "server_vad", "threshold": 0.3}}})
        after = client.update(audio={"input": {"turn_detection": None}})
    assert before["audio"]["input"]["turn_detection"]["threshold"] == 0.3
    assert "create_response" not in before["audio"]["input"]["turn_detection"]
    assert after["audio"]["input"]["turn_detection"] is None


@pytest.fixture
def server() -> Any:
    with realtime_server() as one:
        yield one
