"""What a CSM checkpoint's config.json says, in either vocabulary: torchtune's (original) or transformers'.

Whatever is absent has the value that the published CSM-1B architecture has, Llama-3 rope scaling included:
transformers' own default there is plain rope, which is another model. Knows no tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.interface import ModelUnavailable
from backends.model_files import read_json
from backends.transformer.bounds import MOST_ROWS, check_size, check_stack
from backends.transformer.config import TransformerConfig
from backends.transformer.rope import Llama3Scaling, Rope

CODEC_IDS = 2048  # what Mimi's codebooks hold; ids from here on are special and are never spoken
_BACKBONE = TransformerConfig(16, 2048, 32, 8, 64, 8192)
_DECODER = TransformerConfig(4, 1024, 8, 2, 128, 8192)
_ROPE_THETA, _SCALING = 500_000.0, Llama3Scaling(32.0, 1.0, 4.0, 8192.0)
_MOST_CODEBOOKS = 256
_FLAVORS = {"llama-1B": _BACKBONE, "llama-100M": _DECODER}


@dataclass(frozen=True, slots=True)
class CsmConfig:
    """codebooks per frame, audio ids per codebook, text ids; backbone over rows, decoder over one frame's codebooks.

    tied: both stacks read the same table of audio embeddings; codec: the Mimi part of config.json, if it has one.
    """

    backbone: TransformerConfig
    decoder: TransformerConfig
    codebooks: int = 32
    audio_vocabulary: int = 2051
    text_vocabulary: int = 128_256
    tied: bool = True
    codec: Mapping[str, Any] | None = None

    @property
    def allowed_codes(self) -> int:
        """Number of ids per codebook that may be sampled."""
        return min(self.audio_vocabulary, CODEC_IDS)


def read_config(folder: Path) -> CsmConfig:
    """The configuration in folder/config.json. Raises ModelUnavailable if it is missing, broken or says nothing of
    CSM."""
    file = folder / "config.json"
    if not file.is_file():
        raise ModelUnavailable(f"{folder} has no config.json")
    values = read_json(file)
    try:
        return parse_config(values)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelUnavailable(f"{file} is not a CSM configuration: {error!r}") from error


def parse_config(values: Mapping[str, Any]) -> CsmConfig:
    """Either vocabulary; transformers' wins where a file holds both. Raises ValueError for something else."""
    if "hidden_size" in values or "depth_decoder_config" in values:
        return _checked(_transformers(values))
    if any(key in values for key in ("backbone", "backbone_flavor", "audio_num_codebooks")):
        return _checked(_original(values))
    raise ValueError(
        "it has neither the keys of the original model (backbone ...) nor those of transformers (hidden_size ...)"
    )


def _transformers(values: Mapping[str, Any]) -> CsmConfig:
    depth = values.get("depth_decoder_config") or {}
    codebooks = int(values.get("num_codebooks", 32))
    positions = int(values.get("max_position_embeddings", 2048))
    return CsmConfig(
        backbone=_transformers_stack(values, _BACKBONE, positions),
        decoder=_transformers_stack(depth, _DECODER, codebooks + 1),
        codebooks=codebooks,
        audio_vocabulary=int(values.get("vocab_size", 2051)),
        text_vocabulary=int(values.get("text_vocab_size", 128_256)),
        tied=bool(values.get("tie_codebooks_embeddings", True)),
        codec=values.get("codec_config"),
    )


def _transformers_stack(values: Mapping[str, Any], usual: TransformerConfig, positions: int) -> TransformerConfig:
    heads, width = int(values.get("num_attention_heads", usual.heads)), int(values.get("hidden_size", usual.width))
    kv_heads = values.get("num_key_value_heads", usual.kv_heads)
    return TransformerConfig(
        layers=int(values.get("num_hidden_layers", usual.layers)),
        width=width,
        heads=heads,
        kv_heads=int(kv_heads or heads),
        head_dim=int(values.get("head_dim") or width // heads),
        hidden=int(values.get("intermediate_size", usual.hidden)),
        norm_eps=float(values.get("rms_norm_eps", usual.norm_eps)),
        max_positions=positions,
        rope=_transformers_rope(values),
    )


def _transformers_rope(values: Mapping[str, Any]) -> Rope:
    """rope_parameters of transformers 5, or rope_theta and rope_scaling of transformers 4."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta", values.get("rope_theta", _ROPE_THETA)))
    kind = rope.get("rope_type", rope.get("type", "llama3"))
    if kind == "default":
        return Rope(theta)
    if kind != "llama3":
        raise ValueError(f"rope type {kind!r} is not one of CSM's")
    return Rope(
        theta,
        Llama3Scaling(
            factor=float(rope.get("factor", _SCALING.factor)),
            low_freq_factor=float(rope.get("low_freq_factor", _SCALING.low_freq_factor)),
            high_freq_factor=float(rope.get("high_freq_factor", _SCALING.high_freq_factor)),
            original_max_positions=float(rope.get("original_max_position_embeddings", _SCALING.original_max_positions)),
        ),
    )


def _original(values: Mapping[str, Any]) -> CsmConfig:
    codebooks = int(values.get("audio_num_codebooks", 32))
    backbone = _original_stack(values.get("backbone"), values.get("backbone_flavor", "llama-1B"))
    decoder = _original_stack(values.get("decoder"), values.get("decoder_flavor", "llama-100M"))
    return CsmConfig(
        backbone=backbone,
        decoder=decoder,
        codebooks=codebooks,
        audio_vocabulary=int(values.get("audio_vocab_size", 2051)),
        text_vocabulary=int(values.get("text_vocab_size", 128_256)),
        codec=values.get("codec_config"),
    )


def _original_stack(values: Mapping[str, Any] | None, flavor: str) -> TransformerConfig:
    if values is None and flavor not in _FLAVORS:
        raise ValueError(f"flavor {flavor!r} is not one of {', '.join(_FLAVORS)}")
    usual, given = _FLAVORS.get(flavor, _BACKBONE), values or {}
    width, heads = int(given.get("embed_dim", usual.width)), int(given.get("num_heads", usual.heads))
    return TransformerConfig(
        layers=int(given.get("num_layers", usual.layers)),
        width=width,
        heads=heads,
        kv_heads=int(given.get("num_kv_heads", usual.kv_heads) or heads),
        head_dim=int(given.get("head_dim") or width // heads),
        hidden=int(given.get("intermediate_dim", usual.hidden)),
        norm_eps=float(given.get("norm_eps", usual.norm_eps)),
        max_positions=int(given.get("max_seq_len", 2048)),
        rope=_original_rope(given),
    )


def _original_rope(given: Mapping[str, Any]) -> Rope:
    factor = float(given.get("rope_scale_factor", given.get("scale_factor", _SCALING.factor)))
    scaling = Llama3Scaling(
        factor=factor,
        low_freq_factor=float(given.get("rope_low_freq_factor", _SCALING.low_freq_factor)),
        high_freq_factor=float(given.get("rope_high_freq_factor", _SCALING.high_freq_factor)),
        original_max_positions=float(given.get("rope_old_context_len", _SCALING.original_max_positions)),
    )
    return Rope(float(given.get("rope_base", _ROPE_THETA)), scaling)


def _checked(config: CsmConfig) -> CsmConfig:
    check_size("the number of codebooks", config.codebooks, _MOST_CODEBOOKS, least=2)
    check_size("the audio vocabulary", config.audio_vocabulary, MOST_ROWS)
    check_size("the text vocabulary", config.text_vocabulary, MOST_ROWS)
    check_stack(config.backbone, "the backbone")
    check_stack(config.decoder, "the decoder")
    return config
