"""What the gateway may know of Whisper without loading it: engines, device wishes, options, files.

Imports no engine code; `backends.registry` finds `INFO` by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class WhisperOptions:
    """Keys of a deployment that only Whisper has.

    language: forced when a request names none ("" = detect); vad: a speech gate removes silence before the model;
    vad_threshold: speech probability 0..1 above which a frame is speech; max_batch: windows decoded together;
    temperatures: the fallback ladder of a request with temperature 0; no_speech_threshold: probability above which a
    window with a low log-probability is silence; logprob_threshold: average per token below which a decode is repeated
    hotter; compression_ratio_threshold: text that compresses better than this is a repetition; carry_prompt: the text
    of the window before is the prompt of the next, while that is safe; cache_folder: where built graphs lie when the
    weights' folder is read-only ("" = the user's cache folder).
    """

    language: str = ""
    vad: bool = True
    vad_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    no_speech_threshold: float = 0.6
    logprob_threshold: float = -1.0
    compression_ratio_threshold: float = 2.4
    carry_prompt: bool = True
    cache_folder: str = ""


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
    licence="MIT",
)
