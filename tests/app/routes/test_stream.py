"""A streamed answer that is cut while its next piece is being made leaves nothing running in what the call then
closes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from app.routes.context import Stream
from app.writers import sse
from tests.support.waiting import LIMIT


async def _pieces(started: asyncio.Event) -> AsyncGenerator[bytes, None]:
    started.set()
    await asyncio.sleep(3600)
    yield b"late"


async def _never() -> dict[str, Any]:
    raise AssertionError("a stream reads nothing")


async def test_leaving_while_a_ping_is_sent_ends_the_work_behind_it() -> None:
    started, pinged = asyncio.Event(), asyncio.Event()

    async def send(message: Any) -> None:
        if message.get("body") == sse.PING:
            pinged.set()
            await asyncio.sleep(3600)  # the client does not read

    async def answer() -> None:
        async with contextlib.AsyncExitStack() as stack:
            pieces = _pieces(started)
            stack.push_async_callback(pieces.aclose)
            await Stream(sse.answer_body(pieces, "id", 0.01), {})({"type": "http"}, _never, send)

    task = asyncio.create_task(answer())
    async with asyncio.timeout(LIMIT):
        await started.wait()
        await pinged.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
