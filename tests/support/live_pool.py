"""A fake pool whose live jobs are the test double's, run in the server's own process; and a client for its sockets."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import websockets.sync.client
from websockets.sync.connection import Connection

from app.config.deployments import Deployment, Deployments
from app.errors import ApiError, from_failure
from backends.fake.info import FakeOptions
from backends.fake.live import FakeLiveJob, begin_live
from backends.interface import Done, Failed
from backends.live import Feed, LiveRequest
from tests.support.fake_pool import FakePool, FakeReservation
from tests.support.server import Running, fake_settings, running
from tests.support.waiting import LIMIT

RATE = 24_000
CONTENT = [{"type": "input_text", "text": "Hello."}]
NAMES = {"transcription": "fake-asr", "speech": "fake-tts", "chat": "fake-chat"}


@dataclass
class LiveReservation(FakeReservation):
    pool: LivePool
    job: FakeLiveJob | None = None
    told: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    async def run(self, request: Any) -> Any:
        if not isinstance(request, LiveRequest):
            return await super().run(request)
        if self.pool.refuse_run is not None:
            raise self.pool.refuse_run
        self.pool.requests.append(request)
        self.job = begin_live(request, FakeOptions(fail_turn=self.pool.fail_turn))
        self.pool.live.append(self)
        return self._live_events()

    def feed(self, feed: Feed) -> None:
        assert self.job is not None
        self.pool.feeds.append(feed)
        self.job.cutter.feed(feed)
        while self.job.has_work() and not self.job.over:
            for event in self.job.advance():
                self.told.put_nowait(event)

    def lose(self, failure: Failed) -> None:
        """What the model's process does that ends."""
        self.told.put_nowait(failure)

    async def _live_events(self) -> AsyncIterator[Any]:
        while not isinstance(event := await self.told.get(), Done):
            if isinstance(event, Failed):
                raise from_failure(event)
            yield event


@dataclass
class LivePool(FakePool):
    """live: reservations of live jobs that run; fail_turn: number of the turn that fails, 1 = first; refuse_live:
    raised for live jobs only."""

    live: list[LiveReservation] = field(default_factory=list)
    fail_turn: int = 0
    refuse_live: ApiError | None = None

    @asynccontextmanager
    async def admit(
        self, deployment: Deployment, *, owner: str, request_id: str, live: bool = False
    ) -> AsyncIterator[FakeReservation]:
        if live and self.refuse_live is not None:
            raise self.refuse_live
        async with super().admit(deployment, owner=owner, request_id=request_id) as plain:
            reservation = LiveReservation(plain.deployment, plain.fallback_from, self)
            try:
                yield reservation
            finally:
                if reservation in self.live:
                    self.live.remove(reservation)


@contextmanager
def realtime_server(**tables: Any) -> Iterator[Running]:
    """A server with live jobs in its own process. tables: of the settings."""
    tables["realtime"] = {**NAMES, **tables.get("realtime", {})}
    settings = fake_settings(**tables)
    with running(settings, LivePool(Deployments.from_settings(settings))) as server:
        yield server


def tone(seconds: float, rate: int = RATE) -> bytes:
    """16-bit PCM that the test double takes for speech."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * time) * 32_767).astype("<i2").tobytes()


def silence(seconds: float, rate: int = RATE) -> bytes:
    return bytes(2 * round(seconds * rate))


@dataclass
class Socket:
    """A client that sends events and waits for those it names. seen: all that came."""

    connection: Connection
    seen: list[dict[str, Any]] = field(default_factory=list)

    def send(self, kind: str, **fields: Any) -> None:
        self.connection.send(json.dumps({"type": kind, **fields}))

    def update(self, kind: str = "transcription", **session: Any) -> dict[str, Any]:
        """Update the session and return it as the server then has it."""
        self.send("session.update", session={"type": kind, **session})
        updated: dict[str, Any] = self.until("session.updated")["session"]
        return updated

    def append(self, data: bytes, piece: int = 4800) -> None:
        for start in range(0, len(data), piece):
            self.send("input_audio_buffer.append", audio=base64.b64encode(data[start : start + piece]).decode())

    def next(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.connection.recv(LIMIT))
        self.seen.append(event)
        return event

    def until(self, *kinds: str) -> dict[str, Any]:
        """The next event of one of these types. An error that nobody waits for ends the wait."""
        while (event := self.next())["type"] not in kinds:
            assert event["type"] != "error", event
        return event

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.seen]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.seen if event["type"].endswith(kind)]


@contextmanager
def connected(server: Running, target: str = "/v1/realtime?intent=transcription", **options: Any) -> Iterator[Socket]:
    """A client of `target`, its first event read. options: of websockets' connect, and `key` for another key."""
    headers = options.pop("additional_headers", {"authorization": f"Bearer {options.pop('key', 'k')}"})
    options = {
        "open_timeout": LIMIT,
        "close_timeout": LIMIT,
        "max_size": None,
        "max_queue": None,
        "proxy": None,
    } | options
    url = f"ws://127.0.0.1:{server.port}{target}"
    with websockets.sync.client.connect(url, additional_headers=headers, **options) as connection:
        socket = Socket(connection)
        socket.next()
        yield socket
