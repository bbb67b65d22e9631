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

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
