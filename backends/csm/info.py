"""What the gateway may know of CSM without loading it: files, preferred devices and the options of a deployment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class CsmOptions:
    """Keys of a deployment with backend = "csm".

    watermark: mark all speech (the model is refused without the watermark's weights unless this is false);
    watermark_model: hub id or folder of SilentCipher; watermark_key: five bytes as ten hex digits, "": this
    installation's own; watermark_sdr: dB between speech and watermark; watermark_statistics: whether its networks
    normalise by the utterance ("batch", as published) or by what they were trained with ("running", half the cost);
    codec_model: hub id or folder of Mimi, "": inside the model's own files; tokenizer: a tokenizer.json, "": the
    model's; temperature, top_k: sampling, as published; max_seconds: of one sentence; max_batch: utterances per step,
    0: by device; transcription_deployment: writes the transcript of a clip to clone that comes without one.
    """

    watermark: bool = True
    watermark_model: str = "sony/silentcipher"
    watermark_key: str = ""
    watermark_sdr: float = 36.0
    watermark_statistics: Literal["batch", "running"] = "batch"
    codec_model: str = ""
    tokenizer: str = ""
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.9
    top_k: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 50
    max_seconds: Annotated[float, msgspec.Meta(ge=0.08, le=120)] = 30.0
    max_batch: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    transcription_deployment: str = ""


INFO = BackendInfo(
    name="csm",
    entry="backends.csm.backend:CsmBackend",
    tasks=("speech",),
    engines=("torch",),
    device_preference=("cuda", "cpu"),
    check="backends.csm.settings:check_request",
    libraries={"": ("torch", "safetensors", "tokenizers", "moshi"), "torch": ("silentcipher",)},
    extra="torch",
    options=CsmOptions,
    default_model="sesame/csm-1b",
    required_files=("config.json", "*.safetensors"),
    pull_patterns=(
        "config.json",
        "transformers-*.safetensors",
        "transformers.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "preprocessor_config.json",
    ),
    extra_models={"watermark_model": "sony/silentcipher"},
    bytes_hint=7_150_000_000,
    input_rate=24_000,
    licence="Apache-2.0 (weights after accepting the model's terms); watermark MIT",
)
