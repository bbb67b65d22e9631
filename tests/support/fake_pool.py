"""A pool without processes, for tests of the routes: answers at once, deterministically, and does as it is told.

The real pool has tests of its own; this one implements the same protocol so that a route's every branch can be reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.config.deployments import Deployment
from app.errors import ApiError, Draining, from_failure
from app.serving.interfaces import DeploymentStatus, DeviceStatus
from backends.interface import (
    AudioChunk,
    Capabilities,
    ChatRequest,
    DiarizationRequest,
    Done,
    Event,
    Failed,
    Request,
    Segment,
    SpeakerTurns,
    SpeechRequest,
    TextDelta,
    TranscriptionRequest,
    Turn,
    Usage,
    Voice,
    Word,
)
from backends.live import Feed

Script = Callable[[Request], Iterator[Event]]
SPEECH_RATE = 24_000


def answer(request: Request) -> Iterator[Event]:
    """What a run says unless the test gives a script."""
    if isinstance(request, TranscriptionRequest):
        yield from _transcription(request)
    elif isinstance(request, SpeechRequest):
        yield from _speech(request)
    elif isinstance(request, DiarizationRequest):
        yield from _turns(request)
    else:
        yield from _chat(request)


def _transcription(request: TranscriptionRequest) -> Iterator[Event]:
    seconds = len(request.samples) / 16_000
    half = round(seconds / 2, 3)
    words = (
        ("good", 0.0, half / 2),
        ("morning", half / 2, half),
        ("to", half, half * 1.5),
        ("you", half * 1.5, seconds),
    )
    timed = tuple(Word(*word) for word in words) if request.words else ()
    yield TextDelta(" Good morning")
    yield Segment(0, 0.0, half, " Good morning", words=timed[:2], tokens=(1, 2))
    yield TextDelta(" to you.")
    yield Segment(1, half, seconds, " to you.", words=timed[2:], tokens=(3, 4))
    yield Done(" Good morning to you.", request.language or "en", usage=Usage(output_tokens=4, audio_seconds=seconds))


def _turns(request: DiarizationRequest) -> Iterator[Event]:
    """Two speakers, a half each; the last reference is the first of them, and no other is anybody."""
    seconds = len(request.samples) / 16_000
    turns = (Turn(0.0, seconds / 2, 0), Turn(seconds / 2, seconds, 1))
    known = tuple(0 if number == len(request.references) - 1 else -1 for number in range(len(request.references)))
    yield SpeakerTurns(turns, turns, known)
    yield Done(usage=Usage(audio_seconds=seconds))


def _speech(request: SpeechRequest) -> Iterator[Event]:
    count = 2400
    for start in range(0, max(1, len(request.text)) * count, count):
        time = np.arange(start, start + count) / SPEECH_RATE
        yield AudioChunk((0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), SPEECH_RATE)
    yield Done(usage=Usage(input_tokens=len(request.text.split()), output_tokens=len(request.text)))


def _chat(request: ChatRequest) -> Iterator[Event]:
    for piece in ("I ", "heard ", "you."):
        yield TextDelta(piece)
    yield Done("I heard you.", usage=Usage(input_tokens=10, output_tokens=3, input_audio_tokens=8))


@dataclass
class FakeReservation:
    deployment: Deployment
    fallback_from: str | None
    pool: FakePool
    capabilities: Capabilities | None = None
    queue_seconds: float = 0.001
    notes: tuple[str, ...] = ()

    async def run(self, request: Any) -> Any:
        if self.pool.refuse_run is not None:
            raise self.pool.refuse_run
        self.pool.requests.append(request)
        self.capabilities = self.pool.run_capabilities
        return self._events(self.pool.script(request))

    def feed(self, feed: Feed) -> None:
        self.pool.feeds.append(feed)

    def hold(self, size: int) -> None:
        """This pool has room for any answer."""

    async def wait_for_room(self) -> None:
        return None

    async def _events(self, events: Iterator[Event]) -> AsyncIterator[Event]:
        for event in events:
            if self.pool.delay:
                await asyncio.sleep(self.pool.delay)
            if isinstance(event, Failed):
                raise from_failure(event)
            yield event


@dataclass
class FakePool:
    """delay: seconds before each event; refuse, refuse_run: raised by admit or run; script: what a run says;
    fallbacks: deployment name -> the one that answers for it; run_capabilities: of the models that run. active,
    requests: what happened."""

    deployments: Mapping[str, Deployment]
    script: Script = answer
    delay: float = 0.0
    refuse: ApiError | None = None
    refuse_run: ApiError | None = None
    refuse_canary: ApiError | None = None
    fallbacks: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    run_capabilities: Capabilities = field(
        default_factory=lambda: Capabilities(
            "fake",
            "cpu",
            "float32",
            voices=(Voice("fake"),),
            words=True,
            logprobs=True,
            translation=True,
            diarization=True,
        )
    )
    requests: list[Any] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)
    canaries: int = 0
    owners: list[str] = field(default_factory=list)
    active: int = 0
    started: bool = False
    loaded: bool = True  # whether the models' capabilities are known
    _draining: bool = False

    def reset(self, script: Script = answer) -> None:
        """Forget every request and every order but `script`."""
        fresh = FakePool(self.deployments, script)
        for name in ("script", "delay", "refuse", "refuse_run", "refuse_canary", "fallbacks", "run_capabilities"):
            setattr(self, name, getattr(fresh, name))
        self.requests.clear()
        self.canaries = 0
        self.loaded = True

    async def start(self) -> None:
        self.started = True

    async def drain(self, seconds: float) -> bool:
        self._draining = True
        ends = asyncio.get_running_loop().time() + seconds
        while self.active and asyncio.get_running_loop().time() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return self.active == 0

    @asynccontextmanager
    async def admit(
        self, deployment: Deployment, *, owner: str, request_id: str, live: bool = False
    ) -> AsyncIterator[FakeReservation]:
        if self._draining:
            raise Draining("The server is shutting down.")
        if self.refuse is not None:
            raise self.refuse
        self.owners.append(owner)
        instead = self.fallbacks.get(deployment.name)
        self.active += 1
        try:
            if instead is None:
                yield FakeReservation(deployment, None, self)
            else:
                yield FakeReservation(self.deployments[instead], deployment.name, self)
        finally:
            self.active -= 1

    async def canary(self, deployment: Deployment, timeout_seconds: float) -> None:
        self.canaries += 1
        if self.refuse_canary is not None:
            raise self.refuse_canary

    async def load(self, name: str) -> Capabilities:
        self.states[name], self.loaded = "ready", True
        return self.run_capabilities

    async def unload(self, name: str) -> bool:
        self.states[name] = "unloaded"
        return True

    def capabilities(self, deployment: Deployment) -> Capabilities | None:
        return self.run_capabilities if self.loaded else None

    def status(self) -> dict[str, DeploymentStatus]:
        return {name: self._status(deployment) for name, deployment in self.deployments.items()}

    def devices(self) -> list[DeviceStatus]:
        return [DeviceStatus("cpu", "cpu", "test", 8 << 30, 1 << 30, 4 << 30)]

    @property
    def draining(self) -> bool:
        return self._draining

    def _status(self, deployment: Deployment) -> DeploymentStatus:
        return DeploymentStatus(
            backend=deployment.info.name,
            model=deployment.model,
            engine="fake",
            device="cpu",
            dtype="float32",
            reason="",
            state=self.states.get(deployment.name, "ready"),  # type: ignore[arg-type]
            error=None,
            fallback=deployment.fallback,
            footprint_bytes=0,
            jobs_active=self.active,
            queue_depth=0,
            live_sessions=0,
            real_time_factor=None,
            last_used=None,
            detail={},
        )
