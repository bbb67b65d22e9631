"""Requests that two parsers could read in two ways: each is answered once or cut, and nothing of it passes for a
further one."""

from __future__ import annotations

import pytest

from tests.support.server import Running, server_fixture

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\napi-key: k\r\ncontent-type: application/json\r\n"


server = server_fixture()


@pytest.mark.parametrize(
    "raw",
    [
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + HIDDEN,
        POST + b"Content-Length: 5, 6\r\n\r\nhello" + HIDDEN,
        POST + b"Content-Length: +5\r\n\r\nhello" + HIDDEN,
        POST + b"Content-Length: 0x5\r\n\r\nhello" + HIDDEN,
        POST + b"Content-Length: -1\r\n\r\n" + HIDDEN,
        POST + b"Content-Length: 5 5\r\n\r\nhello" + HIDDEN,
        POST + b"Content-Length: 99999999999999999999\r\n\r\n" + HIDDEN,
        POST + b"Content-Length : 5\r\n\r\nhello" + HIDDEN,
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX" + HIDDEN,
        POST + b"X: a\r\n b\x00c\r\n\r\n" + HIDDEN,
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX\x00Y: 1\r\n\r\n" + HIDDEN,
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n: 1\r\n\r\n" + HIDDEN,
        b"GET /v1/models HTTP/7.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + HIDDEN,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
        b"G" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_what_is_ambiguous_or_broken_is_refused_and_the_connection_ends(server: Running, raw: bytes) -> None:
    with server.connect() as connection:
        connection.settimeout(90)
        try:
            connection.sendall(raw)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionError:  # cut while it was sent
            answer = b""
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert answer == b"" or answer.split(b" ", 2)[1] in (b"400", b"408", b"413")
    assert b"Resource not found" not in answer
