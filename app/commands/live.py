"""The command line's side of a realtime session: a thread sends audio, the caller reads the server's events.

Owns the connection, its polite end, and when everything that was said has been answered. Knows no terminal.
"""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from app.commands.client import CallFailed, Client, error_text
from app.commands.sources import SAMPLE_BYTES, Source

_OPEN_SECONDS = 60.0  # the server may load a model before it answers
_LOOK_SECONDS = 0.2  # between two looks whether to stop; on Windows a wait cannot be interrupted
_LARGEST_EVENT = 64 << 20  # bytes
_SETUP, _END = "setup", "end"  # ids of events whose errors mean something of their own
_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_NOTHING_TO_COMMIT = "input_audio_buffer_commit_empty"


@dataclass(slots=True)
class Owed:
    """What the server has not answered yet. Turns and responses by their ids."""

    turns: set[str] = field(default_factory=set)
    responses: set[str] = field(default_factory=set)
    input_is_over: bool = False

    def take(self, event: Mapping[str, Any]) -> None:
        match event["type"]:
            case "input_audio_buffer.committed":
                self.turns.add(event["item_id"])
            case "conversation.item.input_audio_transcription.completed":
                self.turns.discard(event["item_id"])
            case "conversation.item.input_audio_transcription.failed":
                self.turns.discard(event["item_id"])
            case "response.created":
                self.responses.add(event["response"]["id"])
            case "response.done":
                self.responses.discard(event["response"]["id"])
            case "input_audio_buffer.cleared":
                self.input_is_over = True

    def is_nothing(self) -> bool:
        return self.input_is_over and not self.turns and not self.responses


class LiveSession:
    """An open session. `stop` ends the input: what was begun is still answered."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._sending = socket, threading.Lock()
        self._is_over, self._tail, self._commits = False, b"", True
        self.owed = Owed()
        self.stop = threading.Event()

    def send(self, kind: str, **fields: Any) -> None:
        with contextlib.suppress(ConnectionClosed):  # the reader is told why
            self._socket.send(json.dumps({"type": kind, **fields}))

    def configure(self, session: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Update the session; yields the events until that is done. Raises CallFailed where the server refuses."""
        self.send("session.update", event_id=_SETUP, session=session)
        for event in self._received():
            if event["type"] == "error":
                raise CallFailed(str(event["error"].get("message")))
            yield event
            if event["type"] == "session.updated":
                return

    def feed(self, source: Source, *, tail_seconds: float = 0.0, commits: bool = True) -> None:
        """Send what the source gives, from a thread of its own.

        tail_seconds: of silence after its end, in which turn detection finds the last turn's; commits: else the end
        commits it.
        """
        self._tail = bytes(round(tail_seconds * source.rate) * SAMPLE_BYTES)
        self._commits = commits
        threading.Thread(target=self._feed, args=[source], name="audio", daemon=True).start()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what the server tells until all that was said is answered. Raises CallFailed where it ends before."""
        for event in self._received():
            self.owed.take(event)
            if not _is_of_the_end(event):
                yield event
            if self.owed.is_nothing():
                return

    def _feed(self, source: Source) -> None:
        try:
            for piece in source.pieces(self.stop):
                self._append(piece)
        finally:
            self._end()

    def _append(self, data: bytes) -> None:
        with self._sending:
            if data and not self._is_over:
                self.send("input_audio_buffer.append", audio=base64.b64encode(data).decode("ascii"))

    def _end(self) -> None:
        """Once: close the last turn. `cleared` comes after all that was detected or committed before."""
        self._append(self._tail)
        with self._sending:
            if self._is_over:
                return
            self._is_over = True
            if self._commits:
                self.send("input_audio_buffer.commit", event_id=_END)
            self.send("input_audio_buffer.clear")

    def _received(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                event: dict[str, Any] = json.loads(self._socket.recv(_LOOK_SECONDS))
            except TimeoutError:
                pass
            except ConnectionClosed as error:
                reason = error.rcvd.reason if error.rcvd is not None else ""
                raise CallFailed(f"the server ended the session: {reason or error}") from error
            else:
                yield event
            if self.stop.is_set():
                self._end()


def _is_of_the_end(event: Mapping[str, Any]) -> bool:
    """The last commit found nothing that was not committed already."""
    if event["type"] != "error":
        return False
    error = event["error"]
    return bool(error.get("event_id") == _END and error.get("code") == _NOTHING_TO_COMMIT)


@contextlib.contextmanager
def live_session(client: Client, **query: str) -> Iterator[LiveSession]:
    """Open a session. query: of the URL. Raises CallFailed."""
    by_header = client.key.isascii()  # websockets' releases do not agree how other letters travel in one
    query |= {} if by_header else {"api-key": client.key}
    try:
        socket = connect(
            client.socket_url(f"/v1/realtime?{urlencode(query)}"),
            ssl=client.trust(),
            additional_headers={"api-key": client.key} if by_header else None,
            open_timeout=_OPEN_SECONDS,
            max_size=_LARGEST_EVENT,
            proxy=None,
        )
    except InvalidStatus as error:
        raise CallFailed(error_text(error.response.status_code, bytes(error.response.body or b""))) from error
    except (OSError, InvalidHandshake, InvalidURI) as error:
        raise client.unreachable(error) from error
    with socket:
        session = LiveSession(socket)
        with _stopped_by_ctrl_c(session.stop):
            yield session


@contextlib.contextmanager
def _stopped_by_ctrl_c(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl+C ends the input, the second the command."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
