"""Whisper behind the backend contract: one step decodes a batch of windows from all active requests.

Owns the sharing of a step between jobs. What a request asks for and what a job tells are `recognizer`'s, decoding
itself is `engine`'s, what a live job does with its audio `live`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backends.interface import (
    ASR_SAMPLE_RATE,
    Capabilities,
    Event,
    Job,
    ModelFiles,
    ModelUnavailable,
    Placement,
    Request,
    TranscriptionRequest,
)
from backends.live import Feed, LiveEvent, LiveRequest
from backends.model_sets import locate, model_set
from backends.whisper.active_window import ActiveWindow
from backends.whisper.engine import Whisper, load_whisper
from backends.whisper.fallback import Thresholds
from backends.whisper.info import WhisperOptions
from backends.whisper.job import WhisperJob
from backends.whisper.live import LiveWhisperJob, single_failure
from backends.whisper.recognizer import Recognizer
from backends.whisper.tokenizer import checked_language
from backends.whisper.transcription import Window

_TORCH_DEVICES = ("cuda", "mps", "xpu")
_WINDOWS_PER_STEP_CPU = 4  # a cancelled or a new request waits for one step at most
_LARGE_WEIGHTS = 2_000_000_000  # bytes; more than this crowds a GPU that shares the system's memory
_MOST_LIVE = 256  # what a machine can do is known by measurement; this bounds memory only


class WhisperBackend:
    """One loaded Whisper. whisper: the model, recognizer: what makes jobs for it; both after `load`."""

    whisper: Whisper
    recognizer: Recognizer

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        """Choose engine and dtype where the placement leaves them open, and load. Raises ModelUnavailable,
        OutOfMemory."""
        options = _options(model)
        if model.folder is None:
            raise ModelUnavailable(f"{model.model} is not on this machine; run: speech-gateway pull {model.deployment}")
        engine, dtype, self._dtype_reason = _choices(placement)
        self._threads = placement.threads
        known = model_set(model.model)
        located = locate(known, model.folder) if known else None
        self._refused = located.refused if located else ()
        self.whisper = load_whisper(
            located.folder if located else model.folder,
            engine=engine,
            device=placement.device,
            dtype=dtype,
            threads=placement.threads,
            max_batch=options.max_batch,
            cache_folder=options.cache_folder,
            thresholds=Thresholds(
                options.no_speech_threshold, options.logprob_threshold, options.compression_ratio_threshold
            ),
        )
        self.recognizer = Recognizer(self.whisper, options)
        if options.language:
            checked_language(self.whisper.special, options.language)
        network = self.whisper.network
        return Capabilities(
            engine=network.engine,
            device=network.device,
            dtype=network.dtype,
            max_batch=options.max_batch,  # jobs that take turns; a static graph decodes their windows one by one
            languages=tuple(self.whisper.special.languages) or ("en",),
            words=True,
            logprobs=True,
            translation=self.whisper.special.multilingual,
            max_live=_MOST_LIVE,
            detail=self._detail(placement),
        )

    def _detail(self, placement: Placement) -> dict[str, Any]:
        detail = {**self.whisper.network.detail(), "threads": placement.threads}
        if self._dtype_reason:
            detail["dtype_reason"] = self._dtype_reason
        if self._refused:
            detail["warning"] = "; ".join(self._refused)
        if placement.device.startswith("directml") and self.footprint() > _LARGE_WEIGHTS:
            size = f"{self.footprint() / 2**30:.1f} GiB"
            detail["warning"] = (
                f"{size} of weights on DirectML: on a GPU that shares the system's memory choose a smaller model"
            )
        return detail

    def canary(self) -> Request:
        """A second of noise, past the speech gate, for a handful of tokens."""
        noise = np.random.default_rng(0).standard_normal(ASR_SAMPLE_RATE).astype(np.float32) * np.float32(0.05)
        return TranscriptionRequest(noise, language="en", temperature=0.1, options={"vad": False, "max_tokens": 4})

    def start(self, request: Request | LiveRequest) -> WhisperJob | LiveWhisperJob:
        """Check the request; nothing is decoded yet. Raises InvalidInput, and ModelUnavailable for live audio without
        the speech detector."""
        if isinstance(request, LiveRequest):
            self.recognizer.language(request.language, self.recognizer.among(request.languages))
            return LiveWhisperJob(request, self.recognizer)
        return self.recognizer.job(request)

    # --- Live audio ------------------------------------------------------------------------------------------------

    def feed(self, job: LiveWhisperJob, feed: Feed) -> None:
        job.feed(feed)

    def has_work(self, job: LiveWhisperJob) -> bool:
        return job.has_work()

    def is_full(self, job: LiveWhisperJob) -> bool:
        return job.is_full()

    # --- Steps -----------------------------------------------------------------------------------------------------

    def step(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Event | LiveEvent]]:
        """Decode one batch of windows: of recordings, of live turns that are complete, or else of open ones.

        A step that raises leaves its jobs as they were, but for what it told already. A live job alone never raises for
        a turn that cannot be decoded: that turn fails.
        """
        live = [job for job in jobs if isinstance(job, LiveWhisperJob)]
        for job in live:
            yield from ((job, event) for event in job.happened())
        finals = {job: final for job in live if (final := job.final()) is not None}
        recordings = [job for job in jobs if isinstance(job, WhisperJob)]
        opened = [] if finals else [job for job in live if job.is_due()]
        began = time.perf_counter()
        try:
            items = [job.partial() for job in opened]
            self._work([*recordings, *finals.values()], items, alone=not live)
        except Exception as error:
            if len(jobs) > 1 or not live:
                raise
            yield from ((live[0], event) for event in live[0].failed(single_failure(error)))
            return
        spent = time.perf_counter() - began
        for job, item in zip(opened, items, strict=True):
            yield from ((job, event) for event in job.decoded(item, spent))
        for recording in recordings:
            yield from ((recording, event) for event in self._after(recording, spent))
        for job, final in finals.items():
            yield from ((job, event) for event in job.finished(self._after(final, spent)))
        for job in live:
            if job.is_over():
                yield job, job.done()

    def _work(self, jobs: Sequence[WhisperJob], partial: Sequence[ActiveWindow], *, alone: bool) -> None:
        """alone: nobody who talks waits for the end of the step, so that it may be a long one."""
        windows = self._share(jobs, self._batch_size() if alone else 1)
        try:
            self._decode(windows, partial)
        except Exception:
            for job, window in windows:
                job.recording.release(window)
            raise

    def _after(self, job: WhisperJob, spent: float) -> list[Event]:
        """What a step gave to one recording."""
        job.timings["decode"] = job.timings.get("decode", 0.0) + spent
        job.begun = True
        return list(self.recognizer.events(job))

    @staticmethod
    def _share(jobs: Sequence[WhisperJob], size: int) -> list[tuple[WhisperJob, Window]]:
        """One window for every job, what is left of the batch for those under way."""
        size = max(len(jobs), size)
        taken = [(job, window) for job in jobs for window in job.recording.next_windows(1)]
        for job in jobs:
            room = size - len(taken)
            if job.begun and room > 0:
                taken += ((job, window) for window in job.recording.next_windows(room))
        return taken

    def _batch_size(self) -> int:
        network = self.whisper.network
        return (
            min(network.max_batch, max(_WINDOWS_PER_STEP_CPU, self._threads))
            if network.device == "cpu"
            else network.max_batch
        )

    def _decode(self, windows: Sequence[tuple[WhisperJob, Window]], partial: Sequence[ActiveWindow]) -> None:
        items = [ActiveWindow(job.recording, window, job.decoding_options) for job, window in windows]
        if items or partial:
            self.whisper.work([*items, *partial])
        for (job, _), item in zip(windows, items, strict=True):
            job.decoding_options = replace(job.decoding_options, language=item.decoding_options.language)
            job.without_prompt = job.without_prompt or item.prompt_left_out

    def close(self, job: Job) -> None:
        """Whoever still refers to the job does not hold its recording."""
        if isinstance(job, WhisperJob):
            job.recording.close()
        elif isinstance(job, LiveWhisperJob):
            job.close()

    def footprint(self) -> int:
        return self.whisper.network.footprint()


def _options(model: ModelFiles) -> WhisperOptions:
    given = dict(model.options)
    if "temperatures" in given:
        given["temperatures"] = tuple(given["temperatures"])
    options = WhisperOptions(**given)
    if not options.temperatures or options.max_batch < 1:
        raise ModelUnavailable("temperatures needs at least one value, and max_batch at least 1")
    return options


def _choices(placement: Placement) -> tuple[str, str, str]:
    """Engine and dtype for what the placement leaves at "auto", and why that dtype where it was measured."""
    kind = placement.device.partition(":")[0]
    engine = placement.engine
    if engine == "auto":
        engine = "torch" if kind in _TORCH_DEVICES else "onnx"
    if placement.dtype != "auto":
        return engine, placement.dtype, ""
    if engine == "onnx" and kind == "cpu":
        from backends.whisper.onnx.int8_probe import (
            int8_choice,  # imports onnxruntime, which the torch engine can do without
        )

        return engine, *int8_choice().auto()
    return engine, "float16" if kind == "cuda" else "float32", ""
