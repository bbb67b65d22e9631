"""What the gateway may know of Whisper without loading it: engines, device preferences, options, files.

Imports no engine code; `backends.registry` finds `INFO` by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class WhisperOptions:
    """Keys of a deployment that only Whisper has."""

    language: Annotated[str, Meta(description="Language code forced when a request names none; empty: detect it.")] = ""
    vad: Annotated[bool, Meta(description="Remove silence before the model, by a voice activity detector.")] = True
    vad_threshold: Annotated[
        float, Meta(ge=0, le=1, description="Speech probability above which a frame is speech.")
    ] = 0.5
    max_batch: Annotated[int, Meta(ge=1, le=256, description="Most 30 s windows decoded together.")] = 8
    temperatures: Annotated[
        tuple[float, ...], Meta(description="Temperatures tried in turn for a request with temperature 0.")
    ] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    no_speech_threshold: Annotated[
        float, Meta(description="Probability above which a window with a low log-probability is silence.")
    ] = 0.6
    logprob_threshold: Annotated[
        float, Meta(description="Average log-probability per token below which a window is decoded again, hotter.")
    ] = -1.0
    compression_ratio_threshold: Annotated[
        float, Meta(description="Text that compresses better than this is a repetition and decoded again, hotter.")
    ] = 2.4
    carry_prompt: Annotated[
        bool, Meta(description="Use the text of one window as the prompt of the next, while that is safe.")
    ] = True
    cache_folder: Annotated[
        str,
        Meta(
            description="Folder for built graphs when that of the weights is read-only; empty: the user's cache folder."
        ),
    ] = ""


INFO = BackendInfo(
    name="whisper",
    entry="backends.whisper.backend:WhisperBackend",
    tasks=("transcription",),
    engines=("onnx", "torch"),
    device_preference=("cuda", "directml", "mps", "xpu", "cpu"),
    engine_device_preference={
        "onnx": ("directml", "cpu"),
        "torch": ("cuda", "mps", "xpu", "directml", "cpu"),
    },
    named_devices=("windowsml",),
    libraries={
        "": ("onnxruntime", "safetensors", "silero_vad", "tokenizers"),
        "onnx": ("onnx",),
        "torch": ("torch", "transformers"),
    },
    extra="torch",
    options=WhisperOptions,
    default_model="openai/whisper-small",
    required_files=("config.json", "model*.safetensors|model.bin"),
    # The large repositories also hold fp32 duplicates (model.fp32-*.safetensors) that nobody needs.
    pull_patterns=(
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "special_tokens_map.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-[0-9]*-of-[0-9]*.safetensors",
        "model.bin",  # CTranslate2's container
    ),
    bytes_hint=970_000_000,
    input_rate=16_000,
    words=True,
    logprobs=True,
    translation=True,
    live=True,
    licence="MIT",
)
