"""POST audio/transcriptions and audio/translations: an upload in, text in one of seven formats or an event stream
out.

Owns the order of the steps. The form is read in `request`, bodies are written in `app/writers`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from app.config.deployments import Deployment
from app.errors import InvalidRequest
from app.routes.context import RequestContext
from app.routes.operations import FORM, JSON, Operation
from app.routes.transcriptions import schema
from app.routes.transcriptions.request import (
    TranscriptionForm,
    TranscriptionTask,
    check_capabilities,
    check_contract,
    read_form,
)
from app.routes.transcriptions.speakers import Deployed, deployed, known_clips, speaker_turns, turns_aside
from app.routes.transcriptions.upload import read_upload
from app.writers import sse
from app.writers.speakers import rttm, spoken_segments
from app.writers.transcripts import TEXT_TYPE, Collector, Speakers, collect, render, stream
from backends.interface import ASR_SAMPLE_RATE, Event, Samples, Segment

if TYPE_CHECKING:
    from app.media.pool import Decoded

SHORTEST_SECONDS = 0.1  # what the real service accepts
_UNCHUNKED_SECONDS = 30.0  # longest audio that is diarised without a chunking_strategy


async def transcribe(context: RequestContext, task: TranscriptionTask) -> ASGIApp:
    """The whole way of one request, up to its answer."""
    fields = read_upload(context)
    chosen = deployed(context, fields.text("model"), translate=task == "translate")
    form = read_form(fields, task)
    context.ignored = form.ignored
    check_contract(form, chosen)
    check_capabilities(form, chosen.transcriber, diarizer=chosen.diarizer)
    if form.format == "rttm" and chosen.diarizer is not None:
        return await _only_turns(context, form, chosen.diarizer)
    return await _transcribed(context, form, chosen)


async def _transcribed(context: RequestContext, form: TranscriptionForm, chosen: Deployed) -> ASGIApp:
    reservation = await context.admit(chosen.transcriber)
    answering, pool = reservation.deployment, context.gateway.pool
    check_capabilities(form, answering, pool.capabilities(answering), chosen.diarizer)
    own = form.diarized and answering.info.diarization
    decoded = await _decoded(context, form, named=chosen.named)
    speakers: Speakers | None = None
    if form.diarized and not own and chosen.diarizer is not None:
        speakers = await _speakers(context, form, chosen.diarizer, decoded.samples)
    words = speakers is not None and answering.info.words
    events = await context.run(reservation, form.request(decoded.samples, own_speakers=own, words=words))
    collector = Collector(decoded.duration, form.task)
    if form.stream:
        return await _streamed(context, form, events, collector, speakers)
    return await _complete(context, form, events, collector, speakers)


async def _decoded(context: RequestContext, form: TranscriptionForm, *, named: bool) -> Decoded:
    """The upload as samples. named: the request asks for the model that tells speakers apart."""
    with context.stage("decode"):
        decoded = await context.gateway.media.decode(form.file.data, rate=ASR_SAMPLE_RATE)
        context.keep(decoded)
    form.file.data.release()  # the upload is the largest thing a waiting request would hold
    context.drop_body()
    _check_duration(form, decoded.duration, named)
    return decoded


async def _speakers(
    context: RequestContext, form: TranscriptionForm, diarizer: Deployment, samples: Samples
) -> Speakers:
    """Begin to tell the speakers apart, beside the transcription."""
    clips = await known_clips(context, form.speakers.clips)
    turns = turns_aside(context, diarizer, form.speakers, samples, clips)

    async def named(segments: list[Segment]) -> list[Segment]:
        return spoken_segments(segments, await turns, form.speakers.names)

    return named


async def _only_turns(context: RequestContext, form: TranscriptionForm, diarizer: Deployment) -> ASGIApp:
    """Who speaks when, without the words."""
    context.deployment = diarizer
    decoded = await _decoded(context, form, named=False)
    clips = await known_clips(context, form.speakers.clips)
    turns = await speaker_turns(context, diarizer, form.speakers, decoded.samples, clips)
    return context.answer(rttm(turns, form.speakers.names).encode("utf-8"), TEXT_TYPE)


async def _complete(
    context: RequestContext,
    form: TranscriptionForm,
    events: AsyncIterator[Event],
    collector: Collector,
    speakers: Speakers | None,
) -> ASGIApp:
    with context.stage("model"):
        transcript = await collect(events, collector)
    context.finish(transcript.done)
    if speakers is not None:
        transcript.segments = await speakers(transcript.segments)
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
    context: RequestContext,
    form: TranscriptionForm,
    events: AsyncIterator[Event],
    collector: Collector,
    speakers: Speakers | None,
) -> ASGIApp:
    """An event stream, which begins after PING_SECONDS even if nothing was recognised until then."""
    events = await context.peeked(events, stage="model", seconds=sse.PING_SECONDS)
    return context.event_stream(stream(events, collector, form.format, form.logprobs, speakers))


def _check_duration(form: TranscriptionForm, seconds: float, named: bool) -> None:
    if seconds < SHORTEST_SECONDS:
        raise InvalidRequest(
            f"The audio is too short: {seconds:.3f} s, at least {SHORTEST_SECONDS} s are needed.",
            param="file",
            code="audio_too_short",
        )
    whole = form.chunking is None and not form.diarize and form.format != "rttm"  # as the contract has it
    if whole and (named or form.diarized) and seconds > _UNCHUNKED_SECONDS:
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
