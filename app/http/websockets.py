"""WebSocket connections with a bound on clients that do not read.

Owns the largest message that is taken and how long a message of ours may lie unread. What the messages mean is the
matter of `app/realtime`.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# 15 MiB of audio, the most that one event may hold upstream, are 20 MiB of base64; the rest is JSON around it.
MOST_FRAME_BYTES = 21 * 1024 * 1024
# Longer than reading may pause because a model is still being loaded; the client's answer waits behind its audio.
PONG_SECONDS = 300.0
LINGER_SECONDS = 2.0  # after a message that broke the protocol, or was too long
UNREAD_SECONDS = 30.0  # that a full buffer of messages may wait for room: speech later than that is of no use


class GatewaySocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol; cuts the connection of a client that does not read."""

    _unread: asyncio.TimerHandle | None = None

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
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
