"""What the gateway may know of LLASA without loading it: files, preferred devices and the options of a deployment.

Imports no engine code; `backends.registry` finds `INFO` by name. The sampling keys are also what a request may set for
itself (`SpeechRequest.options`); `backends.llasa.options` checks them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from backends.registry import BackendInfo

MOST_POSITIONS = 32_768  # rows of the rotation table, whatever was trained: far beyond what is spoken in one go
DEFAULT_DATE = "26 Jul 2024"  # the date Llama's template falls back to; a fixed one keeps answers reproducible


@dataclass(frozen=True, slots=True)
class LlasaOptions:
    """Keys of a deployment that only LLASA has.

    codec_model: hub id or folder of X-Codec-2; adapters: voice name -> LoRA folder (its checkpoint-N folders become
    voices NAME-checkpoint-N); base_model: hub id or folder that replaces what an adapter folder names as its base;
    double_bos: adapter voices trained with two begin tokens; assistant_prefix: voice -> text before its speech (speaker
    fine-tunes, "Speaker kore"); head: only speech rows of the vocabulary, or all of it; compile: torch.compile, where
    it works; codec_dtype: "auto" (as the language model where that pays), "float32" or "bfloat16"; date: what the
    prompt's header says ("today": the real date); system: text of the system message; captions: a request's
    instructions become the system message (caption-tuned checkpoints only); language: ISO 639-1 code, "ja" turns on
    Japanese normalisation ("" = judged by the text); japanese_filter: also drop every character outside the trainer's
    Japanese set.
    temperature, top_k (0 = off), top_p, repetition_penalty: sampling; max_length: tokens of prompt and speech together;
    sentence_characters: longer text is split; chaining: every sentence continues the one before, instead of all
    sentences at once; retries: new seeds tried when an answer runs away; max_batch: sentences generated together;
    reference_seconds: longest clip to clone from; transcription_deployment: writes the transcript of a clip that came
    without one.
    """

    codec_model: str = "HKUSTAudio/xcodec2"
    adapters: Mapping[str, str] = field(default_factory=dict)
    base_model: str = ""
    double_bos: tuple[str, ...] = ()
    assistant_prefix: Mapping[str, str] = field(default_factory=dict)
    head: Literal["sliced", "full"] = "sliced"
    compile: bool = False
    codec_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    date: str = DEFAULT_DATE
    system: str = ""
    captions: bool = False
    language: str = ""
    japanese_filter: bool = False
    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.8
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 50
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    max_length: Annotated[int, msgspec.Meta(ge=64, le=MOST_POSITIONS)] = 2048
    sentence_characters: Annotated[int, msgspec.Meta(ge=20, le=4096)] = 300
    chaining: bool = False
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    reference_seconds: Annotated[float, msgspec.Meta(ge=0.5, le=60)] = 15.0
    transcription_deployment: str = ""


INFO = BackendInfo(
    name="llasa",
    entry="backends.llasa.backend:LlasaBackend",
    tasks=("speech",),
    engines=("torch",),
    device_preference=("cuda", "xpu", "mps", "cpu"),
    check="backends.llasa.options:check_request",
    libraries={"": ("torch", "transformers", "peft", "safetensors", "tokenizers")},
    extra="torch",
    options=LlasaOptions,
    default_model="HKUSTAudio/Llasa-1B-Multilingual",
    required_files=("config.json", "tokenizer.json", "*.safetensors"),
    pull_patterns=(
        "config.json",
        "generation_config.json",
        "tokenizer*.json",
        "special_tokens_map.json",
        "*.safetensors",
        "*.safetensors.index.json",
    ),
    extra_models={"codec_model": "HKUSTAudio/xcodec2"},
    bytes_hint=6_100_000_000,
    input_rate=16_000,
    licence="CC BY-NC 4.0 (no commercial use)",
)
