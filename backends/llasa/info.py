"""What the gateway may know of LLASA without loading it: files, device preferences and the options of a deployment.

Imports no engine code; `backends.registry` finds `INFO` by name. The sampling keys are also what a request may set for
itself (`SpeechRequest.options`); `backends.llasa.options` checks them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from backends.registry import BackendInfo

MOST_POSITIONS = 32_768  # rows of the rotation table, whatever was trained: far beyond what is spoken in one go
DEFAULT_DATE = "26 Jul 2024"  # the date Llama's template falls back to; a fixed one keeps answers reproducible


@dataclass(frozen=True, slots=True)
class LlasaOptions:
    """Keys of a deployment that only LLASA has."""

    codec_model: Annotated[str, Meta(description="Hub id or folder of X-Codec-2.")] = "HKUSTAudio/xcodec2"
    adapters: Annotated[
        Mapping[str, str],
        Meta(description="Voice name -> LoRA folder; its checkpoint-N folders become voices NAME-checkpoint-N."),
    ] = field(default_factory=dict)
    base_model: Annotated[
        str, Meta(description="Hub id or folder that replaces what an adapter folder names as its base.")
    ] = ""
    double_bos: Annotated[tuple[str, ...], Meta(description="Adapter voices trained with two begin tokens.")] = ()
    assistant_prefix: Annotated[
        Mapping[str, str], Meta(description='Voice -> text before its speech (speaker fine-tunes, "Speaker kore").')
    ] = field(default_factory=dict)
    head: Annotated[
        Literal["sliced", "full"],
        Meta(description="Compute only the speech rows of the vocabulary (sliced), or all of it (full)."),
    ] = "sliced"
    compile: Annotated[bool, Meta(description="Use torch.compile, where it works.")] = False
    codec_dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Meta(description="Number format of the codec; auto: as the language model where that pays."),
    ] = "auto"
    date: Annotated[str, Meta(description='Date in the prompt\'s header; "today": the real date.')] = DEFAULT_DATE
    system: Annotated[str, Meta(description="Text of the system message.")] = ""
    captions: Annotated[
        bool, Meta(description="Make a request's instructions the system message (caption-tuned checkpoints only).")
    ] = False
    language: Annotated[
        str, Meta(description='ISO 639-1 code, "ja" turns on Japanese normalisation; empty: judged by the text.')
    ] = ""
    japanese_filter: Annotated[
        bool, Meta(description="Also drop every character outside the trainer's Japanese set.")
    ] = False
    temperature: Annotated[float, Meta(ge=0, le=10, description="Sampling temperature.")] = 0.8
    top_k: Annotated[int, Meta(ge=0, description="Sample from the k most probable tokens; 0 = off.")] = 50
    top_p: Annotated[
        float,
        Meta(gt=0, le=1, description="Sample from the most probable tokens that together reach this probability."),
    ] = 1.0
    repetition_penalty: Annotated[
        float, Meta(gt=0, le=10, description="Divides the scores of tokens that were generated already; 1 = off.")
    ] = 1.0
    max_length: Annotated[
        int, Meta(ge=64, le=MOST_POSITIONS, description="Most tokens of prompt and speech together.")
    ] = 2048
    sentence_characters: Annotated[
        int, Meta(ge=20, le=4096, description="Longest text generated in one go, characters; longer text is split.")
    ] = 300
    chaining: Annotated[
        bool, Meta(description="Let every sentence continue the one before, instead of all sentences at once.")
    ] = False
    retries: Annotated[int, Meta(ge=0, le=10, description="New seeds tried when an answer runs away.")] = 2
    max_batch: Annotated[int, Meta(ge=1, le=256, description="Most sentences generated together.")] = 8
    reference_seconds: Annotated[float, Meta(ge=0.5, le=60, description="Longest clip to clone from, seconds.")] = 15.0
    transcription_deployment: Annotated[
        str, Meta(description="Deployment that writes the transcript of a clip that came without one.")
    ] = ""


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
    clones=True,
    licence="CC BY-NC 4.0 (no commercial use)",
)
