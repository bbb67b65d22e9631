"""What the gateway knows of CSM before it runs: names, files, device preferences and the options of a deployment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class CsmOptions:
    """Keys of a deployment that only CSM has."""

    watermark: Annotated[
        bool,
        Meta(description="Mark all speech; the model is refused without the watermark's weights unless this is false."),
    ] = True
    watermark_model: Annotated[str, Meta(description="Hub id or folder of SilentCipher.")] = "sony/silentcipher"
    watermark_key: Annotated[str, Meta(description="Five bytes as ten hex digits; empty: this installation's own.")] = (
        ""
    )
    watermark_sdr: Annotated[float, Meta(description="Distance between speech and mark, dB.")] = 36.0
    watermark_statistics: Annotated[
        Literal["batch", "running"],
        Meta(
            description="Normalise the mark's networks by utterance (batch, as published) or training "
            "(running, half the cost)."
        ),
    ] = "batch"
    codec_model: Annotated[str, Meta(description="Hub id or folder of Mimi; empty: inside the model's own files.")] = ""
    tokenizer: Annotated[str, Meta(description="A tokenizer.json; empty: the model's.")] = ""
    temperature: Annotated[float, Meta(ge=0, le=2, description="Sampling temperature, as published.")] = 0.9
    top_k: Annotated[
        int, Meta(ge=0, le=10_000, description="Sample from the k most probable tokens, as published.")
    ] = 50
    max_seconds: Annotated[float, Meta(ge=0.08, le=120, description="Longest sentence, seconds.")] = 30.0
    max_batch: Annotated[int, Meta(ge=0, le=256, description="Most utterances per step; 0: by device.")] = 0
    transcription_deployment: Annotated[
        str, Meta(description="Deployment that writes the transcript of a clip to clone that comes without one.")
    ] = ""


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
    clones=True,
    speech_context=True,
    detector="backends.csm.watermark_model.detect",
    licence="Apache-2.0 (weights after accepting the model's terms); watermark MIT",
)
