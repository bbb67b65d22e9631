"""POST audio/speech: text in; audio out in six formats, sent as it is made, as a whole, or as events.

Owns the order of the steps and the shape of the answers. Fields are read in `request`, voices in `voices`, samples
become files in `app/writers/audio.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial

from starlette.responses import Response
from starlette.types import ASGIApp

from app.config.deployments import Deployment
from app.errors import ApiError, InvalidRequest
from app.routes.context import RequestContext, Stream
from app.routes.inline_audio import base64_text
from app.routes.operations import FORM, JSON, Operation
from app.routes.speech import schema
from app.routes.speech.audio import SpeechAudio
from app.routes.speech.request import SpeechBody, Turn, read_fields, read_speech
from app.routes.voices import backend_voice, fallback_voice
from app.serving.interfaces import Reservation
from app.writers import sse
from app.writers.audio import encode
from app.writers.formats import MEDIA_TYPES
from backends.interface import (
    ASR_SAMPLE_RATE,
    ContextTurn,
    Done,
    Samples,
    SpeechRequest,
    TranscriptionRequest,
    VoiceSample,
)

# A wav or flac says its length at the start; the whole answer is waited for this long, seconds, so that it can be said.
# A wav of unknown length plays everywhere, so only the wait for a short text is worth it; libsndfile refuses such a
# flac.
_GRACE_SECONDS = {"wav": 0.05, "flac": 3.0}
_SHORT_TEXT = 600  # characters, spoken at once by a fast engine
_CONTEXT_SECONDS = 120.0  # of one earlier utterance or reference clip


async def speak(context: RequestContext) -> ASGIApp:
    """The whole way of one request, up to its answer."""
    fields = read_fields(context)
    deployment = context.choose(fields.get("model"), "speech")
    body = read_speech(fields)
    context.ignored = body.ignored
    reservation = await context.admit(deployment)
    request = await _request(context, body, reservation)
    context.drop_body()
    audio = SpeechAudio(context, reservation, await context.run(reservation, request))
    answer = await (_events if body.sse else _audio)(context, body, audio)
    answer.headers["x-gateway-answer-id"] = request.answer_id
    return answer


async def _audio(context: RequestContext, body: SpeechBody, audio: SpeechAudio) -> Response | Stream:
    whole = not body.stream
    if body.stream and _waits_for_length(body):
        whole = await audio.ends_within(_GRACE_SECONDS[body.format])
    pieces = await _encoded(context, body, audio, streaming=not whole)
    if not whole:
        return context.stream(pieces, MEDIA_TYPES[body.format])
    answer = context.answer(b"".join([piece async for piece in pieces]), MEDIA_TYPES[body.format])
    if audio.done.seed is not None:
        answer.headers["x-gateway-seed"] = str(audio.done.seed)
    return answer


def _waits_for_length(body: SpeechBody) -> bool:
    return body.format == "flac" or (body.format == "wav" and len(body.text) <= _SHORT_TEXT)


async def _events(context: RequestContext, body: SpeechBody, audio: SpeechAudio) -> Stream:
    pieces = await _encoded(context, body, audio, streaming=True)
    return context.event_stream(_speech_events(pieces, audio))


async def _speech_events(pieces: AsyncIterator[bytes], audio: SpeechAudio) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield sse.event({"type": "speech.audio.delta", "audio": base64_text(piece)})
    yield sse.event({"type": "speech.audio.done", "usage": usage_document(audio.done)})
    yield sse.DONE


def usage_document(done: Done) -> dict[str, int]:
    """Token counts of a speech job."""
    usage = done.usage
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


async def _encoded(
    context: RequestContext, body: SpeechBody, audio: SpeechAudio, *, streaming: bool
) -> AsyncGenerator[bytes, None]:
    """The file in pieces, once the first is there; its tempo is changed where the model cannot speak at that speed."""
    speed = 1.0 if audio.native_speed else body.speed
    pieces = encode(audio, body.format, streaming=streaming, speed=speed, record=partial(context.record, "encode"))
    context.stack.push_async_callback(pieces.aclose)
    first_here = await context.peeked(pieces)
    context.gateway.metrics.first_audio_seconds.observe(time.perf_counter() - context.arrived)
    return first_here


async def _request(context: RequestContext, body: SpeechBody, reservation: Reservation) -> SpeechRequest:
    deployment = reservation.deployment
    find_voice = backend_voice if reservation.fallback_from is None else fallback_voice
    rate = deployment.info.input_rate
    with context.stage("decode"):
        reference = await _reference(context, body, deployment)
        turns = tuple([await _context_turn(context, turn, rate) for turn in body.context])
    return SpeechRequest(
        text=body.text,
        voice=await find_voice(context.gateway, deployment, body.voice),
        speed=body.speed,
        instructions=body.instructions,
        stream=body.stream,
        seed=body.seed,
        answer_id=context.request_id,
        context=turns,
        reference=reference,
        options=body.options,
    )


async def _context_turn(context: RequestContext, turn: Turn, rate: int) -> ContextTurn:
    samples = None if turn.audio is None else await _samples(context, turn.audio, rate, "context")
    return ContextTurn(turn.speaker, turn.text, samples, turn.answer_id)


async def _reference(context: RequestContext, body: SpeechBody, deployment: Deployment) -> VoiceSample | None:
    """The clip to clone. Its transcript, if none came, is written by the deployment's transcription_deployment."""
    clip = body.reference_audio
    if clip is None:
        if body.reference_text:
            raise InvalidRequest("reference_text comes without reference_audio.", param="reference_text")
        return None
    rate = deployment.info.input_rate
    samples = await _samples(context, clip, rate, "reference_audio")
    transcript, recognizer = body.reference_text, str(deployment.options.get("transcription_deployment", ""))
    if not transcript and recognizer:
        same = rate == ASR_SAMPLE_RATE
        speech = samples if same else await _samples(context, clip, ASR_SAMPLE_RATE, "reference_audio")
        transcript = await clip_transcript(context, context.find(recognizer), speech)
    return VoiceSample(samples, transcript)


async def clip_transcript(context: RequestContext, recognizer: Deployment, samples: Samples) -> str:
    """What a clip says, by another deployment. samples: float32 [time] at 16 kHz."""
    pool = context.gateway.pool
    async with pool.admit(recognizer, owner=context.client, request_id=context.request_id) as reservation:
        async for event in await reservation.run(TranscriptionRequest(samples)):
            if isinstance(event, Done):
                return event.text.strip()
    raise ApiError("The transcription of the reference clip ended without a result.")


async def _samples(context: RequestContext, data: bytes, rate: int, param: str) -> Samples:
    decoded = await context.gateway.media.decode(data, rate=rate, param=param, max_seconds=_CONTEXT_SECONDS)
    context.keep(decoded)
    if not len(decoded.samples):
        raise InvalidRequest("The audio is too short.", param=param, code="audio_too_short")
    return decoded.samples


OPERATIONS = (Operation("audio/speech", "POST", speak, task="speech", consumes=(JSON, FORM), doc=schema.SPEAK),)
