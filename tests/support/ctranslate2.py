"""Writes small Whispers in CTranslate2's container, from the published layout: what faster-whisper's converter would
make."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

TYPES = {"<f4": 0, "|i1": 1, "<i2": 2, "<i4": 3, "<f2": 4, "<u2": 5}  # the last stands for bfloat16
KINDS = ("float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16")
_FLAGS = {
    "pre_norm": 1,
    "activation": 3,
    "scale_embeddings": 0,
    "alibi": 0,
    "start_from_zero_embedding": 0,
    "alignment_heads": 1,
}
_LINEAR = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
_NORMS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
}
_SCALED = ("linear_", "conv", "embeddings/weight")

Arrays = dict[str, np.ndarray]


def text(value: str) -> bytes:
    return struct.pack("<H", len(value.encode()) + 1) + value.encode() + b"\0"


def variable(name: str, value: np.ndarray) -> bytes:
    head = struct.pack("<B", value.ndim) + b"".join(struct.pack("<I", size) for size in value.shape)
    return text(name) + head + struct.pack("<BI", TYPES[value.dtype.str], value.nbytes) + value.tobytes()


def container(
    variables: Mapping[str, np.ndarray],
    aliases: Mapping[str, str] | None = None,
    *,
    version: int = 6,
    kind: str = "WhisperSpec",
    revision: int = 3,
) -> bytes:
    """The bytes of a model.bin."""
    parts = [struct.pack("<I", version), text(kind), struct.pack("<II", revision, len(variables))]
    parts += [variable(name, value) for name, value in variables.items()]
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"} if aliases is None else aliases
    return b"".join([*parts, struct.pack("<I", len(aliases)), *(text(a) + text(n) for a, n in aliases.items())])


def arrays(folder: Path, kind: str = "float32") -> Arrays:
    """The variables of a published folder. kind: one of KINDS."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = {name.removeprefix("model."): value for name, value in load_file(folder / "model.safetensors").items()}
    made: Arrays = {}
    for side in ("encoder", "decoder"):
        made[f"{side}/num_heads"] = np.array(config[f"{side}_attention_heads"], np.int16)
        for layer in range(config[f"{side}_layers"]):
            made |= _layer(weights, side, layer)
        made |= _norm(weights, f"{side}/layer_norm", f"{side}.layer_norm")
        made[f"{side}/position_encodings/encodings"] = weights[f"{side}.embed_positions.weight"]
    made |= {f"decoder/{name}": np.array(value, np.int8) for name, value in _FLAGS.items()}
    for conv in ("conv1", "conv2"):
        made |= {f"encoder/{conv}/{part}": weights[f"encoder.{conv}.{part}"] for part in ("weight", "bias")}
    made["decoder/embeddings/weight"] = weights["decoder.embed_tokens.weight"]
    return _stored(
        {name: value if value.dtype.kind == "i" else value.astype(np.float32) for name, value in made.items()}, kind
    )


def _layer(weights: Mapping[str, np.ndarray], side: str, layer: int) -> Arrays:
    ours, published = f"{side}/layer_{layer}", f"{side}.layers.{layer}"
    made: Arrays = {}
    for stored, names in _LINEAR.items():
        if f"{published}.{names[0]}.weight" not in weights:
            continue  # the encoder has no cross attention
        matrices = [weights[f"{published}.{name}.weight"] for name in names]
        biases = [
            weights.get(f"{published}.{n}.bias", np.zeros(len(m), m.dtype))
            for n, m in zip(names, matrices, strict=True)
        ]
        made |= {f"{ours}/{stored}/weight": np.concatenate(matrices), f"{ours}/{stored}/bias": np.concatenate(biases)}
    for stored, name in _NORMS.items():
        if f"{published}.{name}.weight" in weights:
            made |= _norm(weights, f"{ours}/{stored}", f"{published}.{name}")
    return made


def _norm(weights: Mapping[str, np.ndarray], stored: str, published: str) -> Arrays:
    return {f"{stored}/gamma": weights[f"{published}.weight"], f"{stored}/beta": weights[f"{published}.bias"]}


def _stored(made: Arrays, kind: str) -> Arrays:
    """In the number formats of a kind: products quantised, everything else as floats of the width that it names."""
    width = {"float16": "float16", "int8_float16": "float16", "bfloat16": "bfloat16"}.get(kind, "float32")
    result: Arrays = {}
    for name, value in made.items():
        if value.dtype.kind != "f":
            result[name] = value
        elif kind.startswith("int") and any(word in name for word in _SCALED) and name.endswith("weight"):
            result |= _int16(name, value) if kind == "int16" else _int8(name, value)
        else:
            result[name] = narrowed(value, width)
    return result


def _int8(name: str, value: np.ndarray) -> Arrays:
    rows = value.reshape(len(value), -1)
    scale = (127 / np.where(rows.any(axis=1), np.abs(rows).max(axis=1), 127)).astype(np.float32)
    return {name: np.rint(rows * scale[:, None]).astype(np.int8).reshape(value.shape), f"{name}_scale": scale}


def _int16(name: str, value: np.ndarray) -> Arrays:
    scale = np.array(1024 / np.abs(value).max(), np.float32)
    return {name: np.rint(value * scale).astype(np.int16), f"{name}_scale": scale}


def narrowed(value: np.ndarray, width: str) -> np.ndarray:
    """bfloat16 by rounding to the nearest, ties to even."""
    if width != "bfloat16":
        return value.astype(width)
    bits = np.ascontiguousarray(value).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def config(folder: Path) -> dict[str, Any]:
    """What stands in config.json beside the container."""
    published = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    return {
        "alignment_heads": published.get("alignment_heads"),
        "lang_ids": sorted((published.get("lang_to_id") or {}).values()),
        "suppress_ids": published["suppress_tokens"],
        "suppress_ids_begin": published["begin_suppress_tokens"],
    }


def write_folder(source: Path, target: Path, kind: str = "float32") -> Path:
    """A CTranslate2 folder of the published one in `source`."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "model.bin").write_bytes(container(arrays(source, kind)))
    (target / "config.json").write_text(json.dumps(config(source)), encoding="utf-8")
    shutil.copy(source / "tokenizer.json", target / "tokenizer.json")
    return target
