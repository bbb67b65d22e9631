"""The memory that the bodies of all requests may hold together: a cap, and everything that gives it back."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.types import Message

from app.config.loading import load_settings
from app.config.settings import ConfigError
from app.errors import Overloaded
from app.http.middleware import Guard
from app.http.request_body import RequestBody
from app.serving.shares import FairShares
from backends.interface import Event, Request
from tests.support.server import Running, fake_settings, running
from tests.support.waiting import LIMIT, wait_until

LIMITS = {"body_bytes": 100_000, "total_body_bytes": 150_000}


def _ask(server: Running, wav: bytes) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        headers={"api-key": "k"},
        data={"model": "fake-asr"},
        files={"file": ("f.wav", wav)},
        timeout=LIMIT,
    )


def _half_upload(server: Running, whole: bytes, sent: int) -> socket.socket:
    """A client that has sent the head and this much of its body."""
    connection = server.connect()
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\napi-key: k\r\nContent-Length: {len(whole)}\r\n"
    connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + whole[:sent])
    return connection


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[FairShares]:
    """The accounts of the servers that are built in this test."""
    made: list[FairShares] = []
    build = Guard.__init__

    def note(self: Guard, *arguments: Any, **named: Any) -> None:
        build(self, *arguments, **named)
        made.append(self._body_budget)

    monkeypatch.setattr(Guard, "__init__", note)
    return made


def test_bodies_over_the_total_are_refused_until_others_are_done(wav: bytes, bodies: list[FairShares]) -> None:
    speech = json.dumps({"model": "fake-tts", "input": "hi", "voice": "alloy", "instructions": " " * 4000}).encode()
    padded = speech + b" " * (99_000 - len(speech))
    with running(fake_settings(limits=LIMITS)) as server:
        slow = _half_upload(server, padded, 95_000)
        wait_until(lambda: any(b.held == 95_000 for b in bodies))
        refused = _ask(server, wav)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "429"
        assert int(refused.headers["retry-after"]) > 0
        metric = server.gateway.metrics.registry.get_sample_value("gateway_refused_total", {"reason": "body_memory"})
        assert metric == 1
        slow.sendall(padded[95_000:])
        assert slow.recv(12).endswith(b"200")
        slow.close()
        assert _ask(server, wav).status_code == 200
        wait_until(lambda: all(b.held == 0 for b in bodies))


def test_a_client_that_leaves_or_is_refused_gives_its_share_back(wav: bytes, bodies: list[FairShares]) -> None:
    with running(fake_settings(limits=LIMITS)) as server:
        _half_upload(server, b" " * 99_000, 95_000).close()
        wait_until(lambda: all(b.held == 0 for b in bodies))
        assert _ask(server, wav * 2).status_code == 413
        assert _ask(server, wav).status_code == 200
        wait_until(lambda: all(b.held == 0 for b in bodies))


def test_a_request_whose_audio_was_decoded_holds_no_share_while_it_waits(wav: bytes, bodies: list[FairShares]) -> None:
    with running(fake_settings(limits=LIMITS)) as server:
        held: list[int] = []
        answer = server.pool.script

        def script(request: Request) -> Iterator[Event]:
            held.append(bodies[-1].held)
            return answer(request)

        server.pool.script = script
        assert _ask(server, wav).status_code == 200
        assert held == [0]


async def test_shares_add_up_and_are_given_back_once() -> None:
    bodies = FairShares(100)
    one, two, three = (_arriving(size) for size in (60, 41, 40))
    await one.read(100, LIMIT, bodies)
    with pytest.raises(Overloaded):
        await two.read(100, LIMIT, bodies)
    await three.read(100, LIMIT, bodies)
    one.give_back()
    one.give_back()
    assert (bodies.held, one.held, two.held, three.held) == (40, 0, 0, 40)


def _arriving(size: int) -> RequestBody:
    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(size)}

    return RequestBody(receive, None, None)


def test_the_total_has_a_default_and_must_hold_one_body() -> None:
    assert load_settings(limits={"body_bytes": 1000}).limits.body_memory == 10_000
    with pytest.raises(ConfigError, match="less than body_bytes"):
        load_settings(limits={"total_body_bytes": 1000})
