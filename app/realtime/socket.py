"""The WebSocket of one realtime session: from the upgrade to the close code.

Owns what a client is told before the upgrade, the reading and writing of messages, and every way in which a session
ends. Knows no event's meaning.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
from starlette.types import Message, Receive, Scope, Send

from app.errors import ApiError, InvalidRequest, ModelUnavailable, Overloaded
from app.realtime.core import Opening
from app.realtime.driver import MOST_UNSENT_BYTES, Driver
from app.realtime.handshake import Handshake, chosen_subprotocol
from app.realtime.participants import Participants
from app.realtime.preview import Dialect
from app.routes.context import Gateway
from app.routes.json_text import TEXT_BYTES, decode

_log = structlog.get_logger("gateway")

# Close codes, RFC 6455 7.4.1; clients reconnect by themselves after 1001 and 1013.
NORMAL, GOING_AWAY, POLICY, INTERNAL, TRY_LATER = 1000, 1001, 1008, 1011, 1013
# Until the model is loaded; clients give up on a handshake after 10 s. One that takes longer is loaded behind it.
_LOADING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who opens a session. owner: name of the key, for logs; client: who shares fairly with others."""

    request_id: str
    owner: str
    client: str


@dataclass(frozen=True, slots=True)
class Closing:
    """Why a session ends; error: what the client is told before."""

    code: int
    reason: str
    error: ApiError | None = None


