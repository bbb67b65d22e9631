"""Diarization behind the backend contract: one step is a batch of windows of every recording under way.

Owns jobs and their progress. What is computed lies in `diarizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backends.diarization.clustering import SpeakerLimits
from backends.diarization.diarizer import Diarizer, open_diarizer
from backends.diarization.info import DiarizationOptions
from backends.diarization.recording import Recording
from backends.interface import (
    ASR_SAMPLE_RATE,
    Capabilities,
    DiarizationRequest,
    Done,
    Event,
    InvalidInput,
    ModelFiles,
    ModelUnavailable,
    Placement,
    Progress,
    Request,
    SpeakerTurns,
    Usage,
)
from backends.memory import resident_bytes
from backends.model_sets import locate, model_set

_MOST_JOBS = 4  # they take turns


@dataclass(eq=False)
class DiarizationJob:
    """A recording under way. known: embeddings of the request's references, made in the first step; None until
    then."""

    request: DiarizationRequest
    recording: Recording
    known: list[NDArray[np.float32] | None] | None = field(default=None)

    @property
    def seconds(self) -> float:
        return len(self.request.samples) / ASR_SAMPLE_RATE


class DiarizationBackend:
    """See DiarizationOptions for what can be set."""

    def __init__(self) -> None:
        self._options = DiarizationOptions()
        self._diarizer: Diarizer | None = None
        self._bytes = 0

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        """Open the networks. Raises ModelUnavailable."""
        if model.folder is None:
            raise ModelUnavailable("a diarization deployment needs a model")
        known, before = model_set(model.model), resident_bytes()
        folder = locate(known, model.folder).folder if known else model.folder
        self._options = DiarizationOptions(**model.options)
        self._diarizer = open_diarizer(folder, self._options, placement.threads)
        self._bytes = max(0, resident_bytes() - before)
        return Capabilities(
            engine="onnx",
            device=placement.device,
            dtype="float32",
            max_batch=_MOST_JOBS,
            diarization=True,
            detail={"threads": placement.threads, "clustering": self._diarizer.method},
        )

    def canary(self) -> Request:
        """A second of noise."""
        noise = np.random.default_rng(0).standard_normal(ASR_SAMPLE_RATE).astype(np.float32) * np.float32(0.05)
        return DiarizationRequest(noise, references=(noise,))

    def start(self, request: Request) -> DiarizationJob:
        """Check the request. Raises InvalidInput."""
        if not isinstance(request, DiarizationRequest):
            raise InvalidInput(
                "this deployment tells speakers apart and does nothing else", code="OperationNotSupported"
            )
        seconds = len(request.samples) / ASR_SAMPLE_RATE
        if seconds > (most := self._options.max_seconds):
            raise InvalidInput(
                f"the audio is {seconds:.0f} s long; speakers are told apart in at most {most:.0f} s",
                param="file",
                code="audio_too_long",
            )
        return DiarizationJob(request, self._loaded().recording(request.samples))

    def step(self, jobs: Sequence[DiarizationJob]) -> Iterable[tuple[DiarizationJob, Event]]:
        """A batch of windows of each recording, or its end."""
        diarizer = self._loaded()
        for job in jobs:
            if job.known is None:
                job.known = [diarizer.embed(clip) for clip in job.request.references]
            if not job.recording.done:
                job.recording.advance(self._options.batch)
                yield job, Progress(job.recording.windows_done, job.recording.grid.windows)
            if job.recording.done:
                yield job, self._turns(diarizer, job)
                yield job, Done(usage=Usage(audio_seconds=job.seconds))

    def close(self, job: DiarizationJob) -> None:
        job.known = None

    def _loaded(self) -> Diarizer:
        if self._diarizer is None:
            raise ModelUnavailable("the model is not loaded")
        return self._diarizer

    def footprint(self) -> int:
        return self._bytes

    def _turns(self, diarizer: Diarizer, job: DiarizationJob) -> SpeakerTurns:
        limits = SpeakerLimits(job.request.min_speakers, job.request.max_speakers)
        return diarizer.speaker_turns(job.recording, limits, job.known or ())
