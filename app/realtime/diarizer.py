"""The jobs that tell a session's turns apart by speaker, one after the other, as each needs the voices of those before.

Owns the turns that wait. Knows neither words nor events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import numpy as np
import structlog

from app.errors import ApiError, internal_error
from app.realtime.outputs import Diarize
from app.realtime.resampling import resampled
from app.realtime.speakers import Voices
from app.routes.transcriptions.speakers import run_diarization
from app.serving.interfaces import Pool
from backends.interface import ASR_SAMPLE_RATE, DiarizationRequest, Samples, SpeakerTurns

_log = structlog.get_logger("gateway")


class Diarizer:
    """What one session's speakers are told apart by. on_turns: called once for each turn, with what was found or the
    error that kept it from being found; speakers count over the session."""

    def __init__(
        self,
        pool: Pool,
        *,
        owner: str,
        request_id: str,
        most_bytes: int,
        on_turns: Callable[[int, SpeakerTurns | ApiError], None],
    ) -> None:
        """most_bytes: of audio that waits before no more of the client's is taken."""
        self._pool, self._owner, self._request_id = pool, owner, request_id
        self._most_bytes, self._on_turns = most_bytes, on_turns
        self._waiting: deque[Diarize] = deque()
        self._voices = Voices()
        self._task: asyncio.Task[None] | None = None
        self._fewer = asyncio.Event()

    def put(self, turn: Diarize) -> None:
        """Queue a turn."""
        self._waiting.append(turn)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="diarization of turns")

    async def room(self) -> None:
        """Return once what waits here is less than `most_bytes`."""
        while sum(len(turn.audio) for turn in self._waiting) > self._most_bytes:
            self._fewer.clear()
            await self._fewer.wait()

    async def close(self) -> None:
        """End the job under way."""
        self._waiting.clear()
        self._fewer.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            turn = self._waiting[0]
            found = await self._found(turn)
            self._waiting.popleft()
            self._fewer.set()
            self._on_turns(turn.turn, found)

    async def _found(self, turn: Diarize) -> SpeakerTurns | ApiError:
        try:
            samples = await asyncio.to_thread(_samples, turn)
            request = DiarizationRequest(samples, references=self._voices.references())
            found = await run_diarization(
                self._pool, turn.deployment, request, owner=self._owner, request_id=self._request_id
            )
            return self._voices.recognized(found, samples)
        except ApiError as error:
            return error
        except Exception as error:
            _log.error("internal_error", request_id=self._request_id, exc_info=error)
            return internal_error()


def _samples(turn: Diarize) -> Samples:
    """The turn's audio at 16 kHz, silence where its beginning is no longer kept."""
    samples = resampled(turn.format.samples(turn.audio), turn.format.rate, ASR_SAMPLE_RATE)
    missing = round(turn.seconds * ASR_SAMPLE_RATE) - len(samples)
    return np.pad(samples, (max(0, missing), 0))
