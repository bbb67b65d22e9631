"""A running speech job as a stream of audio chunks, with what its answer needs to know about time and length.

Shared by the speech route and by chat answers that are spoken. Knows no format and no HTTP body.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator

from app.errors import InvalidRequest
from app.routes.context import RequestContext
from app.serving.interfaces import Run
from backends.interface import AudioChunk, Done


class SpeechAudio:
    """The chunks of a job. done: its last event, once all chunks are out; native_speed: it speaks at the wished
    speed."""

    def __init__(self, request_context: RequestContext, running: Run, stage: str = "model") -> None:
        """stage: the name under which the time is told."""
        self._call, self._running, self._stage = request_context, running, stage
        self.native_speed = running.capabilities.native_speed
        self.done = Done()
        self.model_seconds = 0.0  # time spent waiting for the model so far
        self.finished = False
        self._ahead: list[AudioChunk] = []
        self._chunks = self._receive()
        self._pending: asyncio.Task[AudioChunk | None] | None = None
        request_context.stack.push_async_callback(self._close)

    async def chunks(self) -> AsyncIterator[AudioChunk]:
        """All chunks of the job, once."""
        while (chunk := self._ahead.pop(0) if self._ahead else await self._next()) is not None:
            yield chunk

    async def ends_within(self, seconds: float) -> bool:
        """Whether the job is over `seconds` after its first chunk; what came until then is kept for the iteration."""
        first = await self._next()
        if first is not None:
            self._ahead.append(first)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.finished:
                    self._pending = self._pending or asyncio.ensure_future(self._next_chunk())
                    chunk = await asyncio.shield(self._pending)
                    self._pending = None
                    if chunk is not None:
                        self._ahead.append(chunk)
        return self.finished

    async def _next(self) -> AudioChunk | None:
        if self._pending is not None:
            task, self._pending = self._pending, None
            return await task
        return None if self.finished else await self._next_chunk()

    async def _next_chunk(self) -> AudioChunk | None:
        return await anext(self._chunks, None)

    async def _close(self) -> None:
        """At the end of the call, complete or not."""
        if self._pending is not None:
            self._pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._pending
        await self._chunks.aclose()
        self._call.gateway.metrics.stage_seconds.labels(self._stage).observe(self.model_seconds)

    async def _receive(self) -> AsyncGenerator[AudioChunk, None]:
        """The chunks as they come. Raises InvalidRequest if the job ends without any."""
        heard = False
        begun = time.perf_counter()
        async for event in self._running:
            self._count(begun)
            if isinstance(event, AudioChunk) and len(event.samples):
                heard = True
                yield event
            elif isinstance(event, Done):
                self.done = event
                self._call.finish(event)
            begun = time.perf_counter()
        self._count(begun)
        self.finished = True
        if not heard:
            raise InvalidRequest("The input has nothing that this voice can speak.", param="input")

    def _count(self, begun: float) -> None:
        self.model_seconds += time.perf_counter() - begun
        self._call.timings[self._stage] = self.model_seconds
