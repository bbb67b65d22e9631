"""Server-sent events: framing, keep-alive comments while nothing comes, and errors inside a stream that has begun.

Knows no event's meaning.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import structlog

from app.errors import ApiError, internal_error

log = structlog.get_logger("gateway")

MEDIA_TYPE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
PING_SECONDS = 15.0


def event(document: Any) -> bytes:
    """One `data:` event."""
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


def progress(done: int, total: int) -> bytes:
    """Steps done of steps planned (0: unknown), as a comment: our command line reads it, every other client skips
    it."""
    return f": progress {done}/{total}\n\n".encode("ascii")


async def answer_body(
    events: AsyncIterator[bytes], request_id: str, seconds: float | None = None
) -> AsyncGenerator[bytes, None]:
    """The events, with a comment whenever none came for `seconds`: proxies and clients cut silent connections.

    An exception among them becomes a last event that SDKs raise, because the status is long sent.
    """
    seconds = PING_SECONDS if seconds is None else seconds
    iterator = aiter(events)
    pending: asyncio.Task[bytes] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(_next(iterator))
            done, _ = await asyncio.wait({pending}, timeout=seconds)
            if not done:
                yield PING
                continue
            task, pending = pending, None
            try:
                chunk = task.result()
            except StopAsyncIteration:
                return
            except Exception as error:
                yield _error_event(error, request_id)
                return
            yield chunk
    finally:
        if pending is not None:
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await pending


async def _next(iterator: AsyncIterator[bytes]) -> bytes:
    return await anext(iterator)


def _error_event(error: Exception, request_id: str) -> bytes:
    if not isinstance(error, ApiError):
        log.error("internal_error", request_id=request_id, exc_info=error)
        error = internal_error()
    return b"data: " + error.encoded() + b"\n\n"
