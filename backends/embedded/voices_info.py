"""What the gateway may know of the embedded voices without loading one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from backends.model_sets import VOICE_FILES
from backends.registry import BackendInfo

_READINGS = "pyopenjtalk-plus"  # of Japanese
_KOKORO = dict.fromkeys(
    package
    for name in ("kokoro-v1.0.int8.onnx", "voices_ja.npz", "vocab.json")
    for package in VOICE_FILES[name].packages
)


@dataclass(frozen=True, slots=True)
class VoicesOptions:
    """Keys of a deployment that only the embedded voices have."""

    voice: Annotated[
        str,
        Meta(description="Language or voice of a text in Latin letters whose request names one of OpenAI's voices."),
    ] = "en-us"
    permissive_licences_only: Annotated[
        bool, Meta(description="Leave out voices whose training data or licence restricts what they may be used for.")
    ] = False
    words_per_minute: Annotated[int, Meta(description="Rate of espeak-ng at speed 1.")] = 140
    pitch: Annotated[int, Meta(description="Pitch of espeak-ng, 0..100; 50 is the voice's own.")] = 50
    pitch_range: Annotated[int, Meta(description="Range of espeak-ng's pitch, 0..100; 50 is the voice's own.")] = 50
    sentence_gap_ms: Annotated[int, Meta(description="Silence between espeak-ng's sentences, milliseconds.")] = 150


INFO = BackendInfo(
    name="voices",
    entry="backends.embedded.voices:VoicesBackend",
    tasks=("speech",),
    engines=("neural", "espeak-ng"),
    libraries={"": ("espeakng_loader",), "neural": ("onnxruntime",)},
    extra="embedded",
    optional_packages={
        "the neural voice for English": tuple(VOICE_FILES["en_US-joe-medium.onnx"].packages),
        "the neural voices for Japanese": (*_KOKORO, _READINGS),
    },
    options=VoicesOptions,
    licence="per voice, see audio/voices (espeak-ng: GPL-3.0-or-later)",
)
