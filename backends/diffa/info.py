"""What the gateway may know of DIFFA without loading it: files, preferred devices and the options of a deployment.

Knows no tensor. The decoding options are also what a request may set for itself; the rules between them are checked
in `backends.diffa.decoding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class DiffaOptions:
    """Backend-specific keys of a deployment.

    whisper_model, adapter_model: hub ids or folders of the audio encoder and of the DIFFA adapters; preset: "" or one
    of the reference's settings ("reference", "mmsu", "mmau", "voicebench"), which then replaces all decoding keys
    below; steps: denoising steps in all (0: one for every new token); block_length, max_new_tokens: tokens;
    temperature, cfg_scale: 0 = off; cache: which keys and values are kept between steps; threshold: confidence 0..1
    that commits a token (0: fixed schedule); factor: the factor rule instead of a threshold (0: off); early_stop: skip
    the blocks after an end token; system_prompt: used where a conversation brings no system message; max_batch:
    conversations that are denoised together; offload: layers that do not fit the memory budget run from the processor's
    memory ("auto"), or such a load is refused ("never").
    """

    whisper_model: str = "openai/whisper-small"
    adapter_model: str = "zhoujiaming777/DIFFA"
    preset: Literal["", "reference", "mmsu", "mmau", "voicebench"] = ""
    steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    block_length: Annotated[int, msgspec.Meta(ge=1)] = 32
    max_new_tokens: Annotated[int, msgspec.Meta(ge=1)] = 128
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    cfg_scale: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    cache: Literal["none", "prefix", "dual"] = "prefix"
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9
    factor: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    early_stop: bool = True
    system_prompt: str = "You are a helpful voice assistant."
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    offload: Literal["auto", "never"] = "auto"


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
    licence="LLaDA-8B-Instruct: MIT; whisper-small: Apache-2.0; DIFFA adapters: none stated",
)
