"""One request to transcribe a recording, on its way through the steps. Knows no network."""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.whisper.active_window import DecodingOptions
from backends.whisper.transcription import Transcription


@dataclass(eq=False, slots=True)
class WhisperJob:
    """One request. begun: its first window is decoded, so that further windows may share a step; logprobs: seconds and
    average log-probability of each segment; without_prompt: some window was decoded without the prompt; notes: on the
    request itself."""

    recording: Transcription
    decoding_options: DecodingOptions
    seconds: float
    notes: tuple[str, ...] = ()
    begun: bool = False
    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    logprobs: list[tuple[float, float]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    without_prompt: bool = False
