"""Mimi's configuration and weights in both published forms, moshi's and transformers', also from inside a CSM folder.

Everything is turned into moshi's form. Knows no audio and computes nothing but renames and the rope permutation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.interface import ModelUnavailable
from backends.transformer.checkpoint import Checkpoint, shards
from backends.transformer.rope import interleave

_INDEXES = ("transformers.safetensors.index.json", "model.safetensors.index.json")
_INSIDE_CSM = "codec_model."
_MOSHI_KEY, _TRANSFORMERS_KEY = "encoder.model.0.conv.conv.weight", "encoder.layers.0.conv.weight"
_STEPS_PER_FRAME = 2  # of the 25 Hz inside per 12.5 Hz frame

Take = Callable[[str, tuple[int, ...]], Tensor]


# --- configuration ---------------------------------------------------------------------------------------------------


def moshi_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """moshi's configuration from either form, or from a CSM config.json; what is absent is as published."""
    if "seanet" in values:
        return {key: values[key] for key in ("sample_rate", "channels", "frame_rate", "seanet", "quantizer", "transformer")}
    if "codec_config" in values:
        return _from_transformers(values["codec_config"] or {})
    is_mimi = values.get("model_type") == "mimi" or "num_quantizers" in values or "upsampling_ratios" in values
    return _from_transformers(values if is_mimi else {})


def _from_transformers(values: Mapping[str, Any]) -> dict[str, Any]:
    width, ratios = int(values.get("hidden_size", 512)), list(values.get("upsampling_ratios", (8, 6, 5, 4)))
    rate, hop = int(values.get("sampling_rate", 24_000)), _STEPS_PER_FRAME
    for ratio in ratios:
        hop *= ratio
    return {
        "sample_rate": rate,
        "channels": int(values.get("audio_channels", 1)),
        "frame_rate": rate / hop,
        "seanet": _seanet(values, width, ratios),
        "quantizer": {
            "dimension": int(values.get("vector_quantization_hidden_dimension", 256)),
            "n_q": int(values.get("num_quantizers", 32)),
            "bins": int(values.get("codebook_size", 2048)),
            "input_dimension": width,
            "output_dimension": width,
        },
        "transformer": _transformer(values, width),
    }


def _seanet(values: Mapping[str, Any], width: int, ratios: list[int]) -> dict[str, Any]:
    return {
        "channels": int(values.get("audio_channels", 1)),
        "dimension": width,
        "causal": True,
        "n_filters": int(values.get("num_filters", 64)),
        "n_residual_layers": int(values.get("num_residual_layers", 1)),
        "activation": "ELU",
        "compress": int(values.get("compress", 2)),
        "dilation_base": int(values.get("dilation_growth_rate", 2)),
        "disable_norm_outer_blocks": 0,
        "kernel_size": int(values.get("kernel_size", 7)),
        "residual_kernel_size": int(values.get("residual_kernel_size", 3)),
        "last_kernel_size": int(values.get("last_kernel_size", 3)),
        "norm": "none",
        "pad_mode": "constant",
        "ratios": ratios,
        "true_skip": not values.get("use_conv_shortcut", False),
    }


def _transformer(values: Mapping[str, Any], width: int) -> dict[str, Any]:
    rope = values.get("rope_parameters") or {}
    return {
        "d_model": width,
        "num_heads": int(values.get("num_attention_heads", 8)),
        "num_layers": int(values.get("num_hidden_layers", 8)),
        "causal": True,
        "layer_scale": float(values.get("layer_scale_initial_scale", 0.01)),
        "context": int(values.get("sliding_window", 250)),
        "conv_layout": True,
        "max_period": float(rope.get("rope_theta", values.get("rope_theta", 10_000.0))),
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": int(values.get("intermediate_size", 2048)),
        "input_dimension": width,
        "output_dimensions": [width],
    }


