"""What the gateway may know of the espeak-ng backend without loading it."""

from __future__ import annotations

from dataclasses import dataclass

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class EspeakOptions:
    """Keys of a deployment with backend = "espeak".

    voice: what a request without a known language gets and what the OpenAI voice names are built on;
    words_per_minute: rate at speed 1 (140 is what recognisers understand best);
    pitch, pitch_range: 0..100, 50 is the voice's own; sentence_gap_ms: silence between sentences.
    """

    voice: str = "en-us"
    words_per_minute: int = 140
    pitch: int = 50
    pitch_range: int = 50
    sentence_gap_ms: int = 150


INFO = BackendInfo(
    name="espeak",
    entry="backends.embedded.espeak:EspeakBackend",
    tasks=("speech",),
    engines=("espeak-ng",),
    libraries={"": ("espeakng_loader",)},
    extra="embedded",
    options=EspeakOptions,
    licence="GPL-3.0-or-later (espeak-ng)",
)
