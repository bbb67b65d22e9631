"""An answer's sentences as audio in a session's format, made by a speech deployment.

Owns one answer's stream of audio, and which earlier turns the voice is reminded of. Knows no event.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import numpy as np

from app.config.deployments import Deployment
from app.errors import InvalidRequest
from app.realtime.formats import AudioFormat
from app.realtime.outputs import HistoryPart, Plan
from app.realtime.resampling import Stream, resampled
from app.routes.context import Gateway
from app.routes.voices import backend_voice, fallback_voice
from app.serving.interfaces import Reservation
from app.writers.audio import encode
from app.writers.formats import OUTPUT_RATE
from backends.interface import AudioChunk, ContextTurn, Done, Samples, SpeechRequest, Usage

# Of earlier turns: at 12.5 rows a second CSM's context holds some 160 s, and the voice's own clip needs room.
_CONTEXT_SECONDS, _CONTEXT_TURNS = 40.0, 4
_ANSWERS_KEPT = 64


class SpokenAnswers:
    """The sentences of a session's earlier answers, by the item they belong to, each with the id under which its
    backend keeps it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, list[tuple[str, str]]] = OrderedDict()

    def add(self, item_id: str, text: str, answer_id: str) -> None:
        self._kept.setdefault(item_id, []).append((text, answer_id))
        while len(self._kept) > _ANSWERS_KEPT:
            self._kept.popitem(last=False)

    def find(self, item_id: str) -> list[tuple[str, str]]:
        return self._kept.get(item_id, [])


class Voice:
    """The voice of one answer. usage: of the speech so far."""

    def __init__(
        self,
        gateway: Gateway,
        deployment: Deployment,
        plan: Plan,
        answers: SpokenAnswers,
        *,
        owner: str,
        request_id: str,
    ) -> None:
        self._gateway, self._deployment, self._plan, self._answers = gateway, deployment, plan, answers
        self._owner, self._request_id = owner, request_id
        self._output = _Converted(plan.format)
        self._count = 0
        self._context: list[ContextTurn] | None = None
        self.usage = Usage()

    async def speak(self, sentence: str) -> AsyncGenerator[bytes, None]:
        """The audio of one sentence in the format of the plan, nothing for one without sound. Raises ApiError."""
        try:
            async with aclosing(self._spoken(sentence, with_context=True)) as pieces:
                async for piece in pieces:
                    yield piece
        except InvalidRequest as error:
            if error.param == "context":  # too long, or forgotten since
                async with aclosing(self._spoken(sentence, with_context=False)) as pieces:
                    async for piece in pieces:
                        yield piece
            elif error.param != "input":
                raise

    def finish(self) -> bytes:
        """What the conversion still holds."""
        return self._output.finish()

    async def _spoken(self, sentence: str, *, with_context: bool) -> AsyncGenerator[bytes, None]:
        pool = self._gateway.pool
        async with pool.admit(self._deployment, owner=self._owner, request_id=self._request_id) as reservation:
            request = await self._request(reservation, sentence, with_context=with_context)
            chunks = self._chunks(await reservation.run(request))
            native = reservation.capabilities is not None and reservation.capabilities.native_speed
            speed = 1.0 if native else self._plan.speed
            async with aclosing(encode(chunks, "pcm", streaming=True, speed=speed)) as pieces:
                async for piece in pieces:
                    if data := self._output.push(piece):
                        yield data
        self._answers.add(self._plan.item_id, sentence, request.answer_id)
        if self._context is not None:
            self._context.append(ContextTurn(request.voice, sentence, answer_id=request.answer_id))

    async def _request(self, reservation: Reservation, sentence: str, *, with_context: bool) -> SpeechRequest:
        deployment = reservation.deployment
        find_voice = backend_voice if reservation.fallback_from is None else fallback_voice
        voice = await find_voice(self._gateway, deployment, self._plan.voice)
        turns: tuple[ContextTurn, ...] = ()
        if with_context and deployment.info.speech_context:
            if self._context is None:
                self._context = await self._earlier(voice, deployment.info.input_rate)
            turns = tuple(self._context[-_CONTEXT_TURNS:])
        self._count += 1
        return SpeechRequest(
            sentence,
            voice,
            speed=self._plan.speed,
            stream=True,
            answer_id=f"{self._plan.item_id}-{self._count}",
            context=turns,
        )

    async def _chunks(self, events: AsyncIterator[object]) -> AsyncIterator[AudioChunk]:
        async for event in events:
            if isinstance(event, AudioChunk) and len(event.samples):
                yield event
            elif isinstance(event, Done):
                self.usage = Usage(
                    self.usage.input_tokens + event.usage.input_tokens,
                    self.usage.output_tokens + event.usage.output_tokens,
                )

    async def _earlier(self, voice: str, rate: int) -> list[ContextTurn]:
        """The last turns of the conversation, its own answers included, the newest last."""
        user = "0" if voice == "1" else "1"
        turns: list[ContextTurn] = []
        seconds = 0.0
        for part in reversed(self._plan.history):
            if seconds > _CONTEXT_SECONDS or len(turns) >= _CONTEXT_TURNS:
                break
            if part.role == "user" and part.audio and part.text:
                seconds += part.format.seconds(len(part.audio))
                turns.append(ContextTurn(user, part.text, await self._samples(part, rate)))
            elif part.role == "assistant":
                turns += [ContextTurn(voice, text, answer_id=name) for text, name in reversed(self._own(part))]
        return turns[::-1]

    def _own(self, part: HistoryPart) -> list[tuple[str, str]]:
        """The sentences of an earlier answer that the user got to listen to."""
        return [(text, name) for text, name in self._answers.find(part.item_id) if text in part.text]

    async def _samples(self, part: HistoryPart, rate: int) -> Samples:
        return await asyncio.to_thread(resampled, part.format.samples(part.audio), part.format.rate, rate)


class _Converted:
    """24 kHz 16-bit PCM to a session's format, piece by piece."""

    def __init__(self, form: AudioFormat) -> None:
        self._format, self._odd = form, b""
        self._stream = Stream(OUTPUT_RATE, form.rate)

    def push(self, pcm: bytes) -> bytes:
        if self._format == AudioFormat():
            return pcm
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32_768.0
        return self._encoded(self._stream.push(samples))

    def finish(self) -> bytes:
        return self._encoded(self._stream.flush())

    def _encoded(self, samples: Samples) -> bytes:
        scaled = np.rint(np.clip(samples, -1.0, 1.0) * 32_767.0).astype(np.int16)
        return self._format.encoded(scaled)
