"""Samples to the six formats of the speech route (and the chat route's pcm16), streamed as they are made.

Owns the hand-over to an encoder thread. Everything is 24 kHz 16-bit
mono, as the real service sends it. Knows no encoder library: those are in `encoders`, imported on first use.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from backends.interface import AudioChunk

if TYPE_CHECKING:
    from app.writers.encoders import Encoder

PIECE_SECONDS = 1.0  # encoded at a time, so that a cancelled request stops soon and a long chunk is streamed too

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


async def encode(
    chunks: AsyncIterable[AudioChunk],
    format: str,  # noqa: A002
    *,
    streaming: bool,
    speed: float = 1.0,
    record: Callable[[float], None] = lambda seconds: None,
) -> AsyncGenerator[bytes, None]:
    """The encoded file in pieces, none empty.

    format: a key of MEDIA_TYPES; streaming: send from the first chunk on, with headers that leave the length open
    (otherwise the end comes first to the encoder, so that the header is complete); speed: 0.25..4, stretched with the
    pitch kept; record: called with the seconds that each step of encoding took.
    """

    async def timed(work: Callable[_Arguments, _Result], *args: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        begun = time.perf_counter()
        try:
            return await _in_thread(work, *args, **named)
        finally:
            record(time.perf_counter() - begun)

    encoder = await timed(_make_encoder, format, streaming, speed)
    try:
        async for chunk in chunks:
            step = max(1, int(PIECE_SECONDS * chunk.rate))
            for start in range(0, len(chunk.samples), step):
                if data := await timed(encoder.push, chunk.samples[start : start + step], chunk.rate):
                    yield data
        if data := await timed(encoder.finish):
            yield data
    finally:
        encoder.close()


def _make_encoder(format: str, streaming: bool, speed: float) -> Encoder:  # noqa: A002
    from app.writers.encoders import Encoder

    return Encoder(format, streaming=streaming, speed=speed)


async def _in_thread(
    work: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    """Run `work` in a thread. A cancelled call still waits for the thread: nothing may touch the encoder beside it."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
