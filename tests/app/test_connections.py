"""Clients that hang up, stall, lie about sizes or send too much, over raw sockets; nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import socket
import time

import httpx
import pytest

from app.errors import TooLarge
from app.http.http1 import GatewayProtocol
from app.http.request_body import capped
from tests.support.server import Running, fake_settings, running, server_fixture
from tests.support.waiting import wait_until

PATH = "/v1/audio/transcriptions"
KEYS = {"api_keys": [{"name": "one", "key": "k"}]}
SPEECH = {"model": "fake-tts", "input": "Good morning.", "voice": "alloy", "response_format": "pcm"}

server = server_fixture(server=KEYS)


def _form(wav: bytes, model: str = "fake-asr", **fields: str) -> bytes:
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in ({"model": model} | fields).items()
    ]
    return (
        b"".join(parts)
        + b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + wav
        + b"\r\n--b--\r\n"
    )


def _head(length: int | None, *extra: str, key: str = "api-key: k", path: str = PATH) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: multipart/form-data; boundary=b", *extra]
    if key:
        lines.append(key)
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer."""
    reader = connection.makefile("rb")
    status = int(reader.readline().split()[1])
    headers: dict[str, str] = {}
    while line := reader.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    return status, headers, reader.read(int(headers.get("content-length", 0)))


def _quiet(server: Running) -> bool:
    return server.gateway.in_flight == 0 and server.pool.active == 0


def _count(server: Running, name: str) -> float:
    return server.gateway.metrics.registry.get_sample_value(name) or 0.0


def test_leaving_while_the_model_works_cancels_the_job(wav: bytes) -> None:
    with running() as server:
        server.pool.delay = 3600.0
        body = _form(wav)
        with server.connect() as connection:
            connection.sendall(_head(len(body)) + body)
            wait_until(lambda: server.pool.active == 1)
            assert server.gateway.in_flight == 1
        wait_until(lambda: _quiet(server))
        wait_until(lambda: _count(server, "gateway_cancelled_total") == 1)
        labels = {"route": "audio/transcriptions", "status": "499"}
        assert server.gateway.metrics.registry.get_sample_value("gateway_requests_total", labels) == 1


def test_leaving_in_the_middle_of_a_stream_cancels_the_job(wav: bytes) -> None:
    with running() as server:
        server.pool.delay = 0.3
        body = _form(wav, stream="true")
        with server.connect() as connection:
            connection.sendall(_head(len(body)) + body)
            assert b"text/event-stream" in connection.recv(4096)
        wait_until(lambda: _quiet(server))
        assert _count(server, "gateway_cancelled_total") == 1


def test_a_storm_of_clients_that_leave_anywhere_leaves_nothing_behind(wav: bytes) -> None:
    dice = random.Random(7)
    with running() as server:
        server.pool.delay = 0.005
        whole = _head(len(_form(wav, stream="true"))) + _form(wav, stream="true")
        for _ in range(60):
            with server.connect() as connection:
                connection.sendall(whole[: dice.choice([0, 10, 200, dice.randrange(len(whole)), len(whole)])])
                if dice.random() < 0.5:
                    time.sleep(dice.random() * 0.02)
        wait_until(lambda: _quiet(server))
        assert server.gateway.media.folder is not None
        wait_until(lambda: not list(server.gateway.media.folder.iterdir()))
        tasks = server.do(lambda: len(asyncio.all_tasks()))
        time.sleep(0.05)
        answer = httpx.post(
            server.url + PATH, headers={"api-key": "k"}, data={"model": "fake-asr"}, files={"file": wav}
        )
        assert answer.status_code == 200
        assert tasks < 20


def test_a_slow_upload_is_ended_with_408() -> None:
    with running(fake_settings(limits={"upload_seconds": 0.3})) as server, server.connect() as connection:
        connection.sendall(_head(1000) + b"--b\r\n")
        status, headers, body = _answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
        assert (headers["connection"], headers["retry-after"]) == ("close", "1")
        assert connection.recv(1) == b""
        wait_until(lambda: _quiet(server))


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_refused_after_it_was_read(announced: bool) -> None:
    with running(fake_settings(limits={"body_bytes": 100_000})) as server, server.connect() as connection:
        junk = b"x" * 3_000_000
        if announced:
            connection.sendall(_head(len(junk)) + junk)
        else:
            connection.sendall(_head(None) + b"%x\r\n" % len(junk) + junk + b"\r\n0\r\n\r\n")
        status, _, body = _answer(connection)
        error = json.loads(body)["error"]
        assert (status, error["code"], error["type"]) == (413, None, "server_error")
        assert "100000" in error["message"]
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert _answer(connection)[0] == 200, "the connection must be usable afterwards"


