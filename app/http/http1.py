"""HTTP/1.1 connections that send at once, with bounds on request heads and on clients that do not read, which uvicorn
lacks.

Owns how many bytes and seconds a request line and its headers may take, how long an answer may lie unread, how a
connection ends whose request was answered before all of it came, the answer to what is not HTTP, how an answer of
unknown length ends for a client of HTTP/1.0, that HTTP/2 is not spoken, and that a WebSocket is. Bodies are the matter
of `app/http/request_body.py`, open sockets of `app/http/websockets.py`.
"""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import BrokenBody

HEAD_BYTES = 64 * 1024  # request line and headers; browsers and SDKs stay below 8 KiB. One read may go beyond it.
HEAD_SECONDS = 30.0  # from the connection, or the first byte of a further request, to the end of its headers
STALLED_SECONDS = (
    300.0  # that a full buffer of an answer may wait for room: longer than a player pauses that has read ahead
)
# After an answer that came before the whole request, the rest of it is read and dropped for so long, and while some
# comes at least so often (nginx: lingering_time, lingering_timeout; twice its time, as speech comes in large files).
LINGER_SECONDS, LINGER_IDLE_SECONDS = 60.0, 5.0
_UPGRADE = re.compile(rb"\nupgrade(?=[ \t]*:)(?![ \t]*:[ \t]*websocket[ \t]*\r)", re.IGNORECASE)
# With its value, as far as one may still be "websocket".
_UPGRADE_BEGUN = re.compile(rb"\n(u(?:p(?:g(?:r(?:a(?:d(?:e[ \t]*(?::[^\r\n]{0,32})?)?)?)?)?)?)?)\Z", re.IGNORECASE)


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol; closes connections whose request head is too long or too slow, or whose client does not
    read."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head_bytes = 0
        self._expects_head = True
        self._held, self._at_line_start = b"", False  # of a head that comes in parts
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._lingers: list[asyncio.TimerHandle] = []  # the latest moment and, last, the end of an idle while

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does this only for listeners that name their protocol; without it, small answers wait 40 ms for an
        # ACK.
        if (connection := transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._stop_stalled()
        for timer in self._lingers:
            timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not close(): that waits for the client to read what is buffered.
        self._stalled = asyncio.get_running_loop().call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_stalled()
        super().resume_writing()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            self._lingers.pop().cancel()
            self._lingers.append(self._close_in(LINGER_IDLE_SECONDS))
            return
        if self._expects_head:
            data = self._without_offer(data)
        super().data_received(data)
        if self._held and not self._expects_head:  # it was no head any more
            held, self._held = self._held, b""
            super().data_received(held)
        if self._deadline is not None and not self._lingers and not self.transport.is_closing():  # the head goes on
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")

    def _without_offer(self, data: bytes) -> bytes:
        """A piece of a head without the offer to change the protocol, unless it is to WebSocket: no other is taken up,
        and the parser drops the body of one. The beginning of such a line at the end of the piece waits for the
        next."""
        before = b"\n" if self._at_line_start else b""
        data, self._held = before + self._held + data, b""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            begun = _UPGRADE_BEGUN.search(data)
            end = len(data) if begun is None else begun.start(1)
            data, self._held = data[:end], data[end:]
        if _UPGRADE.search(data, 0, end):
            data = _UPGRADE.sub(rb"\nx-offer", data[:end]) + data[end:]
        self._at_line_start = data.endswith(b"\n")
        return data[len(before) :]

    def on_headers_complete(self) -> None:
        self._stop_clock()
        self._expects_head = False
        super().on_headers_complete()
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        self.cycle.transport = _AnswerTransport(self)  # type: ignore[assignment]
        _end_when_read(self.cycle)
        if self.scope["http_version"] == "1.0":
            _end_with_connection(self.cycle)

    def _should_upgrade(self) -> bool:
        """Only a GET opens a WebSocket, RFC 6455 4.1."""
        return bool(self.parser.get_method() == b"GET") and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over; one whose earlier answer is still being sent is refused."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.send_400_response("The connection still carries the answer to an earlier request.")
        else:
            super().handle_websocket_upgrade()

    def on_message_complete(self) -> None:
        self._expects_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """The same error shape as everywhere else, for what never became a request."""
        self.transport.write(bad_request(msg))
        self._linger()

    def end_answer(self) -> None:
        """Close the connection: at once after a whole request or an answer that was cut, else politely."""
        if self._expects_head or not self.cycle.response_complete:
            self.transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """End our side of the connection and drop what still comes. Closed with bytes unread, the system would reset
        it, and that overtakes the answer."""
        self._stop_clock()
        if self.transport.is_closing() or self._lingers:
            return
        if self.transport.can_write_eof():  # not under TLS
            self.transport.write_eof()
        self.flow.resume_reading()
        self._lingers = [self._close_in(LINGER_SECONDS), self._close_in(LINGER_IDLE_SECONDS)]

    def _close_in(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self.transport.close)

    def _start_clock(self) -> None:
        self._stop_clock()
        self._deadline = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._too_slow)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _too_slow(self) -> None:
        self.transport.close()


def bad_request(message: str) -> bytes:
    """The whole answer to what never became a request."""
    body = BrokenBody(message).encoded()
    head = (
        "HTTP/1.1 400 Bad Request",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    )
    return "\r\n".join((*head, "", "")).encode("ascii") + body


class _AnswerTransport:
    """What an answer writes to: its connection, which it closes politely."""

    def __init__(self, protocol: GatewayProtocol) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def close(self) -> None:
        self._protocol.end_answer()


def _end_when_read(cycle: RequestResponseCycle) -> None:
    """Let an answer's last `send` return once its client has read all but a buffer of it, or has gone: until then the
    request is in flight and counts against its key."""
    send = cycle.send

    async def send_and_wait(message: Any) -> None:
        await send(message)
        if cycle.response_complete:
            await cycle.flow.drain()

    cycle.send = send_and_wait  # type: ignore[method-assign]


def _end_with_connection(cycle: RequestResponseCycle) -> None:
    """An answer without a length goes out as it is and ends where the connection does: HTTP/1.0 knows no chunks."""
    send, unknown = cycle.send, False

    async def send_plain(message: Any) -> None:
        nonlocal unknown
        if message["type"] == "http.response.start":
            unknown = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if unknown:
                cycle.chunked_encoding = False
        elif unknown and message["type"] == "http.response.body":
            cycle.expected_content_length = len(
                message.get("body", b"")
            )  # what uvicorn checks a body without chunks against
        await send(message)

    cycle.send = send_plain  # type: ignore[method-assign]
