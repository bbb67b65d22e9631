"""What the gateway knows of DIFFA before it runs: names, files, device preferences and the options of a deployment.

Knows no tensor. The decoding options are also what a request may set for itself; the rules between them are checked
in `backends.diffa.decoding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class DiffaOptions:
    """Keys of a deployment that only DIFFA has."""

    whisper_model: Annotated[str, Meta(description="Hub id or folder of the audio encoder.")] = "openai/whisper-small"
    adapter_model: Annotated[str, Meta(description="Hub id or folder of the DIFFA adapters.")] = "zhoujiaming777/DIFFA"
    preset: Annotated[
        Literal["", "reference", "mmsu", "mmau", "voicebench"],
        Meta(description="One of the reference's settings, which then replaces all decoding keys below."),
    ] = ""
    steps: Annotated[int, Meta(ge=0, description="Denoising steps in all; 0: one for every new token.")] = 0
    block_length: Annotated[int, Meta(ge=1, description="Tokens of one block.")] = 32
    max_new_tokens: Annotated[int, Meta(ge=1, description="Most tokens of an answer.")] = 128
    temperature: Annotated[float, Meta(ge=0, description="Sampling temperature; 0 = off.")] = 0.0
    cfg_scale: Annotated[float, Meta(ge=0, description="Classifier-free guidance; 0 = off.")] = 0.0
    cache: Annotated[
        Literal["none", "prefix", "dual"], Meta(description="Which keys and values are kept between steps.")
    ] = "prefix"
    threshold: Annotated[float, Meta(ge=0, le=1, description="Confidence that commits a token; 0: fixed schedule.")] = (
        0.9
    )
    factor: Annotated[float, Meta(ge=0, description="Use the factor rule instead of a threshold; 0 = off.")] = 0.0
    early_stop: Annotated[bool, Meta(description="Skip the blocks after an end token.")] = True
    system_prompt: Annotated[str, Meta(description="Used where a conversation brings no system message.")] = (
        "You are a helpful voice assistant."
    )
    max_batch: Annotated[int, Meta(ge=1, le=256, description="Most conversations that are denoised together.")] = 4
    offload: Annotated[
        Literal["auto", "never"],
        Meta(description="Run layers beyond the memory budget from main memory (auto), or refuse such a load (never)."),
    ] = "auto"


INFO = BackendInfo(
    name="diffa",
    entry="backends.diffa.backend:DiffaBackend",
    tasks=("chat",),
    engines=("torch",),
    device_preference=("cuda", "xpu", "mps", "cpu"),
    check="backends.diffa.decoding:check_request",
    libraries={"": ("torch", "transformers", "accelerate")},
    extra="torch",
    options=DiffaOptions,
    default_model="GSAI-ML/LLaDA-8B-Instruct",
    required_files=("config.json", "tokenizer.json", "*.safetensors"),
    pull_patterns=(
        "config.json",
        "generation_config.json",
        "tokenizer*.json",
        "special_tokens_map.json",
        "*.safetensors*",
    ),
    extra_models={"whisper_model": "openai/whisper-small", "adapter_model": "zhoujiaming777/DIFFA"},
    bytes_hint=17_300_000_000,
    input_rate=16_000,
    chat_audio=True,
    licence="LLaDA-8B-Instruct: MIT; whisper-small: Apache-2.0; DIFFA adapters: none stated",
)
