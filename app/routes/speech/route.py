"""POST audio/speech: text in; audio out in six formats, sent as it is made, as a whole, or as events.

Owns the order of the steps and the shape of the answers. Fields are read in `request`, voices in `voices`, samples
become files in `app/writers/audio.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator

from starlette.responses import Response
from starlette.types import ASGIApp

from app.config.deployments import Deployment
from app.errors import ApiError, InvalidRequest
from app.routes.context import RequestContext, Stream, find_deployment
from app.routes.inline_audio import base64_text
from app.routes.operations import FORM, JSON, Operation
from app.routes.speech import schema
from app.routes.speech.audio import SpeechAudio
from app.routes.speech.request import SpeechBody, Turn, read_speech, speech_body
from app.routes.voices import backend_voice, fallback_voice
from app.serving.interfaces import Reservation
from app.writers import sse
from app.writers.audio import MEDIA_TYPES, encode
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


async def speak(request_context: RequestContext) -> ASGIApp:
    """The whole way of one request, up to its answer."""
    body = speech_body(request_context)
    deployment = request_context.choose(body.get("model"), "speech")
    speech_request = read_speech(body)
    request_context.ignored = speech_request.ignored
    reservation = await request_context.admit(deployment)
    request = await _request(request_context, speech_request, reservation)
    request_context.drop_body()
    running = await request_context.run(reservation, request)
    audio = SpeechAudio(request_context, running)
    answer = await (_events if speech_request.sse else _audio)(request_context, speech_request, audio)
    answer.headers["x-gateway-answer-id"] = request.answer_id
    return answer


async def _audio(request_context: RequestContext, speech_request: SpeechBody, audio: SpeechAudio) -> Response | Stream:
    whole = not speech_request.stream
    patient = speech_request.format == "flac" or (
        speech_request.format == "wav" and len(speech_request.text) <= _SHORT_TEXT
    )
    if speech_request.stream and patient:
        whole = await audio.ends_within(_GRACE_SECONDS[speech_request.format])
    encoded = _encoded(request_context, speech_request, audio, streaming=not whole)
    first = await anext(encoded)  # awaited before the headers go, so that a refusal keeps its status
    if not whole:
        return request_context.stream(_joined(first, encoded), MEDIA_TYPES[speech_request.format])
    answer = request_context.answer(
        first + b"".join([piece async for piece in encoded]), MEDIA_TYPES[speech_request.format]
    )
    if audio.done.seed is not None:
        answer.headers["x-gateway-seed"] = str(audio.done.seed)
    return answer


async def _events(request_context: RequestContext, speech_request: SpeechBody, audio: SpeechAudio) -> Stream:
    encoded = _encoded(request_context, speech_request, audio, streaming=True)
    first = await anext(encoded)
    events = _speech_events(_joined(first, encoded), audio)
    return request_context.stream(sse.kept_alive(sse.guarded(events, request_context.request_id)), sse.MEDIA_TYPE)


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


def _encoded(
    request_context: RequestContext, speech_request: SpeechBody, audio: SpeechAudio, *, streaming: bool
) -> AsyncIterator[bytes]:
    """The file in pieces, stretched where the backend cannot speak at another speed. Freed when the call is over."""
    speed = 1.0 if audio.native_speed else speech_request.speed
    pieces = encode(audio.chunks(), speech_request.format, streaming=streaming, speed=speed)
    request_context.stack.push_async_callback(pieces.aclose)
    return _timed(request_context, audio, pieces)


async def _timed(
    request_context: RequestContext, audio: SpeechAudio, encoded: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """The encoded pieces; what is not waiting for the model is encoding. Observes the first audio byte."""
    spent, is_first = 0.0, True
    begun, model = time.perf_counter(), audio.model_seconds
    try:
        async for piece in encoded:
            spent += time.perf_counter() - begun - (audio.model_seconds - model)
            request_context.timings["encode"] = max(0.0, spent)
            if is_first:
                request_context.gateway.metrics.first_audio_seconds.observe(
                    time.perf_counter() - request_context.arrived
                )
                is_first = False
            yield piece
            begun, model = time.perf_counter(), audio.model_seconds
    finally:
        request_context.gateway.metrics.stage_seconds.labels("encode").observe(max(0.0, spent))


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    async for piece in rest:
        yield piece


async def _request(
    request_context: RequestContext, speech_request: SpeechBody, reservation: Reservation
) -> SpeechRequest:
    deployment = reservation.deployment
    find_voice = backend_voice if reservation.fallback_from is None else fallback_voice
    rate = deployment.info.input_rate
    with request_context.stage("decode"):
        reference = await _reference(request_context, speech_request, deployment)
        context = tuple([await _context_turn(request_context, turn, rate) for turn in speech_request.context])
    return SpeechRequest(
        text=speech_request.text,
        voice=await find_voice(request_context.gateway, deployment, speech_request.voice),
        speed=speech_request.speed,
        instructions=speech_request.instructions,
        stream=speech_request.stream,
        seed=speech_request.seed,
        answer_id=request_context.request_id,
        context=context,
        reference=reference,
        options=speech_request.options,
    )


async def _context_turn(request_context: RequestContext, turn: Turn, rate: int) -> ContextTurn:
    samples = None if turn.audio is None else await _samples(request_context, turn.audio, rate, "context")
    return ContextTurn(turn.speaker, turn.text, samples, turn.answer_id)


async def _reference(
    request_context: RequestContext, speech_request: SpeechBody, deployment: Deployment
) -> VoiceSample | None:
    """The clip to clone. Its transcript, if none came, is written by the deployment's transcription_deployment."""
    if speech_request.reference_audio is None:
        if speech_request.reference_text:
            raise InvalidRequest("reference_text comes without reference_audio.", param="reference_text")
        return None
    samples = await _samples(
        request_context, speech_request.reference_audio, deployment.info.input_rate, "reference_audio"
    )
    transcript = speech_request.reference_text
    listener = deployment.options.get("transcription_deployment", "")
    if not transcript and listener:
        heard = await _samples(request_context, speech_request.reference_audio, ASR_SAMPLE_RATE, "reference_audio")
        transcript = await _transcript(request_context, str(listener), heard)
    return VoiceSample(samples, transcript)


async def _transcript(request_context: RequestContext, name: str, samples: Samples) -> str:
    gateway = request_context.gateway
    listener = find_deployment(gateway.deployments, name, request_context.scheme)
    async with gateway.pool.admit(
        listener, owner=request_context.client, request_id=request_context.request_id
    ) as reservation:
        async for event in await reservation.run(TranscriptionRequest(samples)):
            if isinstance(event, Done):
                return event.text.strip()
    raise ApiError("The transcription of the reference clip ended without a result.")


async def _samples(request_context: RequestContext, data: bytes, rate: int, param: str) -> Samples:
    decoded = await request_context.gateway.media.decode(data, rate=rate, param=param, max_seconds=_CONTEXT_SECONDS)
    request_context.stack.callback(decoded.close)
    if not len(decoded.samples):
        raise InvalidRequest("The audio is too short.", param=param, code="audio_too_short")
    return decoded.samples


OPERATIONS = (Operation("audio/speech", "POST", speak, task="speech", consumes=(JSON, FORM), doc=schema.SPEAK),)