def test_a_missing_key_is_refused_after_the_body_was_read(server: Running) -> None:
    with server.connect() as connection:
        junk = b"x" * 2_000_000
        connection.sendall(_head(len(junk), key="") + junk)
        assert _answer(connection)[0] == 401
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert _answer(connection)[0] == 200


def test_a_client_that_asks_first_need_not_send_its_body(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(_head(2_000_000, "Expect: 100-continue", key=""))
        status, headers, _ = _answer(connection)
        assert (status, headers["connection"]) == (401, "close")


def test_a_welcome_client_that_asks_first_is_told_to_go_on(server: Running, wav: bytes) -> None:
    body = _form(wav)
    with server.connect() as connection:
        connection.sendall(_head(len(body), "Expect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert _answer(connection)[0] == 200


def test_an_endless_refused_body_is_cut_off(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.http.request_body.DRAIN_SECONDS", 0.3)
    with server.connect() as connection:
        connection.sendall(_head(None, key="") + b"5\r\nhello\r\n")
        status, headers, _ = _answer(connection)
        assert (status, headers["connection"]) == (401, "close")


REFUSED = [
    pytest.param(_head(30_000_000), 413, id="too large"),
    pytest.param(_head(None), 413, id="too large, in chunks"),
    pytest.param(_head(30_000_000, key=""), 401, id="no key"),
    pytest.param(_head(30_000_000, path="/v1/nowhere"), 404, id="no such path"),
    pytest.param(b"nonsense\r\n" + _head(30_000_000), 400, id="no HTTP"),
]


@pytest.mark.parametrize(("head", "status"), REFUSED)
def test_who_sends_all_before_reading_is_told_too(monkeypatch: pytest.MonkeyPatch, head: bytes, status: int) -> None:
    """As urllib does. A connection closed with bytes unread is reset, and the reset overtakes the answer."""
    monkeypatch.setattr("app.http.request_body.DRAIN_BYTES", 200_000)
    body = b"x" * 30_000_000
    if b"chunked" in head:
        body = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    with running(fake_settings(limits={"body_bytes": 100_000}, server=KEYS)) as server, server.connect() as connection:
        connection.sendall(head + body)
        answered, headers, content = _answer(connection)
        assert (answered, headers["connection"]) == (status, "close")
        assert json.loads(content)["error"]["message"]
        assert connection.recv(1) == b"", "the server has ended its side"


@pytest.mark.parametrize("limit", ["LINGER_SECONDS", "LINGER_IDLE_SECONDS"])
def test_a_refused_client_that_goes_on_is_not_read_for_ever(
    server: Running, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr("app.http.request_body.DRAIN_SECONDS", 0.1)
    monkeypatch.setattr(f"app.http.http1.{limit}", 0.3)
    with server.connect() as connection:
        connection.sendall(_head(None, key="") + b"5\r\nhello\r\n")
        assert _answer(connection)[0] == 401
        with pytest.raises(ConnectionError):
            _send_on(connection, pause=0.02 if limit == "LINGER_SECONDS" else 0.5)


def _send_on(connection: socket.socket, pause: float) -> None:
    while True:
        connection.sendall(b"5\r\nhello\r\n")
        time.sleep(pause)


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nx: ", b"GET /", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100])
def test_an_endless_head_is_refused(server: Running, start: bytes) -> None:
    with server.connect() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(start)
            for _ in range(64):
                connection.sendall(b"a" * 16_384)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_what_is_not_http_gets_the_usual_error(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(b"\x16\x03\x01 this is TLS\r\n\r\n")
        status, headers, body = _answer(connection)
        assert (status, headers["content-type"]) == (400, "application/json")
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_a_slow_head_is_cut_off(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.http.http1.HEAD_SECONDS", 0.2)
    with server.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\n")
        assert connection.recv(1) == b""


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_client_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch, half_closed: bool) -> None:
    monkeypatch.setattr("app.http.http1.STALLED_SECONDS", 0.3)
    body = json.dumps({"model": "fake-tts", "input": "x" * 4096, "voice": "alloy", "response_format": "pcm"}).encode()
    head = _head(len(body), path="/v1/audio/speech").replace(b"multipart/form-data; boundary=b", b"application/json")
    with running() as server, server.connect() as connection:
        connection.sendall(head + body)
        wait_until(lambda: server.pool.requests != [])
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: _quiet(server))
        wait_until(lambda: _count(server, "gateway_cancelled_total") == 1)


def test_small_packets_are_not_held_back(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Nagle's algorithm the body of a short answer waits for the head's acknowledgement, which takes 40 ms."""
    seen: list[int] = []
    complete = GatewayProtocol.on_headers_complete

    def look(protocol: GatewayProtocol) -> None:
        seen.append(protocol.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        complete(protocol)

    monkeypatch.setattr(GatewayProtocol, "on_headers_complete", look)
    assert httpx.get(f"{server.url}/health/live").status_code == 200
    assert seen == [1]


def test_two_requests_on_one_connection(server: Running, wav: bytes) -> None:
    body = _form(wav)
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(_head(len(body)) + body)
            assert _answer(connection)[0] == 200
    assert _count(server, "gateway_cancelled_total") == 0


@pytest.mark.parametrize("cuts", [(), (60,), (100, 101, 102)])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_of_http_2_is_not_taken_up(server: Running, wav: bytes, chunked: bool, cuts: tuple[int, ...]) -> None:
    """Java's own client offers it with every request to a plain address, and sends the body at once."""
    body = _form(wav, prompt="\r\nUpgrade: no header")
    offer = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    data = _head(None if chunked else len(body), *offer) + sent
    with server.connect() as connection:
        for _ in range(2):
            for start, end in itertools.pairwise((0, *cuts, len(data))):
                connection.sendall(data[start:end])
                time.sleep(0.01)
            status, _headers, answer = _answer(connection)
            assert (status, json.loads(answer)["text"]) == (200, "Good morning to you.")
    assert server.pool.requests[-1].prompt == "\r\nUpgrade: no header"


@pytest.mark.parametrize("offset", range(9))
def test_an_offer_of_http_2_may_be_cut_anywhere(server: Running, wav: bytes, offset: int) -> None:
    body = _form(wav)
    data = _head(len(body), "Upgrade: h2c", "Connection: Upgrade") + body
    cut = data.index(b"Upgrade") + offset
    with server.connect() as connection:
        connection.sendall(data[:cut])
        time.sleep(0.05)
        connection.sendall(data[cut:])
        status, _headers, answer = _answer(connection)
    assert (status, json.loads(answer)["text"]) == (200, "Good morning to you.")


def test_a_body_that_ends_as_an_offer_begins_is_complete(server: Running) -> None:
    """Its head ends with the packet in which the body comes, cut between the two ends of lines."""
    body = b'{"model": "fake-tts", "input": "Hello.", "voice": "alloy", "response_format": "pcm"}\nU'
    data = _head(len(body), path="/v1/audio/speech") + body
    cut = data.index(b"\r\n\r\n") + 2
    with server.connect() as connection:
        connection.sendall(data[:cut])
        time.sleep(0.05)
        connection.sendall(data[cut:])
        assert _answer(connection)[0] == 400


@pytest.mark.parametrize(("path", "body"), [("/v1/audio/speech", SPEECH), ("/v1/models/fake-asr", None)])
def test_http_1_0_gets_no_chunks(server: Running, path: str, body: dict[str, str] | None) -> None:
    content = json.dumps(body).encode() if body else b""
    head = [f"{'POST' if body else 'GET'} {path} HTTP/1.0", "api-key: k", "connection: keep-alive"]
    if body:
        head += ["content-type: application/json", f"content-length: {len(content)}"]
    with server.connect() as connection:
        connection.sendall("\r\n".join((*head, "", "")).encode() + content)
        answer = connection.makefile("rb").read()  # to the end of the connection, which is the end of the answer
    told, _, got = answer.partition(b"\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in told
    assert told.count(b"connection: close") == 1
    headers = {"api-key": "k"}
    wanted = (
        httpx.post(server.url + path, headers=headers, json=body)
        if body
        else httpx.get(server.url + path, headers=headers)
    )
    assert wanted.headers.get("transfer-encoding") == ("chunked" if body else None)
    assert got == wanted.content


def test_quiet_streams_are_kept_alive(server: Running, wav: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.writers.sse.PING_SECONDS", 0.05)
    server.pool.delay = 0.2
    try:
        answer = httpx.post(
            server.url + PATH,
            headers={"api-key": "k"},
            data={"model": "fake-asr", "stream": "true"},
            files={"file": wav},
        )
    finally:
        server.pool.delay = 0.0
    assert answer.text.startswith(": ping\n\n")
    assert answer.text.endswith("data: [DONE]\n\n")
    assert '"text":"Good morning to you."' in answer.text


async def test_an_app_that_reads_the_body_itself_is_capped() -> None:
    chunks = [{"type": "http.request", "body": b"x" * 6, "more_body": True}] * 3

    async def receive() -> dict[str, object]:
        return chunks.pop()

    reading = capped(receive, 10)  # type: ignore[arg-type]
    assert (await reading())["body"] == b"x" * 6
    with pytest.raises(TooLarge):
        await reading()
