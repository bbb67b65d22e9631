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
from app.routes.context import Call, Stream, find_deployment
from app.routes.inline_audio import base64_text
from app.routes.operations import FORM, JSON, Operation
from app.routes.speech import schema as speech_doc
from app.routes.speech.audio import SpeechAudio
from app.routes.speech.request import SpeechWish, Turn, read_speech, speech_body
from app.routes.voices import backend_voice, fallback_voice
from app.serving.interfaces import Ticket
from app.writers import sse
from app.writers.audio import MEDIA_TYPES, encode
from backends.interface import LISTENING_RATE, ContextTurn, Done, Samples, SpeechRequest, TranscriptionRequest, VoiceSample

# A wav or flac says its length at the start; the whole answer is waited for this long, seconds, so that it can be said. A wav
# of unknown length plays everywhere, so only the wait for a short text is worth it; libsndfile refuses such a flac.
_GRACE_SECONDS = {"wav": 0.05, "flac": 3.0}
_SHORT_TEXT = 600  # characters, spoken at once by a fast engine
_CONTEXT_SECONDS = 120.0  # of one earlier utterance or reference clip


async def speak(call: Call) -> ASGIApp:
    """The whole way of one request, up to its answer."""
    body = speech_body(call)
    deployment = call.choose(body.get("model"), "speech")
    wish = read_speech(body)
    call.ignored = wish.ignored
    ticket = await call.admit(deployment)
    request = await _request(call, wish, ticket)
    call.drop_body()
    running = await call.run(ticket, request)
    audio = SpeechAudio(call, running)
    answer = await (_events if wish.sse else _audio)(call, wish, audio)
    answer.headers["x-gateway-answer-id"] = request.answer_id
    return answer


async def _audio(call: Call, wish: SpeechWish, audio: SpeechAudio) -> Response | Stream:
    whole = not wish.stream
    patient = wish.format == "flac" or (wish.format == "wav" and len(wish.text) <= _SHORT_TEXT)
    if wish.stream and patient:
        whole = await audio.ends_within(_GRACE_SECONDS[wish.format])
    encoded = _encoded(call, wish, audio, streaming=not whole)
    first = await anext(encoded)  # awaited before the headers go, so that a refusal keeps its status
    if not whole:
        return call.stream(_joined(first, encoded), MEDIA_TYPES[wish.format])
    answer = call.answer(first + b"".join([piece async for piece in encoded]), MEDIA_TYPES[wish.format])
    if audio.done.seed is not None:
        answer.headers["x-gateway-seed"] = str(audio.done.seed)
    return answer


async def _events(call: Call, wish: SpeechWish, audio: SpeechAudio) -> Stream:
    encoded = _encoded(call, wish, audio, streaming=True)
    first = await anext(encoded)
    events = _speech_events(_joined(first, encoded), audio)
    return call.stream(sse.kept_alive(sse.guarded(events, call.request_id)), sse.MEDIA_TYPE)


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


def _encoded(call: Call, wish: SpeechWish, audio: SpeechAudio, *, streaming: bool) -> AsyncIterator[bytes]:
    """The file in pieces, stretched where the backend cannot speak at another speed. Freed when the call is over."""
    speed = 1.0 if audio.native_speed else wish.speed
    pieces = encode(audio.chunks(), wish.format, streaming=streaming, speed=speed)
    call.stack.push_async_callback(pieces.aclose)
    return _timed(call, audio, pieces)


async def _timed(call: Call, audio: SpeechAudio, encoded: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The encoded pieces; what is not waiting for the model is encoding. Observes the first audio byte."""
    spent, is_first = 0.0, True
    begun, model = time.perf_counter(), audio.model_seconds
    try:
        async for piece in encoded:
            spent += time.perf_counter() - begun - (audio.model_seconds - model)
            call.timings["encode"] = max(0.0, spent)
            if is_first:
                call.gateway.metrics.first_audio_seconds.observe(time.perf_counter() - call.arrived)
                is_first = False
            yield piece
            begun, model = time.perf_counter(), audio.model_seconds
    finally:
        call.gateway.metrics.stage_seconds.labels("encode").observe(max(0.0, spent))


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    async for piece in rest:
        yield piece


async def _request(call: Call, wish: SpeechWish, ticket: Ticket) -> SpeechRequest:
    deployment = ticket.deployment
    find_voice = backend_voice if ticket.fallback_from is None else fallback_voice
    rate = deployment.info.input_rate
    with call.stage("decode"):
        reference = await _reference(call, wish, deployment)
        context = tuple([await _context_turn(call, turn, rate) for turn in wish.context])
    return SpeechRequest(
        text=wish.text,
        voice=await find_voice(call.gateway, deployment, wish.voice),
        speed=wish.speed,
        instructions=wish.instructions,
        stream=wish.stream,
        seed=wish.seed,
        answer_id=call.request_id,
        context=context,
        reference=reference,
        options=wish.options,
    )


async def _context_turn(call: Call, turn: Turn, rate: int) -> ContextTurn:
    samples = None if turn.audio is None else await _samples(call, turn.audio, rate, "context")
    return ContextTurn(turn.speaker, turn.text, samples, turn.answer_id)


async def _reference(call: Call, wish: SpeechWish, deployment: Deployment) -> VoiceSample | None:
    """The clip to clone. Its transcript, if none came, is written by the deployment's transcription_deployment."""
    if wish.reference_audio is None:
        if wish.reference_text:
            raise InvalidRequest("reference_text comes without reference_audio.", param="reference_text")
        return None
    samples = await _samples(call, wish.reference_audio, deployment.info.input_rate, "reference_audio")
    transcript = wish.reference_text
    listener = deployment.options.get("transcription_deployment", "")
    if not transcript and listener:
        heard = await _samples(call, wish.reference_audio, LISTENING_RATE, "reference_audio")
        transcript = await _transcript(call, str(listener), heard)
    return VoiceSample(samples, transcript)


async def _transcript(call: Call, name: str, samples: Samples) -> str:
    gateway = call.gateway
    listener = find_deployment(gateway.deployments, name, call.scheme)
    async with gateway.pool.admit(listener, owner=call.client, request_id=call.request_id) as ticket:
        async for event in await ticket.run(TranscriptionRequest(samples)):
            if isinstance(event, Done):
                return event.text.strip()
    raise ApiError("The transcription of the reference clip ended without a result.")


async def _samples(call: Call, data: bytes, rate: int, param: str) -> Samples:
    decoded = await call.gateway.media.decode(data, rate=rate, param=param, max_seconds=_CONTEXT_SECONDS)
    call.stack.callback(decoded.close)
    if not len(decoded.samples):
        raise InvalidRequest("The audio is too short.", param=param, code="audio_too_short")
    return decoded.samples


OPERATIONS = (Operation("audio/speech", "POST", speak, task="speech", consumes=(JSON, FORM), doc=speech_doc.SPEAK),)
