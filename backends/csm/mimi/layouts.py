"""Mimi's configuration and weights in both published forms, moshi's and transformers', also from inside a CSM folder.

Everything is turned into moshi's form. Knows no audio and computes nothing but renames and the rope permutation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.interface import ModelUnavailable
from backends.model_files import read_json
from backends.transformer.bounds import (
    MOST_HEADS,
    MOST_HIDDEN,
    MOST_LAYERS,
    MOST_ROWS,
    MOST_WIDTH,
    check_positive,
    check_size,
    check_sizes,
)
from backends.transformer.checkpoint import Checkpoint, shards
from backends.transformer.rope import interleave

_INDEXES = ("transformers.safetensors.index.json", "model.safetensors.index.json")
_INSIDE_CSM = "codec_model."
_MOSHI_KEY, _TRANSFORMERS_KEY = "encoder.model.0.conv.conv.weight", "encoder.layers.0.conv.weight"
_CODEC_NAME = re.compile(
    r"(en|de)coder(\.(model|layers)\.\d+\.(conv|block)|_transformer\.)|quantizer\.|(down|up)sample\."
)
_MOSHI_NAME = re.compile(r".*(\.model\.|\.conv\.conv\.|\.convtr\.|_transformer\.transformer\.|\.rvq_)")
_STEPS_PER_FRAME = 2  # of the 25 Hz inside per 12.5 Hz frame


# --- configuration ---------------------------------------------------------------------------------------------------


def moshi_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """moshi's configuration from either form, or from a CSM config.json; what is absent is as published.

    Raises ValueError for a codec that is built otherwise than Mimi.
    """
    if "seanet" in values:
        return {key: _over(usual, values.get(key)) for key, usual in _from_transformers({}).items()}
    if "codec_config" in values:
        return _from_transformers(values["codec_config"] or {})
    is_mimi = values.get("model_type") == "mimi" or "num_quantizers" in values or "upsampling_ratios" in values
    return _from_transformers(values if is_mimi else {})


def _over(usual: Any, configured: Any) -> Any:
    """The configured value, or the usual one where there is none; mappings key by key."""
    if isinstance(usual, dict):
        return {**usual, **(configured or {})}
    return usual if configured is None else configured


_BUILT = {  # what transformers could configure and this cannot be built with
    "use_causal_conv": True,
    "pad_mode": "constant",
    "trim_right_ratio": 1.0,
    "hidden_act": "gelu",
    "num_semantic_quantizers": 1,
}


def _from_transformers(values: Mapping[str, Any]) -> dict[str, Any]:
    for name, only in _BUILT.items():
        if values.get(name, only) != only:
            raise ValueError(f"{name} is {values[name]!r}; Mimi has {only!r}")
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


def read_codec_config(config: Mapping[str, Any] | str | Path | None, path: Path) -> dict[str, Any]:
    """moshi's configuration from values, a JSON file, or (None) config.json in or beside `path`.

    The published one if `path` has no config.json. Raises ModelUnavailable.
    """
    if isinstance(config, Mapping):
        return _parsed(config, "the given configuration")
    folder = path if path.is_dir() else path.parent
    file = folder / "config.json" if config is None else Path(config)
    if config is None and not file.is_file():
        return moshi_config({})
    return _parsed(read_json(file), str(file))


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for sizes that no codec has; moshi would build them."""
    seanet, transformer, quantizer = values["seanet"], values["transformer"], values["quantizer"]
    check_size("the number of layers", transformer["num_layers"], MOST_LAYERS)
    check_size("the number of heads", transformer["num_heads"], MOST_HEADS)
    check_size("d_model", transformer["d_model"], MOST_WIDTH)
    check_size("dimension", seanet["dimension"], MOST_WIDTH)
    check_size("n_filters", seanet["n_filters"], MOST_WIDTH)
    check_size("dim_feedforward", transformer["dim_feedforward"], MOST_HIDDEN)
    check_size("the number of residual layers", seanet["n_residual_layers"], MOST_LAYERS)
    check_sizes("the ratios", seanet["ratios"], 1 << 10, count=16)
    for name in ("kernel_size", "residual_kernel_size", "last_kernel_size", "compress", "dilation_base"):
        check_size(name, seanet[name], 1 << 10)
    check_size("the number of codebooks", quantizer["n_q"], 1 << 10)
    check_size("the number of codes", quantizer["bins"], MOST_ROWS)
    check_size("the quantiser's dimension", quantizer["dimension"], MOST_WIDTH)
    check_positive("the frame rate", values["frame_rate"])
    return values


def _parsed(values: Any, source: str) -> dict[str, Any]:
    try:
        return _checked(moshi_config(values))
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelUnavailable(f"{source} is not a configuration of Mimi or CSM: {error!r}") from error


# --- weights ---------------------------------------------------------------------------------------------------------


def open_codec(path: Path) -> Checkpoint:
    """The codec's tensors in a file or folder, in whatever layout. Raises ModelUnavailable if there are none."""
    inside, beside = [], []
    for file in _files(path):
        checkpoint = Checkpoint.from_files([file])
        if any(name.startswith(_INSIDE_CSM) for name in checkpoint.names):
            inside.append(checkpoint.under(_INSIDE_CSM))
        elif any(_CODEC_NAME.match(name) for name in checkpoint.names):
            beside.append(checkpoint)
    if not inside and not beside:
        raise ModelUnavailable(f"{path} holds no Mimi weights (no tensor {_MOSHI_KEY} or {_TRANSFORMERS_KEY})")
    return _joined(inside or beside)


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    for index in _INDEXES:
        if (path / index).is_file() and (listed := shards(path, index)):
            more = [file for file in sorted(path.glob("*.safetensors")) if file not in listed]
            return [*listed, *more]
    return shards(path)


def _joined(parts: list[Checkpoint]) -> Checkpoint:
    """The first file and those that continue it: a codec may lie in shards, or twice, in both layouts side by side."""
    joined = parts[0]
    for part in parts[1:]:
        if _moshi_layout(part) == _moshi_layout(joined) and not part.names & joined.names:
            joined = joined.joined(part)
    return joined


def _moshi_layout(checkpoint: Checkpoint) -> bool:
    return any(_MOSHI_NAME.match(name) for name in checkpoint.names)


def codec_state(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], heads: int) -> dict[str, Tensor]:
    """moshi's state dict, of exactly these names and shapes, from either layout. Raises ModelUnavailable."""
    tensor = _moshi_tensor if _moshi_layout(checkpoint) else _transformers_tensor
    state = {name: tensor(checkpoint, name, shape, heads).to(torch.float32) for name, shape in shapes.items()}
    checkpoint.finish()
    return state


def _published(name: str) -> str:
    """moshi's own name of a tensor -> the one in its published file, which is older."""
    return name.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0.", "out_proj.")


def _moshi_tensor(checkpoint: Checkpoint, name: str, shape: tuple[int, ...], heads: int) -> Tensor:
    return checkpoint.take(name if name in checkpoint.names else _published(name), shape)


def _transformers_tensor(checkpoint: Checkpoint, name: str, shape: tuple[int, ...], heads: int) -> Tensor:
    renamed = _transformers_name(_published(name))
    if renamed.endswith("self_attn.in_proj_weight"):
        return _fused_qkv(checkpoint, renamed, shape, heads)
    if renamed.endswith("put_proj.weight") and shape[0] == shape[1] and renamed not in checkpoint.names:
        # transformers projects to and from code vectors only if the widths differ.
        return torch.eye(shape[0])[:, :, None]
    return checkpoint.take(renamed, shape)


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
