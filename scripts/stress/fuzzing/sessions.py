"""Realtime sessions of clients that get everything wrong: events in any order, broken audio, huge and tiny messages.

Owns the promise that every session is held to: it opens, no event fails the server, no mistake ends it, and an ordinary
event after all of it is answered. Knows nothing of how often it is asked for one.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import websockets.sync.client
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.sync.connection import Connection

from scripts.stress.fuzzing.exchange import KEY, PATIENCE_SECONDS, Outcome

TARGETS = (
    "/v1/realtime?intent=transcription&model=hear",
    "/v1/realtime?model=ask",
    "/openai/v1/realtime?model=ask",
    "/openai/realtime?api-version=2025-04-01-preview&deployment=ask",
)
EVENTS = (
    *("session.update", "transcription_session.update", "input_audio_buffer.commit", "input_audio_buffer.clear"),
    *("conversation.item.create", "conversation.item.retrieve", "conversation.item.delete"),
    *("conversation.item.truncate", "response.create", "response.cancel", "output_audio_buffer.clear", "no.such.event"),
)
FIELDS = (
    *("session", "audio", "item", "item_id", "previous_item_id", "response", "response_id", "event_id"),
    *("audio_end_ms", "content_index"),
)
INNER = (
    *("type", "audio", "input", "output", "turn_detection", "format", "transcription", "tools", "content", "role"),
    *("voice", "conversation", "metadata", "instructions", "max_output_tokens", "call_id", "rate", "model", "text"),
)
VALUES: Sequence[Any] = (
    *(None, "", "x", "root", "none", "inf", "audio", "message", "user", "input_audio", "hear", "é\0", 0, -1, 1e308),
    *(2**70, True, [], {}, ["audio"], [None], {"type": "server_vad"}, {"type": "semantic_vad", "eagerness": "high"}),
)
LAST = "the.last.event"  # unknown: answered with an error that carries its id
RATE = 24_000  # Hz of the default format
LATE_SECONDS = 0.05  # a slow reader's pause before each message
Step = Callable[[Connection, Random], None]


@dataclass(frozen=True)
class Session:
    """One session: where it opens, and the seed of what it does."""

    target: str
    seed: int

    @property
    def note(self) -> str:
        return f"session {self.seed} at {self.target}"


def cases(chance: Random) -> Iterator[Session]:
    while True:
        yield Session(chance.choice(TARGETS), chance.getrandbits(32))


def hold(port: int, session: Session) -> Outcome:
    """Open a session, do everything wrong, and see that it still answers."""
    began, chance = time.monotonic(), Random(session.seed)
    try:
        with connect(port, session.target) as connection:
            for _ in range(chance.randint(1, 25)):
                chance.choice(STEPS)(connection, chance)
            finding = _last_words(connection, slow=chance.random() < 0.1)
    except TimeoutError:
        finding = "hangs: no answer in time"
    except ConnectionClosed as closed:
        finding = f"the session ended: {closed}"
    except (WebSocketException, OSError) as error:
        finding = f"it did not open: {error!r}"
    return Outcome(101, time.monotonic() - began, finding)


def connect(port: int, target: str) -> Connection:
    """An open session. Raises OSError, TimeoutError or WebSocketException."""
    url = f"ws://127.0.0.1:{port}{target}"
    return websockets.sync.client.connect(
        url,
        additional_headers={"api-key": KEY},
        open_timeout=PATIENCE_SECONDS,
        close_timeout=PATIENCE_SECONDS,
        max_size=None,
        max_queue=None,
        proxy=None,
    )


def event(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def append(data: bytes) -> str:
    return event("input_audio_buffer.append", audio=base64.b64encode(data).decode())


def opening(target: str, *messages: str) -> bytes:
    """What a client sends that opens a session and then says these, as it travels."""
    lines = (
        f"GET {target} HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    head = "\r\n".join((*lines, "", "")).encode()
    return head + b"".join(Frame(Opcode.TEXT, message.encode()).serialize(mask=True) for message in messages)


def _last_words(connection: Connection, *, slow: bool) -> str:
    """What the session told that no client should be told, "" = nothing. Reads up to the answer to a last event."""
    connection.send(event(LAST, event_id=LAST))
    ends, finding = time.monotonic() + PATIENCE_SECONDS, ""
    while time.monotonic() < ends:
        told = json.loads(connection.recv(PATIENCE_SECONDS))
        if slow and is_audio(told):
            time.sleep(LATE_SECONDS)
        error = told.get("error") or {}
        if told["type"] == "error" and error.get("event_id") == LAST:
            return finding
        if error.get("type") == "server_error":
            finding = f"failure: {error}"
    return "hangs: the last event was not answered in time"


def is_audio(told: dict[str, Any]) -> bool:
    """Audio is what a slow reader holds up."""
    return str(told["type"]).endswith("audio.delta")


# --- What such a client sends -----------------------------------------------------------------------------------------


def _value(chance: Random, depth: int = 3) -> Any:
    if depth and chance.random() < 0.5:
        return {chance.choice(INNER): _value(chance, depth - 1) for _ in range(chance.randrange(4))}
    return chance.choice(VALUES)


def _any_event(connection: Connection, chance: Random) -> None:
    fields = {chance.choice(FIELDS): _value(chance) for _ in range(chance.randrange(4))}
    connection.send(event(chance.choice(EVENTS), **fields))


def _sound(connection: Connection, chance: Random) -> None:
    """Noise and silence, in pieces of an odd number of bytes."""
    data = chance.randbytes(chance.randrange(RATE)) + bytes(chance.randrange(2 * RATE))
    piece = chance.choice((997, 4801, 60_001))
    for start in range(0, len(data), piece):
        connection.send(append(data[start : start + piece]))


def _broken_audio(connection: Connection, chance: Random) -> None:
    audio = chance.choice(("not base64!", "AAA", "AA=A", "====", "A" * 1001, "\ud800", "AAAA\n", 3, None, [], {}))
    connection.send(event("input_audio_buffer.append", audio=audio))


def _tiny_pieces(connection: Connection, chance: Random) -> None:
    for _ in range(chance.choice((100, 2000))):
        connection.send(append(chance.randbytes(chance.randrange(4))))


def _binary(connection: Connection, chance: Random) -> None:
    connection.send(chance.randbytes(chance.choice((0, 1, 1000, 100_000))))


def _huge(connection: Connection, chance: Random) -> None:
    text = "x" * chance.choice((100_000, 1_100_000, 5_000_000))
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    update = event("session.update", session={"instructions": text})
    connection.send(chance.choice((update, event("conversation.item.create", item=item), text)))


def _no_event(connection: Connection, chance: Random) -> None:
    connection.send(chance.choice(("", "null", "[]", "{}", '{"type":', "[" * 50_000, '{"type": {}}', "NaN", '"type"')))


def _answer(connection: Connection, chance: Random) -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello there. Well?"}]}
    connection.send(event("conversation.item.create", item=item))
    for _ in range(chance.randint(1, 3)):
        connection.send(event("response.create", response={"output_modalities": [chance.choice(("text", "audio"))]}))
    if chance.random() < 0.5:
        connection.send(event("response.cancel"))


STEPS: tuple[Step, ...] = (
    *(_any_event, _any_event, _any_event, _sound, _sound, _broken_audio, _tiny_pieces, _binary, _huge),
    *(_no_event, _answer, _answer),
)
