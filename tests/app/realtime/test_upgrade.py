"""The upgrade itself, over raw connections: a head in pieces, and what is no proper upgrade."""

from __future__ import annotations

import socket

import pytest

from tests.support.server import Running

HEAD = (
    b"GET /v1/realtime?intent=transcription HTTP/1.1\r\nHost: localhost\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nApi-Key: k\r\n\r\n"
)


def _status(connection: socket.socket) -> int:
    return int(connection.recv(65_536).split()[1])


@pytest.mark.parametrize("word", [b"Upgrade: web", b"pgrade: websocket\r\nConn", b"socket\r\nConnection"])
@pytest.mark.parametrize("offset", range(0, 12, 3))
def test_a_head_may_be_cut_anywhere(server: Running, word: bytes, offset: int) -> None:
    cut = HEAD.index(word) + offset
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(HEAD[:cut])
        server.do(lambda: None)  # the server has read what came
        connection.sendall(HEAD[cut:])
        assert _status(connection) == 101


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Upgrade: websocket", b"UPGRADE:\tWebSocket"), 101),
        ((b"Upgrade: websocket", b"Upgrade: h2c"), 426),
        ((b"Upgrade: websocket", b"Upgrade: websockets"), 426),
        ((b"Connection: Upgrade", b"Connection: close"), 426),
        ((b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8"), 400),
        ((b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""), 400),
        ((b"GET /v1", b"POST /v1"), 405),
        ((b"/v1/realtime", b"/v1/nowhere"), 404),
        ((b"Api-Key: k\r\n", b""), 101),  # none is needed on loopback without a list of keys
    ],
)
def test_what_is_no_proper_upgrade(server: Running, change: tuple[bytes, bytes], status: int) -> None:
    with server.connect() as connection:
        connection.sendall(HEAD.replace(*change))
        assert _status(connection) == status


def test_a_connection_that_was_kept_alive_can_be_upgraded(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65_536)
        connection.sendall(HEAD)
        assert _status(connection) == 101