class SessionSocket:
    """One session from its handshake on. closing: how it ended, once it has."""

    def __init__(self, gateway: Gateway, handshake: Handshake, caller: Caller) -> None:
        """Raises ApiError where the session's defaults are wrong."""
        self._gateway, self._settings = gateway, gateway.settings.realtime
        self._handshake, self._client = handshake, caller.client
        participants = Participants(gateway, handshake.chat, owner=caller.client, request_id=caller.request_id)
        opening = Opening(
            handshake.kind,
            handshake.model,
            int(time.time() + self._settings.session_seconds),
            audio_bytes=self._settings.buffer_bytes,
            takes_audio=participants.takes_audio,
            defaults=handshake.defaults,
        )
        self.driver = Driver(
            gateway.pool,
            opening,
            participants.surroundings(),
            Dialect(preview=handshake.preview),
            participants.makers(),
            owner=caller.client,
            request_id=caller.request_id,
        )
        self._end: asyncio.Future[Closing] = asyncio.get_running_loop().create_future()
        self._leaves = False
        self._idle: asyncio.TimerHandle | None = None
        self.closing = Closing(NORMAL, "")

    async def serve(self, receive: Receive, send: Send, subprotocols: Sequence[str]) -> None:
        """Raises ApiError before the upgrade; afterwards everything ends in a close code."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.driver.close)
            if self._handshake.kind == "transcription":
                await self._prepare()
            else:
                await self.driver.check_room(_LOADING_SECONDS)
            try:
                await send({"type": "websocket.accept", "subprotocol": chosen_subprotocol(subprotocols)})
            except OSError:  # the client has gone
                return
            stack.enter_context(self._gateway.realtime.opened(self))
            self.driver.open()
            self._start_clocks(stack)
            self.closing = await self._until_closed(receive, send)

    async def _prepare(self) -> None:
        """Raises ApiError. Where the URL names no model, the first update may name one that is there."""
        try:
            await self.driver.prepare(_LOADING_SECONDS)
        except ModelUnavailable:
            if self._handshake.model:
                raise

    def leave(self) -> None:
        """Take nothing more, finish what was begun, and close with 1001."""
        self._leaves = True
        self.driver.changed.set()

    async def _until_closed(self, receive: Receive, send: Send) -> Closing:
        reading = asyncio.create_task(self._read(receive), name="realtime reader")
        writing = asyncio.create_task(self._write(send), name="realtime writer")
        try:
            await asyncio.wait({reading, writing, self._end}, return_when=asyncio.FIRST_COMPLETED)
            closing = self._outcome(reading, writing)
            if not writing.done():
                await self._say_goodbye(closing, writing, send)
            return closing
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    def _outcome(self, *tasks: asyncio.Task[Closing]) -> Closing:
        for task in tasks:
            if task.done() and not task.cancelled():
                if (error := task.exception()) is None:
                    return task.result()
                if not isinstance(error, OSError):
                    _log.error("internal_error", exc_info=error)
                    return Closing(INTERNAL, "the server failed on this session")
        return self._end.result() if self._end.done() else Closing(NORMAL, "")

    async def _say_goodbye(self, closing: Closing, writing: asyncio.Task[Closing], send: Send) -> None:
        """The last events and the close code, unless the client has closed already."""
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        if closing.code == NORMAL and not closing.reason:
            return
        if closing.error is not None:
            self.driver.send_error(closing.error)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await self._send_all(send)
                await send({"type": "websocket.close", "code": closing.code, "reason": closing.reason})

    # --- Reading and writing ------------------------------------------------------------------------------------------

    async def _read(self, receive: Receive) -> Closing:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return Closing(NORMAL, "")
            if message["type"] != "websocket.receive" or self._leaves:
                continue
            self._restart_idle_clock()
            async with self._gateway.realtime.turn(self._client):
                self._take(message)
            await self.driver.room()

    def _take(self, message: Message) -> None:
        text = message.get("text")
        if text is None:
            self.driver.refuse("Binary messages are not served: an event is JSON text, audio in it is base64.")
        elif len(text) > TEXT_BYTES and '"audio"' not in text:
            self.driver.refuse(f"An event without audio may have at most {TEXT_BYTES} bytes.")
        else:
            try:
                event = decode(text)
            except ValueError as error:
                self.driver.refuse(f"The event is not valid JSON: {error}.")
            else:
                self.driver.receive(event)

    async def _write(self, send: Send) -> Closing:
        driver = self.driver
        while True:
            driver.changed.clear()
            if driver.unsent > MOST_UNSENT_BYTES:
                return Closing(POLICY, "the client does not read what it is sent")
            await self._send_all(send)
            if driver.is_full:
                self._finish(Closing(TRY_LATER, "the server has no room to follow what is said; please try later"))
            if self._leaves and not driver.core.is_busy:
                self._finish(Closing(GOING_AWAY, "the server is shutting down"))
            await driver.changed.wait()

    async def _send_all(self, send: Send) -> None:
        while (message := self.driver.next_message()) is not None:
            await send({"type": "websocket.send", "text": message.decode("utf-8")})

    # --- Ends ---------------------------------------------------------------------------------------------------------

    def _finish(self, closing: Closing) -> None:
        if not self._end.done():
            self._end.set_result(closing)

    def _start_clocks(self, stack: contextlib.AsyncExitStack) -> None:
        seconds = self._settings.session_seconds
        text = f"The session has reached its longest time of {seconds:g} seconds."
        expired = Closing(NORMAL, text, InvalidRequest(text, code="session_expired"))
        stack.callback(asyncio.get_running_loop().call_later(seconds, partial(self._finish, expired)).cancel)
        self._restart_idle_clock()
        stack.callback(lambda: self._idle.cancel() if self._idle else None)

    def _restart_idle_clock(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        seconds = self._settings.idle_seconds
        idle = Closing(NORMAL, f"nothing came for {seconds:g} seconds")
        self._idle = asyncio.get_running_loop().call_later(seconds, partial(self._finish, idle))


@contextlib.contextmanager
def _place(gateway: Gateway, client: str) -> Iterator[None]:
    """One of the sessions that there may be. Raises Overloaded."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(gateway.realtime.place(client))
        except Overloaded:
            gateway.metrics.refused_total.labels("realtime_sessions").inc()
            raise
        yield


async def serve_socket(
    gateway: Gateway, handshake: Handshake, caller: Caller, scope: Scope, receive: Receive, send: Send
) -> Closing:
    """A session from the handshake to its end. Raises ApiError where it does not begin."""
    await receive()  # websocket.connect, which tells nothing
    with _place(gateway, caller.client), gateway.request(), gateway.metrics.realtime_sessions.track_inprogress():
        session = SessionSocket(gateway, handshake, caller)
        try:
            await session.serve(receive, send, scope.get("subprotocols") or ())
        finally:
            _log.info(
                "session",
                request_id=caller.request_id,
                owner=caller.owner,
                kind=session.driver.core.session.kind,
                code=session.closing.code,
                reason=session.closing.reason,
                audio_seconds=round(session.driver.audio_seconds, 1),
            )
    return session.closing
