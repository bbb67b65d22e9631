"""POST audio/transcriptions and audio/translations: an upload in, text in one of six formats or an event stream out.

Owns the order of the steps. The form is read in `request`, bodies are written in `app/writers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from starlette.types import ASGIApp

from app.errors import InvalidRequest
from app.routes.context import Call
from app.routes.multipart import parse_form
from app.routes.operations import FORM, Operation
from app.routes.transcriptions import schema as transcription_doc
from app.routes.transcriptions.request import TranscriptionTask, Wish, check_capabilities, read_wish
from app.serving.interfaces import Run
from app.writers import sse
from app.writers.transcripts import TEXT_TYPE, Collector, collect, render, stream
from backends.interface import LISTENING_RATE, Event

SHORTEST_SECONDS = 0.1  # what the real service accepts
_UNCHUNKED_SECONDS = 30.0  # longest audio that is diarised without a chunking_strategy


async def transcribe(call: Call, task: TranscriptionTask) -> ASGIApp:
    """The whole way of one request, up to its answer."""
    form = parse_form(call.content_type, call.body, call.gateway.settings.limits.form_fields)
    deployment = call.choose(form.text("model"), "transcription")
    wish = read_wish(form, task)
    call.ignored = wish.ignored
    check_capabilities(wish, deployment)
    ticket = await call.admit(deployment)
    check_capabilities(wish, ticket.deployment)
    call.notes += wish.notes
    with call.stage("decode"):
        decoded = await call.gateway.media.decode(wish.file.data, rate=LISTENING_RATE)
        call.stack.callback(decoded.close)
    wish.file.data.release()  # the upload is the largest thing a waiting request would hold
    call.drop_body()
    _check_duration(wish, decoded.duration)
    running = await call.run(ticket, wish.request(decoded.samples))
    collector = Collector(decoded.duration, task)
    if wish.stream:
        return await _streamed(call, wish, running, collector)
    return await _complete(call, wish, running, collector)


async def _complete(call: Call, wish: Wish, running: Run, collector: Collector) -> ASGIApp:
    with call.stage("model"):
        transcript = await collect(running, collector)
    call.finish(transcript.done)
    with call.stage("encode"):
        body = render(transcript, wish.format, words=wish.words, segments=wish.segments, logprobs=wish.logprobs)
    return call.answer(body.encode("utf-8"), TEXT_TYPE) if isinstance(body, str) else call.json(body)


async def _streamed(call: Call, wish: Wish, running: Run, collector: Collector) -> ASGIApp:
    """The first event is awaited before the headers go, so that a refusal keeps its status, but not for ever."""
    events = aiter(running)
    first = asyncio.ensure_future(_first_of(events))
    call.stack.callback(first.cancel)
    await asyncio.wait({first}, timeout=sse.PING_SECONDS)
    if first.done():
        first.result()
    chunks = stream(_timed(call, _with_first(first, events)), collector, wish.format, wish.logprobs)
    return call.stream(sse.kept_alive(sse.guarded(chunks, call.request_id)), sse.MEDIA_TYPE)


async def _first_of(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


async def _with_first(first: asyncio.Task[Event | None], events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    event = await first
    if event is not None:
        yield event
        async for event in events:
            yield event


async def _timed(call: Call, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    with call.stage("model"):
        async for event in events:
            yield event


def _check_duration(wish: Wish, seconds: float) -> None:
    if seconds < SHORTEST_SECONDS:
        raise InvalidRequest(
            f"The audio is too short: {seconds:.3f} s, at least {SHORTEST_SECONDS} s are needed.",
            param="file",
            code="audio_too_short",
        )
    if wish.diarized and wish.chunking is None and seconds > _UNCHUNKED_SECONDS:
        raise InvalidRequest(
            f"Audio longer than {_UNCHUNKED_SECONDS:.0f} s needs a chunking_strategy to be diarised.", param="chunking_strategy"
        )


OPERATIONS = (
    Operation(
        "audio/transcriptions",
        "POST",
        partial(transcribe, task="transcribe"),
        task="transcription",
        consumes=(FORM,),
        doc=transcription_doc.TRANSCRIBE,
    ),
    Operation(
        "audio/translations",
        "POST",
        partial(transcribe, task="translate"),
        task="transcription",
        consumes=(FORM,),
        doc=transcription_doc.TRANSLATE,
    ),
)
