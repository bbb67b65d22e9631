"""WebSocket connections with bounds on clients that do not read, and on those that send what costs more to parse than
to send.

Owns the largest message that is taken, in bytes and in fragments, how much is parsed at once, and how long a message of
ours may lie unread. What the messages mean is the matter of `app/realtime`.
"""

from __future__ import annotations

import asyncio
import time

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from app.http.http1 import bad_request

# 15 MiB of audio, the most that one event may hold upstream, are 20 MiB of base64; the rest is JSON around it.
MOST_FRAME_BYTES = 21 * 1024 * 1024
# Longer than reading may pause because a model is still being loaded; the client's answer waits behind its audio.
PONG_SECONDS = 300.0
MOST_FRAGMENTS = 16_384  # of one message: an empty one costs no byte of the bound above
# Parsed before other connections have their turn: a frame of 6 bytes takes as long as one of 4 kB, some 50 us.
_READ_BYTES = 4096
_LONG_PARSE_SECONDS = 0.002  # after which the connection rests
LINGER_SECONDS = 2.0  # after a message that broke the protocol, or was too long
UNREAD_SECONDS = 30.0  # that a full buffer of messages may wait for room: speech later than that is of no use


class GatewaySocket(WebSocketsSansIOProtocol, asyncio.BufferedProtocol):
    """uvicorn's protocol; cuts the connection of a client that does not read, and reads little at once."""

    _unread: asyncio.TimerHandle | None = None
    _rest: asyncio.TimerHandle | None = None
    _buffer: memoryview | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        error = self.conn.handshake_exc
        if error is not None and not self.handshake_initiated and not self.close_sent:
            # A head that HTTP allows and the WebSocket library does not: too long a line, or too many. It says nothing
            # then, and the connection would stay open for ever.
            self.close_sent = self.handshake_initiated = True
            self.transport.write(bad_request(f"The request does not open a WebSocket: {error}."))
            self.transport.close()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # by a refusal, which would be logged as a failure

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_READ_BYTES))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        begun = time.perf_counter()
        self.data_received(bytes(self.get_buffer(-1)[:nbytes]))
        if (taken := time.perf_counter() - begun) > _LONG_PARSE_SECONDS:
            self._pause(taken)

    def _pause(self, taken: float) -> None:
        """Rest for as long as all sockets would take that send the same: together they leave time for others."""
        if self._rest is None and not self.transport.is_closing():
            sockets = sum(isinstance(one, GatewaySocket) for one in self.connections)
            self.transport.pause_reading()
            self._rest = self.loop.call_later(taken * sockets, self._go_on)

    def _go_on(self) -> None:
        self._rest = None
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < MOST_FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.frames = []
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"over {MOST_FRAGMENTS} fragments")
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        """No pong for a client that does not read them: they would pile up as fast as it can send."""
        pongs = self.conn.data_to_send()
        if self._unread is None:
            self.transport.write(b"".join(pongs))

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not close(): that waits for the client to read what is buffered.
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_clock()
        super().resume_writing()

    def handle_parser_exception(self) -> None:
        """Say why and read on for a moment what is still coming: closed with bytes unread, the system would reset the
        connection, and that overtakes the close code."""
        if self.close_sent:
            return
        close = self.conn.close_sent
        code, reason = (close.code, close.reason) if close is not None else (1002, "")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        if self._rest is not None:
            self._rest.cancel()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
