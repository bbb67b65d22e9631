"""CSM behind the backend contract: requests in, samples out; one step is one 80 ms frame for all active jobs.

Owns the order of the parts: voice and context to rows, prefill, frame, audio, next sentence. Each has its own file.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.csm.audio_output import AudioOutput
from backends.csm.conversation import AnswerHistory, context_segments
from backends.csm.frames import frame_batch
from backends.csm.info import CsmOptions
from backends.csm.job import SpeechJob, Utterance, sentence_cap
from backends.csm.loading import Parts, load_parts
from backends.csm.model import NoiseSource
from backends.csm.prompt_frames import prompt_rows
from backends.csm.settings import request_settings
from backends.csm.text import normalize_text, utterances
from backends.csm.voices import Segment, SpeakingVoice, Voices, trimmed
from backends.csm.watermark_model.stream import WatermarkStream
from backends.interface import (
    AudioChunk,
    Capabilities,
    Event,
    InvalidInput,
    Job,
    ModelFiles,
    Placement,
    Request,
    SpeechRequest,
)

Samples = NDArray[np.float32]
_VOICES_PREFILLED = 8  # voices whose clip stays computed in the cache's form
_FILLER = 0.1  # seconds of silence for an job in which the model said nothing


class CsmBackend:
    """One loaded CSM with its codec and watermark. codec, batch (of frames), history (of answers): after `load`."""

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        """Load everything. Raises ModelUnavailable for any missing part, the watermark included unless it is off."""
        self._options = CsmOptions(**dict(model.options))
        self._parts: Parts = load_parts(model, placement, self._options)
        self.codec = self._parts.codec
        self.batch = frame_batch(self._parts.model, self._parts.slots, self.codec.bins)
        self._voices = Voices(model.models_dir / "voices", self.codec.rate, self._encode, self._parts.codec_identity)
        self.history = AnswerHistory()
        self._prefixes: OrderedDict[str, Tensor] = OrderedDict()
        return Capabilities(
            engine="torch",
            device=placement.device,
            dtype=self._parts.dtype,
            max_batch=self._parts.slots,
            sample_rate=self.codec.rate,
            languages=("en",),
            voices=self._voices.listed(),
            detail=self._parts.detail,
        )

    def canary(self) -> Request:
        """Two short words, at most a second of them."""
        return SpeechRequest("Hello there.", "0", stream=True, seed=0, options={"max_seconds": 1.0})

    # --- a job's life -------------------------------------------------------------------------------------------------

    def start(self, request: Request) -> Job:
        """Prefill the first sentence. Raises InvalidInput for everything that can be wrong with a request."""
        if not isinstance(request, SpeechRequest):
            raise InvalidInput("this model only speaks")
        began = time.perf_counter()
        settings = request_settings(request.options, self._options)
        pieces = utterances(normalize_text(request.text))
        voice = self._voice(request)
        before = context_segments(request.context, self.history, self._voices, self._encode, self.codec.rate)
        shape = (self._parts.model.config.codebooks, self.batch.allowed_codes)
        job = SpeechJob(
            request=request,
            speaker=voice.speaker,
            voice=voice.sample,
            before=before,
            sentences=deque(pieces),
            settings=settings,
            noise=NoiseSource(shape, request.seed, self._parts.model.device),
            audio=AudioOutput(self.codec, self._watermark_stream(request.stream)),
            slot=self.batch.cache.take(),
        )
        if request.instructions:
            job.notes.append("instructions are ignored: this model has none")
        try:
            self._begin_sentence(job)
        except BaseException:
            self.close(job)
            raise
        job.timings["start"] = time.perf_counter() - began
        return job

    def step(self, jobs: Sequence[Job]) -> Iterable[tuple[Job, Event]]:
        """Compute one frame for every job. Events come job by job, so that a failure loses none of the jobs before."""
        active = [job for job in jobs if isinstance(job, SpeechJob)]
        for job in active:
            if job.utterance is None:
                self._begin_sentence(job)
        speaking = [(job, job.utterance) for job in active if job.utterance is not None and not job.ending]
        if speaking:
            self._frame(speaking)
        for job in active:
            for event in self._events(job):
                yield job, event

    def close(self, job: Job) -> None:
        """Free the slot."""
        if isinstance(job, SpeechJob):
            self.batch.cache.give_back(job.slot)

    def footprint(self) -> int:
        """Bytes of weights and caches on the device."""
        return self._parts.bytes() + self.batch.bytes() + sum(prefix.nbytes for prefix in self._prefixes.values())

    # --- parts of a step ----------------------------------------------------------------------------------------------

    def _frame(self, speaking: Sequence[tuple[SpeechJob, Utterance]]) -> None:
        began = time.perf_counter()
        codes, hidden = self.batch.frame(
            [job.slot for job, _ in speaking],
            [utterance.position for _, utterance in speaking],
            torch.stack([utterance.hidden for _, utterance in speaking]),
            [job.draw() for job, _ in speaking],
        )
        codes = codes.cpu()  # the one wait for the device in a frame
        spent = (time.perf_counter() - began) / len(speaking)
        for row, (job, _) in enumerate(speaking):
            job.advance(codes[row], hidden[row])
            job.timings["frames"] = job.timings.get("frames", 0.0) + spent

    def _events(self, job: SpeechJob) -> Iterator[Event]:
        """The audio that the last frame completed, and Done after the last sentence."""
        began = time.perf_counter()
        pieces: list[Samples] = []
        if job.audio.ready(last=job.ending):
            pieces.append(job.audio.samples())
            job.end_on_silence()
        over = False
        if job.ending:
            pieces.append(job.audio.end_sentence())
            job.finish_sentence()
            over = not job.sentences
        if over:
            pieces.append(self._closing(job))
        samples = np.concatenate([np.zeros(0, np.float32), *pieces])
        job.timings["sound"] = job.timings.get("sound", 0.0) + time.perf_counter() - began
        if len(samples):
            yield AudioChunk(samples, self.codec.rate)
        if over:
            self.history.keep(job.request.answer_id, job.said)
            yield job.done(self.codec.rate)

    def _closing(self, job: SpeechJob) -> Samples:
        """The last samples; adds the notes about the whole answer."""
        rest = job.audio.end(_FILLER)
        watermark = self._parts.watermark
        if not job.said:
            job.notes.append("the model said nothing to this text")
        if job.cut:
            job.notes.append("a sentence was cut at its longest allowed length")
        if watermark is not None and job.audio.spoken * watermark.rate < watermark.shortest * self.codec.rate:
            job.notes.append("the speech is too short to carry a readable watermark")
        return rest

    def _begin_sentence(self, job: SpeechJob) -> None:
        """Prefill the next sentence into the job's slot. Raises InvalidInput if its prompt leaves no room."""
        text = job.sentences[0]
        ids = self._parts.tokenizer.utterance(job.speaker, text)
        cap = sentence_cap(text, job.settings, self.codec.rate / self.codec.frame_samples)
        start = self._prefilled_voice(job)
        limit = self.batch.positions - cap
        tokens, mask = self._rows(job.sentence_context(), ids)
        if job.said and start + len(tokens) > limit:
            tokens, mask = self._rows(job.before, ids)  # the sentence before improves the voice; it is not needed
        if start + len(tokens) > limit:
            raise InvalidInput(
                f"voice, context and text take {start + len(tokens)} rows; {limit} are left beside {cap} frames of "
                f"speech (12.5 rows per second of audio, one per token)",
                param="context" if job.before else "input",
            )
        hidden = self.batch.prefill(job.slot, tokens, mask, start)
        job.utterance = Utterance(text, start + len(tokens), hidden, cap)
        job.input_tokens += len(ids)
        job.sentences.popleft()

    def _rows(self, segments: Sequence[Segment], ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        return prompt_rows(
            [*map(self._prompt_segment, segments), {"text_ids": ids}], self._parts.model.config.codebooks
        )

    def _prompt_segment(self, segment: Segment) -> dict[str, Any]:
        return {"text_ids": self._parts.tokenizer.utterance(segment.speaker, segment.text), "codes": segment.codes}

    # --- voices, context, watermark -----------------------------------------------------------------------------------

    def _prefilled_voice(self, job: SpeechJob) -> int:
        """Put the voice's clip at the start of the slot; returns its rows. Clips of named voices are computed once."""
        if job.voice is None:
            return 0
        tokens, mask = prompt_rows([self._prompt_segment(job.voice)], self._parts.model.config.codebooks)
        if len(tokens) >= self.batch.positions:
            raise InvalidInput(f"the voice's clip takes {len(tokens)} rows of {self.batch.positions}", param="voice")
        name = f"{job.request.voice}:{hash(tokens.numpy().tobytes())}"
        if name not in self._prefixes:
            self.batch.prefill(job.slot, tokens, mask)
            self._prefixes[name] = self.batch.cache.saved(job.slot, len(tokens))
            while len(self._prefixes) > _VOICES_PREFILLED:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(name)
        self.batch.cache.restore(job.slot, self._prefixes[name])
        return len(tokens)

    def _voice(self, request: SpeechRequest) -> SpeakingVoice:
        voice = self._voices.voice(request.voice)
        clip = request.reference
        if clip is None:
            return voice
        if not clip.transcript.strip():
            raise InvalidInput("a clip to clone needs its transcript", param="reference_text")
        codes = self._encode(trimmed(clip.samples, self.codec.rate)).cpu()
        return SpeakingVoice(voice.speaker, Segment(voice.speaker, clip.transcript.strip(), codes))

    def _encode(self, samples: Samples) -> Tensor:
        """Samples at the codec's rate -> codes int64 [codebooks, frames]."""
        wave = torch.from_numpy(np.array(samples, np.float32))[None, None]
        return self.codec.encode(wave)[0]

    def _watermark_stream(self, stream: bool) -> WatermarkStream | None:
        parts = self._parts
        if parts.watermark is None:
            return None
        return WatermarkStream(
            parts.watermark, self.codec.rate, parts.key, self._options.watermark_sdr, patient=not stream
        )
