"""One hostile request over a raw socket, and whether its answer is one that the contract allows.

Owns the promise that every fuzz case is held to: an answer comes, it is no failure of the server, and an error has the
shape of the contract. Knows no way of making requests hostile.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

KEY = "root"  # of the administrator: every operation is open to it
PATIENCE_SECONDS = 30.0  # for an answer; above it, the request hangs
OPEN_SECONDS = 0.25  # that the client of an incomplete request stays
ERROR_KEYS = {"code", "message", "type", "param"}
Choices = Sequence[Any]
Check = Callable[[int, Mapping[str, str], bytes], str]  # status, headers in small letters and body to a finding


@dataclass(frozen=True)
class Case:
    """A request as it travels.

    note: how it was made; complete: an answer must come; method: for reading that answer; page: the web page answers,
    in shapes of its own; check: further promises about the answer.
    """

    note: str
    raw: bytes
    complete: bool = True
    method: str = "POST"
    page: bool = False
    check: Check | None = None


@dataclass(frozen=True)
class Outcome:
    """status: 0 where none came; finding: which promise was broken, "" = none."""

    status: int
    seconds: float
    finding: str = ""


def request(
    path: bytes, body: bytes, content_type: bytes, *extra: bytes, method: bytes = b"POST", length: int | None = None
) -> bytes:
    """A whole request with the administrator's key. length: another one than the body's."""
    lines = (
        method + b" " + path + b" HTTP/1.1",
        b"Host: localhost",
        b"api-key: " + KEY.encode(),
        b"Connection: close",
        b"Content-Type: " + content_type,
        b"Content-Length: %d" % (len(body) if length is None else length),
        *extra,
    )
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def ask(port: int, case: Case) -> Outcome:
    """Send it, read the answer, judge it."""
    began = time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
            status, finding = _exchange(connection, case)
    except TimeoutError:
        status, finding = 0, "hangs: no answer in time"
    except (http.client.HTTPException, ConnectionError, ValueError) as error:
        status, finding = 0, f"no complete answer: {error!r}" if case.complete else ""
    return Outcome(status, time.monotonic() - began, finding)


def _exchange(connection: socket.socket, case: Case) -> tuple[int, str]:
    with contextlib.suppress(ConnectionError):  # the server may refuse before it has read everything
        connection.sendall(case.raw)
    if not case.complete:
        connection.settimeout(OPEN_SECONDS)
        try:
            connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            connection.settimeout(PATIENCE_SECONDS)
            connection.shutdown(socket.SHUT_WR)  # now the server must end it
    connection.settimeout(PATIENCE_SECONDS)
    answer = http.client.HTTPResponse(connection, method=case.method)
    answer.begin()
    if case.page:
        return answer.status, f"status {answer.status}" if answer.status == 500 else ""
    body = answer.read()
    finding = judge(answer.status, answer.getheader("content-type", ""), body, case.method)
    if case.check is not None and not finding:
        finding = case.check(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)
    return answer.status, finding


def judge(status: int, content_type: str, body: bytes, method: str = "POST") -> str:
    """Which promise an answer breaks, "" = none."""
    if status >= 500:
        return f"status {status}: {body[:300]!r}"
    if status >= 400 and method != "HEAD":
        return error_shape(content_type, body)
    if content_type.startswith("text/event-stream") and b"internal_server_error" in body:
        return f"failure in the stream: {body[-300:]!r}"
    if content_type == "application/json" and method != "HEAD":
        try:
            json.loads(body)
        except ValueError:
            return f"not JSON: {body[:200]!r}"
    return ""


def error_shape(content_type: str, body: bytes) -> str:
    """What is wrong with the body of an error, "" = nothing."""
    try:
        document = json.loads(body)
    except ValueError:
        return f"error body is not JSON: {body[:200]!r}"
    error = document.get("error") if isinstance(document, dict) else None
    if content_type != "application/json" or not isinstance(error, dict) or set(error) - {"innererror"} != ERROR_KEYS:
        return f"error has another shape: {content_type} {body[:200]!r}"
    if not isinstance(error["message"], str) or not isinstance(error["type"], str):
        return f"error without text: {body[:200]!r}"
    if not all(error[name] is None or isinstance(error[name], str) for name in ("code", "param")):
        return f"error with odd values: {body[:200]!r}"
    return ""


def damaged(data: bytes, chance: Random, rounds: int = 3) -> bytes:
    """`data` after a few random injuries: bits, bytes, sizes, cuts, repeats."""
    result = bytearray(data)
    for _ in range(chance.randint(1, rounds)):
        _injure(result, chance)
    return bytes(result)


def _injure(data: bytearray, chance: Random) -> None:
    near_start = chance.random() < 0.5
    at = chance.randrange(min(len(data), 256) if near_start else len(data)) if data else 0
    kind = chance.randrange(7)
    if kind == 0 and data:
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1 and data:
        data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 10, 13, 34))
    elif kind == 2:
        extreme = chance.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data)))
        data[at : at + 4] = extreme.to_bytes(4, chance.choice(("little", "big")))
    elif kind == 3:
        del data[at : at + chance.choice((1, 4, 50, 2000))]
    elif kind == 4:
        data[at:at] = chance.randbytes(chance.choice((1, 4, 100)))
    elif kind == 5:
        data[at:at] = data[at : at + chance.choice((4, 40, 1000))]
    else:
        del data[max(at, 1) :]


def forever(chance: Random, *makers: Any) -> Iterator[Case]:
    """Cases by randomly chosen makers."""
    while True:
        yield chance.choice(makers)(chance)