def read_codec_config(place: Path) -> dict[str, Any]:
    """moshi's configuration from a JSON file, or config.json in (or beside) `place`; the published one if there is none."""
    folder = place if place.is_dir() else place.parent
    file = place if place.suffix == ".json" else folder / "config.json"
    if not file.is_file():
        return moshi_config({})
    try:
        return moshi_config(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelUnavailable(f"{file} is not a configuration of Mimi or CSM: {error!r}") from error


# --- weights ---------------------------------------------------------------------------------------------------------


def open_codec(place: Path) -> Checkpoint:
    """The codec's tensors in a file or folder, in whatever layout. Raises ModelUnavailable if there are none."""
    checkpoints = [_codec_part(Checkpoint.from_files([file])) for file in _files(place)]
    found = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
    if not found:
        raise ModelUnavailable(f"{place} holds no Mimi weights (no tensor {_MOSHI_KEY} or {_TRANSFORMERS_KEY})")
    inside = [part for part, within in found if within]
    return _joined(inside) if inside else found[0][0]


def _files(place: Path) -> Iterable[Path]:
    if place.is_file():
        return [place]
    for index in _INDEXES:
        if (place / index).is_file() and (listed := shards(place, index)):
            more = [file for file in sorted(place.glob("*.safetensors")) if file not in listed]
            return [*listed, *more]
    return shards(place)


def _codec_part(checkpoint: Checkpoint) -> tuple[Checkpoint, bool] | None:
    """The codec's tensors of one file and whether they are part of a CSM checkpoint; None if there are none."""
    if any(name.startswith(_INSIDE_CSM) for name in checkpoint.names):
        return checkpoint.under(_INSIDE_CSM), True
    starts = ("encoder.model.", "encoder.layers.", "decoder.model.", "quantizer.")
    return (checkpoint, False) if any(name.startswith(starts) for name in checkpoint.names) else None


def _joined(parts: list[Checkpoint]) -> Checkpoint:
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.joined(part)
    return joined


def codec_state(checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]], heads: int) -> dict[str, Tensor]:
    """moshi's state dict (names and shapes `wanted`) from either layout, exactly. Raises ModelUnavailable."""
    native = any(".model." in name or "_transformer.transformer." in name for name in checkpoint.names)
    state = {}
    for name, shape in wanted.items():
        published = name.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0.", "out_proj.")
        if native:
            tensor = checkpoint.take(published, shape)
        elif published.endswith("self_attn.in_proj_weight"):
            tensor = _fused_qkv(checkpoint, _transformers_name(published), shape, heads)
        else:
            tensor = checkpoint.take(_transformers_name(published), shape)
        state[name] = tensor.to(torch.float32)
    checkpoint.finish()
    return state


def _fused_qkv(checkpoint: Checkpoint, name: str, shape: tuple[int, ...], heads: int) -> Tensor:
    part = (shape[0] // 3, shape[1])
    q, k, v = (checkpoint.take(name.replace("in_proj_weight", f"{which}_proj.weight"), part) for which in "qkv")
    return torch.cat([interleave(q, heads), interleave(k, heads), v])


_RENAMES = (
    (r"\.convtr\.convtr\.convtr\.", ".conv."),
    (r"\.conv\.conv\.conv\.", ".conv."),
    (r"\.convtr\.convtr\.", ".conv."),
    (r"\.conv\.conv\.", ".conv."),
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"_transformer\.transformer\.layers\.", "_transformer.layers."),
    (r"\.norm1\.", ".input_layernorm."),
    (r"\.norm2\.", ".post_attention_layernorm."),
    (r"\.linear1\.", ".mlp.fc1."),
    (r"\.linear2\.", ".mlp.fc2."),
    (r"\.layer_scale_1\.", ".self_attn_layer_scale."),
    (r"\.layer_scale_2\.", ".mlp_layer_scale."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.rvq_first\.", ".semantic_residual_vector_quantizer."),
    (r"\.rvq_rest\.", ".acoustic_residual_vector_quantizer."),
    (r"\.vq\.layers\.", ".layers."),
    (r"\._codebook\._initialized", ".codebook.initialized"),
    (r"\._codebook\.embedding_sum", ".codebook.embed_sum"),
    (r"\._codebook\.", ".codebook."),
)


def _transformers_name(name: str) -> str:
    """moshi's published name -> transformers' published name."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
