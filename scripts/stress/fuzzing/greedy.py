"""A client that takes all it can get beside one that asks politely: how many requests of the polite one are answered.

Owns the ways of being greedy: uploads that do not end, floods of jobs, bodies that are long to parse, canaries, answers
that are not read. Counts; judges no time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

from scripts.stress.fuzzing.exchange import Case, ask
from scripts.stress.fuzzing.ordinary import upload

GREEDY, HONEST = "greedy", "k"  # keys of the two; both are configured
SLOW = "contested"  # the deployment that both want
_UPLOADS, _UPLOAD_BYTES = 12, 5_000_000  # that never end
_FLOOD = 24  # jobs asked for at the same time, more than the queue holds
_UNREAD = 4  # answers that nobody reads


@dataclass
class Count:
    """honest: statuses of the polite client; alone, beside: seconds of each of its requests, before and while the
    other asked; greedy: statuses of the other one; findings: what was answered against a promise."""

    honest: Counter[int] = field(default_factory=Counter)
    greedy: Counter[int] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)


def run(port: int, chance: Random, polite_requests: int) -> Count:
    """The polite client alone, then both until it has sent its requests again."""
    count, over, lock = Count(), threading.Event(), threading.Lock()

    def flood(number: int) -> None:
        cases = _cases(Random(f"{chance.random()} {number}"))
        while not over.is_set():
            case = next(cases)
            outcome = ask(port, case)
            with lock:
                count.greedy[outcome.status] += 1
                if outcome.finding:
                    count.findings.append(f"{case.note}: {outcome.finding}")

    for number in range(polite_requests):
        _timed(count.alone, count.honest, port, number)
    with _held(port), ThreadPoolExecutor(_FLOOD) as crowd:
        jobs = [crowd.submit(flood, number) for number in range(_FLOOD)]
        try:
            for number in range(polite_requests):
                _timed(count.beside, count.honest, port, number)
        finally:
            over.set()
        for job in jobs:
            job.result()
    return count


def _timed(seconds: list[float], statuses: Counter[int], port: int, number: int) -> None:
    began = time.monotonic()
    statuses[_polite(port, number)] += 1
    seconds.append(time.monotonic() - began)


def _polite(port: int, number: int) -> int:
    """An ordinary request, now for speech, now with an upload."""
    path, kind, body = upload("hear", 1.0) if number % 2 else _speech("Good morning.")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", f"/v1/{path.decode()}", body, {"api-key": HONEST, "content-type": kind.decode()})
        answer = connection.getresponse()
        answer.read()
        return answer.status


@contextlib.contextmanager
def _held(port: int) -> Iterator[None]:
    """Uploads that never end and answers that nobody reads, for as long as the context lasts."""
    path, kind, body = _speech("0" * 4000)
    with contextlib.ExitStack() as stack:
        for number in range(_UPLOADS + _UNREAD):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            unread = number >= _UPLOADS
            size = len(body) if unread else _UPLOAD_BYTES
            with contextlib.suppress(OSError):  # refused before it was sent
                connection.sendall(_head(path, kind, size) + (body if unread else b" " * (_UPLOAD_BYTES - 1)))
        yield


def _cases(chance: Random) -> Iterator[Case]:
    """Greedy requests without end."""
    makers: tuple[Callable[[], Case], ...] = (_job, _job, _job, _values, _keyword, _canary)
    while True:
        yield chance.choice(makers)()


def _job() -> Case:
    return _case("flood of jobs", *_speech("0" * 50))


def _values() -> Case:
    return _case("many values", b"audio/speech", b"application/json", b'{"audio":[' + b"[]," * 500_000 + b"0]}")


def _keyword() -> Case:
    return _case("long key", b"audio/speech", b"application/json", b'{"' + b"k" * 5_000_000 + b'":0}')


def _canary() -> Case:
    head = f"GET /health?deep=1 HTTP/1.1\r\nHost: localhost\r\napi-key: {GREEDY}\r\nConnection: close\r\n\r\n"
    return Case("canary", head.encode(), method="GET")


def _case(note: str, path: bytes, kind: bytes, body: bytes) -> Case:
    return Case(note, _head(path, kind, len(body)) + body)


def _head(path: bytes, kind: bytes, size: int) -> bytes:
    lines = (
        b"POST /v1/" + path + b" HTTP/1.1",
        b"Host: localhost",
        b"api-key: " + GREEDY.encode(),
        b"Connection: close",
    )
    return b"\r\n".join((*lines, b"Content-Type: " + kind, b"Content-Length: %d" % size)) + b"\r\n\r\n"


def _speech(text: str) -> tuple[bytes, bytes, bytes]:
    document: dict[str, Any] = {"model": SLOW, "input": text, "voice": "alloy", "response_format": "wav"}
    return b"audio/speech", b"application/json", json.dumps(document).encode()
