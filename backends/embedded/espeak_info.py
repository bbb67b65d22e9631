"""What the gateway may know of the espeak-ng backend without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class EspeakOptions:
    """Keys of a deployment that only espeak has."""

    voice: Annotated[
        str, Meta(description="Voice of requests without a known language; the OpenAI voice names are built on it.")
    ] = "en-us"
    words_per_minute: Annotated[int, Meta(description="Rate at speed 1; 140 is what recognisers understand best.")] = (
        140
    )
    pitch: Annotated[int, Meta(description="Pitch, 0..100; 50 is the voice's own.")] = 50
    pitch_range: Annotated[int, Meta(description="Range of the pitch, 0..100; 50 is the voice's own.")] = 50
    sentence_gap_ms: Annotated[int, Meta(description="Silence between sentences, milliseconds.")] = 150


LICENCE = "GPL-3.0-or-later (espeak-ng)"

INFO = BackendInfo(
    name="espeak",
    entry="backends.embedded.espeak:EspeakBackend",
    tasks=("speech",),
    engines=("espeak-ng",),
    libraries={"": ("espeakng_loader",)},
    extra="embedded",
    options=EspeakOptions,
    single_threaded=True,
    licence=LICENCE,
)
