"""POST chat/completions: questions about audio, answered in text or speech, whole or streamed.

Owns the order of the steps. The body is read in `request` and `messages`, documents are shaped in `completion`,
answers are spoken in `spoken`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp

from app.errors import InvalidRequest
from app.routes.chat import schema
from app.routes.chat.completion import Completion, PcmCutter
from app.routes.chat.history import SpokenHistory
from app.routes.chat.messages import SentAudio, SentMessage
from app.routes.chat.request import ChatBody, audio_deployment, read_chat
from app.routes.chat.spoken import Speaker
from app.routes.context import RequestContext, Stream
from app.routes.inline_audio import base64_text
from app.routes.operations import JSON, Operation
from app.serving.interfaces import Reservation
from app.writers import sse
from backends.interface import ASR_SAMPLE_RATE, AudioPart, Done, Event, Message, Progress, TextDelta, TextPart

Delta = dict[str, Any]
PROGRESS_HEADER = "x-gateway-progress"  # who sends it gets the steps as comments in the stream


async def complete(context: RequestContext) -> ASGIApp:
    """The whole way of one request, up to its answer."""
    body = context.json_body()
    deployment = context.choose(body.get("model"), "chat")
    chat_body = read_chat(body, deployment, context.gateway.spoken)
    context.ignored = chat_body.ignored
    del body
    reservation = await context.admit(deployment)
    speaker = await find_speaker(context, chat_body, reservation)
    events = await start(context, chat_body, reservation)
    completion = Completion(f"chatcmpl-{context.request_id.replace('-', '')}", reservation.deployment.name)
    return await (_streamed if chat_body.stream else _complete)(context, chat_body, events, completion, speaker)


async def start(context: RequestContext, chat_body: ChatBody, reservation: Reservation) -> AsyncIterator[Event]:
    """Decode the audio and hand the question to a worker."""
    with context.stage("decode"):
        messages = await _decoded(context, chat_body.messages)
    context.drop_body()
    return await context.run(reservation, chat_body.request(messages))


async def whole_answer(context: RequestContext, events: AsyncIterator[Event]) -> tuple[Done, str]:
    """The last event and the whole text."""
    done, deltas = Done(), list[str]()
    with context.stage("model"):
        async for event in events:
            if isinstance(event, TextDelta):
                deltas.append(event.text)
            elif isinstance(event, Done):
                done = event
    context.finish(done)
    return done, done.text or "".join(deltas)


async def find_speaker(context: RequestContext, chat_body: ChatBody, reservation: Reservation) -> Speaker | None:
    """Who speaks the answer; None where text is wanted. The voice is looked up first, which may load its model."""
    if chat_body.spoken is None:
        return None
    name = audio_deployment(reservation.deployment)  # of a fallback, perhaps, which the body was not checked against
    speaker = Speaker(context, context.gateway.deployments[name], chat_body.spoken, chat_body.seed)
    await speaker.check_voice()
    return speaker


async def _complete(
    context: RequestContext,
    chat_body: ChatBody,
    events: AsyncIterator[Event],
    completion: Completion,
    speaker: Speaker | None,
) -> Response:
    done, text = await whole_answer(context, events)
    if speaker is None:
        return context.json(completion.whole(done, text, None, None))
    data = b"".join([piece async for piece in speaker.speak(text, streaming=False)])
    memory = context.gateway.spoken
    name = memory.new_id()
    memory.keep(context.client, name, text)
    audio = {"id": name, "data": base64_text(data), "expires_at": memory.expiry(), "transcript": text}
    return context.json(completion.whole(done, text, audio, speaker.usage))


async def _streamed(
    context: RequestContext,
    chat_body: ChatBody,
    events: AsyncIterator[Event],
    completion: Completion,
    speaker: Speaker | None,
) -> Stream:
    answer = _Answer(context, await context.peeked(events, stage="model"))
    body = answer.text_chunks() if speaker is None else answer.audio_chunks(speaker)
    chunks = _events(body, answer, chat_body, completion, speaker)
    return context.event_stream(chunks)


async def _events(
    body: AsyncIterator[dict[str, Any] | Progress],
    answer: _Answer,
    chat_body: ChatBody,
    completion: Completion,
    speaker: Speaker | None,
) -> AsyncIterator[bytes]:
    yield sse.event(completion.chunk({"role": "assistant", "content": "", "refusal": None}))
    async for delta in body:
        yield (
            sse.progress(delta.done, delta.total) if isinstance(delta, Progress) else sse.event(completion.chunk(delta))
        )
    yield sse.event(completion.chunk({}, answer.done.finish_reason))
    if chat_body.include_usage:
        yield sse.event(completion.usage_chunk(answer.done.usage, speaker.usage if speaker else None))
    yield sse.DONE


class _Answer:
    """The events of a streamed answer as deltas. done: the last event, once it came."""

    def __init__(self, context: RequestContext, events: AsyncIterator[Event]) -> None:
        self._context, self._events = context, events
        self._shows_steps = bool(context.headers.get(PROGRESS_HEADER))
        self.done = Done()
        self.text = ""

    async def pieces(self) -> AsyncIterator[str | Progress]:
        """The pieces of the answer's text, none empty, and the steps towards them."""
        async for event in self._events:
            if isinstance(event, TextDelta) and event.text:
                self.text += event.text
                yield event.text
            elif isinstance(event, Progress) and self._shows_steps:
                yield event
            elif isinstance(event, Done):
                self.done = event
                self._context.finish(event)
        if self.done.text and not self.text:
            self.text = self.done.text
            yield self.text

    async def text_chunks(self) -> AsyncIterator[Delta | Progress]:
        async for piece in self.pieces():
            yield piece if isinstance(piece, Progress) else {"content": piece}

    async def audio_chunks(self, speaker: Speaker) -> AsyncIterator[Delta | Progress]:
        """Transcript first, as it is thought; then the audio, as it is spoken; then how long its id is good for."""
        memory: SpokenHistory = self._context.gateway.spoken
        name = memory.new_id()
        opening: dict[str, Any] = {"id": name}
        async for piece in self.pieces():
            if isinstance(piece, Progress):
                yield piece
                continue
            yield {"audio": {**opening, "transcript": piece}}
            opening = {}
        cutter = PcmCutter()
        async for pcm in speaker.speak(self.text, streaming=True):
            if piece_of_pcm := cutter.push(pcm):
                yield {"audio": {**opening, "data": base64_text(piece_of_pcm)}}
                opening = {}
        if rest := cutter.finish():
            yield {"audio": {"data": base64_text(rest)}}
        memory.keep(self._context.client, name, self.text)
        yield {"audio": {"expires_at": memory.expiry()}}


async def _decoded(context: RequestContext, messages: tuple[SentMessage, ...]) -> tuple[Message, ...]:
    """The backend's messages. All audio of a request together keeps to the limit of one upload."""
    left = context.gateway.settings.limits.audio_seconds
    answer: list[Message] = []
    for message in messages:
        parts: list[TextPart | AudioPart] = []
        for part in message.parts:
            if isinstance(part, str):
                parts.append(TextPart(part))
                continue
            sound, seconds = await _sound(context, part, left)
            left -= seconds
            parts.append(sound)
        answer.append(Message(message.role, tuple(parts)))
    return tuple(answer)


async def _sound(context: RequestContext, part: SentAudio, most_seconds: float) -> tuple[AudioPart, float]:
    decoded = await context.gateway.media.decode(
        part.data, rate=ASR_SAMPLE_RATE, param=part.param, max_seconds=most_seconds
    )
    context.keep(decoded)
    if not len(decoded.samples):
        raise InvalidRequest("The audio is too short.", param=part.param, code="audio_too_short")
    return AudioPart(decoded.samples), decoded.duration


OPERATIONS = (Operation("chat/completions", "POST", complete, task="chat", consumes=(JSON,), doc=schema.COMPLETE),)
