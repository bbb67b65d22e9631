"""POST audio/transcriptions and audio/translations: an upload in, text in one of six formats or an event stream out.

Owns the order of the steps. The form is read in `request`, bodies are written in `app/writers`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from starlette.types import ASGIApp

from app.errors import InvalidRequest
from app.routes.context import RequestContext
from app.routes.operations import FORM, JSON, Operation
from app.routes.transcriptions import schema
from app.routes.transcriptions.request import TranscriptionForm, TranscriptionTask, check_capabilities, read_form
from app.routes.transcriptions.upload import read_upload
from app.writers import sse
from app.writers.transcripts import TEXT_TYPE, Collector, collect, render, stream
from backends.interface import ASR_SAMPLE_RATE, Event

SHORTEST_SECONDS = 0.1  # what the real service accepts
_UNCHUNKED_SECONDS = 30.0  # longest audio that is diarised without a chunking_strategy


async def transcribe(context: RequestContext, task: TranscriptionTask) -> ASGIApp:
    """The whole way of one request, up to its answer."""
    fields = read_upload(context)
    deployment = context.choose(fields.text("model"), "transcription")
    form = read_form(fields, task)
    context.ignored = form.ignored
    check_capabilities(form, deployment)
    reservation = await context.admit(deployment)
    check_capabilities(form, reservation.deployment, context.gateway.pool.capabilities(reservation.deployment))
    context.notes += form.notes
    with context.stage("decode"):
        decoded = await context.gateway.media.decode(form.file.data, rate=ASR_SAMPLE_RATE)
        context.keep(decoded)
    form.file.data.release()  # the upload is the largest thing a waiting request would hold
    context.drop_body()
    _check_duration(form, decoded.duration)
    events = await context.run(reservation, form.request(decoded.samples))
    collector = Collector(decoded.duration, task)
    if form.stream:
        return await _streamed(context, form, events, collector)
    return await _complete(context, form, events, collector)


async def _complete(
    context: RequestContext, form: TranscriptionForm, events: AsyncIterator[Event], collector: Collector
) -> ASGIApp:
    with context.stage("model"):
        transcript = await collect(events, collector)
    context.finish(transcript.done)
    with context.stage("encode"):
        body = render(
            transcript,
            form.format,
            words=form.words,
            segments=form.segments,
            logprobs=form.logprobs,
        )
    return context.answer(body.encode("utf-8"), TEXT_TYPE) if isinstance(body, str) else context.json(body)


async def _streamed(
    context: RequestContext, form: TranscriptionForm, events: AsyncIterator[Event], collector: Collector
) -> ASGIApp:
    """An event stream, which begins after PING_SECONDS even if nothing was recognised until then."""
    events = await context.peeked(events, stage="model", seconds=sse.PING_SECONDS)
    return context.event_stream(stream(events, collector, form.format, form.logprobs))


def _check_duration(form: TranscriptionForm, seconds: float) -> None:
    if seconds < SHORTEST_SECONDS:
        raise InvalidRequest(
            f"The audio is too short: {seconds:.3f} s, at least {SHORTEST_SECONDS} s are needed.",
            param="file",
            code="audio_too_short",
        )
    if form.diarized and form.chunking is None and seconds > _UNCHUNKED_SECONDS:
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
        consumes=(FORM, JSON),
        doc=schema.TRANSCRIBE,
    ),
    Operation(
        "audio/translations",
        "POST",
        partial(transcribe, task="translate"),
        task="transcription",
        consumes=(FORM, JSON),
        doc=schema.TRANSLATE,
    ),
)
