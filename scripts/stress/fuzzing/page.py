"""Hostile requests to the web page's own routes: its uploads, files, calls and static paths, with and without a key.

The page answers in shapes of its own, so only this is promised of them: an answer comes, and it is no failure.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from random import Random

from scripts.stress.fuzzing.exchange import KEY, Case, damaged

_ROUTES = (
    "", "/", "/config", "/theme.css", "/gradio_api/info", "/gradio_api/upload", "/gradio_api/call/transcribe",
    "/gradio_api/call/speak", "/gradio_api/call/none", "/gradio_api/queue/join",
    "/gradio_api/queue/data?session_hash=x",
    "/gradio_api/run/transcribe", "/gradio_api/file=", "/gradio_api/file=/etc/hostname",
    "/gradio_api/file=..%2f..%2fREADME.md",
    "/gradio_api/proxy=http://127.0.0.1/", "/static/../../README.md", "/assets/%2e%2e/%2e%2e/README.md", "/svelte/x",
    "/gradio_api/heartbeat", "/gradio_api/reset", "/gradio_api/component_server", "/login", "/logout", "/monitoring",
    "/mcp",
    "/gradio_api/stream/x/y/z/playlist.m3u8", "/gradio_api/custom_component/x/server/component/../x",
)  # fmt: skip
_DATA = (
    [],
    [""],
    [None] * 8,
    ["a" * 10_000],
    [{"path": "/nowhere.wav", "meta": {"_type": "gradio.FileData"}}],
    {},
    None,
    1,
)
_OPENING_SECONDS = 300.0
_STILL_OPENING = b"Opening the page"
_METHODS = (b"GET", b"POST", b"POST", b"HEAD", b"DELETE")


def open_it(port: int) -> None:
    """Build the page, which takes long, and start its queue with a call. Raises TimeoutError."""
    ends = time.monotonic() + _OPENING_SECONDS
    while (found := _ask(port, "GET", "/ui/"))[0] != 200 or _STILL_OPENING in found[1]:
        if time.monotonic() > ends:
            raise TimeoutError(f"the page does not open: {found[0]} {found[1][:200]!r}")
        time.sleep(1)
    _, answer = _ask(port, "POST", "/ui/gradio_api/call/state", json.dumps({"data": []}).encode())
    _ask(port, "GET", f"/ui/gradio_api/call/state/{json.loads(answer)['event_id']}")


def _ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_OPENING_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"api-key": KEY, "content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def cases(chance: Random) -> Iterator[Case]:
    """Requests without end."""
    while True:
        yield _case(chance)


def _case(chance: Random) -> Case:
    route, method = chance.choice(_ROUTES), chance.choice(_METHODS)
    body = json.dumps(
        {"data": chance.choice(_DATA), "fn_index": chance.choice((0, 99, -1, "x")), "session_hash": "x"}
    ).encode()
    if chance.random() < 0.3:
        body = damaged(body, chance)
    kind = chance.choice((b"application/json", b"application/json", b"multipart/form-data; boundary=x", b"text/plain"))
    key = chance.choice((b"api-key: " + KEY.encode() + b"\r\n", b""))
    head = b"%s /ui%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s" % (method, route.encode(), key)
    head += b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
    return Case(f"{method.decode()} /ui{route}", head + body, method=method.decode(), page=True)
