"""POST audio/transcriptions and audio/translations: an upload in, text in one of six formats or an event stream out.

Owns the order of the steps. The form is read in `request`, bodies are written in `app/writers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from starlette.types import ASGIApp

from app.errors import InvalidRequest
from app.routes.context import RequestContext
from app.routes.multipart import parse_form
from app.routes.operations import FORM, Operation
from app.routes.transcriptions import schema
from app.routes.transcriptions.request import TranscriptionForm, TranscriptionTask, check_capabilities, read_form
from app.serving.interfaces import Run
from app.writers import sse
from app.writers.transcripts import TEXT_TYPE, Collector, collect, render, stream
from backends.interface import ASR_SAMPLE_RATE, Event

SHORTEST_SECONDS = 0.1  # what the real service accepts
_UNCHUNKED_SECONDS = 30.0  # longest audio that is diarised without a chunking_strategy


async def transcribe(context: RequestContext, task: TranscriptionTask) -> ASGIApp:
    """The whole way of one request, up to its answer."""
    form = parse_form(context.content_type, context.body, context.gateway.settings.limits.form_fields)
    deployment = context.choose(form.text("model"), "transcription")
    transcription_form = read_form(form, task)
    context.ignored = transcription_form.ignored
    check_capabilities(transcription_form, deployment)
    reservation = await context.admit(deployment)
    check_capabilities(transcription_form, reservation.deployment)
    context.notes += transcription_form.notes
    with context.stage("decode"):
        decoded = await context.gateway.media.decode(transcription_form.file.data, rate=ASR_SAMPLE_RATE)
        context.stack.callback(decoded.close)
    transcription_form.file.data.release()  # the upload is the largest thing a waiting request would hold
    context.drop_body()
    _check_duration(transcription_form, decoded.duration)
    running = await context.run(reservation, transcription_form.request(decoded.samples))
    collector = Collector(decoded.duration, task)
    if transcription_form.stream:
        return await _streamed(context, transcription_form, running, collector)
    return await _complete(context, transcription_form, running, collector)


async def _complete(
    context: RequestContext, transcription_form: TranscriptionForm, running: Run, collector: Collector
) -> ASGIApp:
    with context.stage("model"):
        transcript = await collect(running, collector)
    context.finish(transcript.done)
    with context.stage("encode"):
        body = render(
            transcript,
            transcription_form.format,
            words=transcription_form.words,
            segments=transcription_form.segments,
            logprobs=transcription_form.logprobs,
        )
    return context.answer(body.encode("utf-8"), TEXT_TYPE) if isinstance(body, str) else context.json(body)


async def _streamed(
    context: RequestContext, transcription_form: TranscriptionForm, running: Run, collector: Collector
) -> ASGIApp:
    """The first event is awaited before the headers go, so that a refusal keeps its status, but not for ever."""
    events = aiter(running)
    first = asyncio.ensure_future(_first_of(events))
    context.stack.callback(first.cancel)
    await asyncio.wait({first}, timeout=sse.PING_SECONDS)
    if first.done():
        first.result()
    chunks = stream(
        _timed(context, _with_first(first, events)), collector, transcription_form.format, transcription_form.logprobs
    )
    return context.stream(sse.kept_alive(sse.guarded(chunks, context.request_id)), sse.MEDIA_TYPE)


async def _first_of(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


async def _with_first(first: asyncio.Task[Event | None], events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    event = await first
    if event is not None:
        yield event
        async for event in events:
            yield event


async def _timed(context: RequestContext, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    with context.stage("model"):
        async for event in events:
            yield event


def _check_duration(transcription_form: TranscriptionForm, seconds: float) -> None:
    if seconds < SHORTEST_SECONDS:
        raise InvalidRequest(
            f"The audio is too short: {seconds:.3f} s, at least {SHORTEST_SECONDS} s are needed.",
            param="file",
            code="audio_too_short",
        )
    if transcription_form.diarized and transcription_form.chunking is None and seconds > _UNCHUNKED_SECONDS:
        raise InvalidRequest(
            f"Audio longer than {_UNCHUNKED_SECONDS:.0f} s needs a chunking_strategy to be diarised.",
            param="chunking_strategy",
        )


OPERATIONS = (
    Operation(
        "audio/transcriptions",
        "POST",
        partial(transcribe, task="transcribe"),
        task="transcription",
        consumes=(FORM,),
        doc=schema.TRANSCRIBE,
    ),
    Operation(
        "audio/translations",
        "POST",
        partial(transcribe, task="translate"),
        task="transcription",
        consumes=(FORM,),
        doc=schema.TRANSLATE,
    ),
)
