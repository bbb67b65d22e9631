"""A chat answer spoken by the deployment's speech deployment.

Owns the chaining: a slot in the queue of the speech deployment, the request, and the encoded audio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from app.config.deployments import Deployment
from app.errors import InvalidRequest, ModelUnavailable, OutOfMemory, WorkerLost
from app.routes.chat.request import SpokenOptions
from app.routes.context import RequestContext
from app.routes.speech.audio import SpeechAudio
from app.routes.voices import backend_voice, fallback_voice
from app.writers.audio import encode
from app.writers.formats import OUTPUT_RATE
from backends.interface import AudioChunk, SpeechRequest, Usage

_SILENCE_SECONDS = 0.1  # of the audio of an answer without words


@dataclass(slots=True)
class Speaker:
    """The voice of one answer. usage: of the speech, once all of it was made."""

    context: RequestContext
    deployment: Deployment
    options: SpokenOptions
    seed: int | None = None
    usage: Usage = field(default_factory=Usage)

    async def check_voice(self) -> None:
        """Find the voice before any work is done. Raises ApiError if the speaker cannot be loaded and has no
        stand-in."""
        try:
            await backend_voice(self.context.gateway, self.deployment, self.options.voice)
        except (ModelUnavailable, OutOfMemory, WorkerLost):
            if not self.deployment.fallback:
                raise
            self._note_stand_in(self.deployment.fallback)

    async def speak(self, text: str, *, streaming: bool) -> AsyncIterator[bytes]:
        """The encoded audio of an answer. Raises ApiError."""
        record = partial(self.context.record, "encode")
        pieces = encode(self._chunks(text, streaming), self.options.format, streaming=streaming, record=record)
        self.context.stack.push_async_callback(pieces.aclose)
        async for piece in pieces:
            yield piece

    async def _chunks(self, text: str, streaming: bool) -> AsyncIterator[AudioChunk]:
        """A model may well answer with nothing that can be spoken; that is no error of the client's."""
        has_sound = False
        try:
            if text.strip():
                async for chunk in self._run(text, streaming):
                    has_sound = True
                    yield chunk
        except InvalidRequest as error:
            if error.param == "voice":
                error.param = "audio.voice"  # where it stands in a chat request
            if error.param != "input" or has_sound:
                raise
        if not has_sound:
            yield AudioChunk(np.zeros(round(_SILENCE_SECONDS * OUTPUT_RATE), np.float32), OUTPUT_RATE)

    async def _run(self, text: str, streaming: bool) -> AsyncIterator[AudioChunk]:
        context = self.context
        admitted = context.gateway.pool.admit(self.deployment, owner=context.client, request_id=context.request_id)
        reservation = await context.stack.enter_async_context(admitted)
        if reservation.fallback_from is not None:
            self._note_stand_in(reservation.deployment.name)
        find_voice = backend_voice if reservation.fallback_from is None else fallback_voice
        voice = await find_voice(context.gateway, reservation.deployment, self.options.voice)
        request = SpeechRequest(text, voice, stream=streaming, seed=self.seed, answer_id=context.request_id)
        events = await reservation.run(request)
        context.remark(reservation.notes)
        audio = SpeechAudio(context, reservation, events, stage="speech")
        async for chunk in audio:
            yield chunk
        self.usage = audio.done.usage

    def _note_stand_in(self, name: str) -> None:
        """Known before the headers of a stream go only where the speaker had to be loaded to find the voice."""
        self.context.remark([f"{name} speaks instead of {self.deployment.name}"])
