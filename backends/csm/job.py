"""One request in progress: its sentences, the one that is being spoken, and those that were spoken.

Knows rows, caps and when to stop; computes nothing on the model.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backends.csm.audio_output import AudioOutput
from backends.csm.frames import SamplingParams
from backends.csm.model import NoiseSource
from backends.csm.settings import Settings
from backends.csm.voices import Segment
from backends.interface import Done, SpeechRequest, Usage

_REPEATS = 8  # equal frames in a row that mean the model is stuck (0.64 s)
_QUIET_SECONDS = 2.0  # of silence after which nothing more is expected
_SLOW_SPEECH = 6.0  # characters per second: what a sentence may take at most follows from it
_SPARE_SECONDS = 2.0


@dataclass(slots=True)
class Utterance:
    """The sentence being spoken. position: of its next frame's row; hidden [width]: gives its next codes; cap: frames
    that it may have."""

    text: str
    position: int
    hidden: Tensor
    cap: int
    codes: list[Tensor] = field(default_factory=list)

    @property
    def stuck(self) -> bool:
        """Whether the last frames are all the same."""
        last = self.codes[-_REPEATS:]
        return len(last) == _REPEATS and all(torch.equal(codes, last[0]) for codes in last)


@dataclass(slots=True, eq=False)
class SpeechJob:
    """A speech request. before: the segments that precede every sentence, after the voice's clip; said: the sentences
    spoken so far."""

    request: SpeechRequest
    speaker: int
    voice: Segment | None
    before: list[Segment]
    sentences: deque[str]
    settings: Settings
    noise: NoiseSource
    audio: AudioOutput
    slot: int
    started: float = field(default_factory=time.perf_counter)
    utterance: Utterance | None = None
    ending: bool = False  # the utterance has its last frame
    ready_noise: Tensor | None = None
    said: list[Segment] = field(default_factory=list)
    frames: int = 0
    input_tokens: int = 0
    cut: bool = False
    notes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    def draw(self) -> SamplingParams:
        """The parameters for the next codes. The noise stays until `advance`, so that a step can be repeated."""
        if self.settings.temperature <= 0:
            return SamplingParams(None, 0.0, 0)
        if self.ready_noise is None:
            self.ready_noise = self.noise.draw()
        return SamplingParams(self.ready_noise, self.settings.temperature, self.settings.top_k)

    def advance(self, codes: Tensor, hidden: Tensor) -> None:
        """Take the next frame's codes [codebooks] and the hidden state after it."""
        utterance = self.utterance
        assert utterance is not None  # noqa: S101  # the caller begins a sentence before it asks for a frame
        self.ready_noise = None
        if not codes.any():
            self.ending = True
            return
        utterance.codes.append(codes)
        utterance.hidden, utterance.position = hidden, utterance.position + 1
        self.frames += 1
        self.audio.take(codes)
        if len(utterance.codes) >= utterance.cap:
            self.ending = self.cut = True
        elif utterance.stuck:
            self.ending = True

    def end_on_silence(self) -> None:
        """End the sentence if the audio has been silent for long."""
        if self.audio.quiet_seconds >= _QUIET_SECONDS:
            self.ending = True

    def finish_sentence(self) -> None:
        """Append the finished sentence to those that were said."""
        utterance = self.utterance
        if utterance is not None and utterance.codes:
            self.said.append(Segment(self.speaker, utterance.text, torch.stack(utterance.codes, 1).cpu()))
        self.utterance, self.ending = None, False

    def sentence_context(self) -> list[Segment]:
        """The segments that the next sentence continues: the conversation, and the sentence before it."""
        return [*self.before, *self.said[-1:]]

    def done(self, rate: int) -> Done:
        """The last event."""
        seconds = self.audio.spoken / rate
        self.timings["total"] = time.perf_counter() - self.started
        return Done(
            finish_reason="length" if self.cut else "stop",
            usage=Usage(self.input_tokens, self.frames, 0, self.frames),
            seed=self.noise.seed,
            timings={**self.timings, "audio": seconds},
            notes=tuple(self.notes),
        )


def sentence_cap(text: str, settings: Settings, frame_rate: float) -> int:
    """Frames that a sentence may take: generous for its length, never more than the setting."""
    seconds = min(settings.max_seconds, _SPARE_SECONDS + len(text) / _SLOW_SPEECH)
    return max(1, round(seconds * frame_rate))
