"""The audio chunks of a running speech job, with the times and the length that its answer needs to know.

Shared by the speech route and by chat answers that are spoken. Knows no format and no HTTP body.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from app.errors import InvalidRequest
from app.routes.context import RequestContext
from app.serving.interfaces import Reservation
from backends.interface import AudioChunk, Done, Event


class SpeechAudio:
    """The chunks of a job, to be iterated once. done: its last event, once all chunks are out.

    native_speed: the model speaks at the requested speed itself.
    """

    def __init__(
        self, context: RequestContext, reservation: Reservation, events: AsyncIterator[Event], *, stage: str = "model"
    ) -> None:
        """stage: the name under which the time spent waiting for the model is recorded."""
        self.native_speed = reservation.capabilities is not None and reservation.capabilities.native_speed
        self.done = Done()
        self._context, self._events, self._stage = context, events, stage
        self._finished = self._has_sound = False
        self._ahead: list[AudioChunk] = []
        self._pending: asyncio.Task[AudioChunk | None] | None = None
        context.stack.push_async_callback(self._close)

    async def __aiter__(self) -> AsyncIterator[AudioChunk]:
        while (chunk := self._ahead.pop(0) if self._ahead else await self._take()) is not None:
            yield chunk

    async def ends_within(self, seconds: float) -> bool:
        """Whether the job is over `seconds` after its first chunk; what came until then is kept for the iteration."""
        self._keep(await self._take())
        ends = time.monotonic() + seconds
        while not self._finished:
            await asyncio.wait({self._fetch()}, timeout=max(0.0, ends - time.monotonic()))
            if not self._fetch().done():
                return False
            self._keep(await self._take())
        return True

    def _keep(self, chunk: AudioChunk | None) -> None:
        if chunk is not None:
            self._ahead.append(chunk)

    def _fetch(self) -> asyncio.Task[AudioChunk | None]:
        """The task that waits for the next chunk; the same until it is taken."""
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._next())
        return self._pending

    async def _take(self) -> AudioChunk | None:
        chunk = await self._fetch()
        self._pending = None
        return chunk

    async def _next(self) -> AudioChunk | None:
        """The next chunk; None at the end of the job. Raises InvalidRequest if the job ends without any."""
        with self._context.stage(self._stage):
            async for event in self._events:
                if isinstance(event, AudioChunk) and len(event.samples):
                    self._has_sound = True
                    return event
                if isinstance(event, Done):
                    self.done = event
                    self._context.finish(event)
        self._finished = True
        if not self._has_sound:
            raise InvalidRequest("The input has nothing that this voice can speak.", param="input")
        return None

    async def _close(self) -> None:
        """At the end of the request, complete or not."""
        if self._pending is not None:
            self._pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._pending
