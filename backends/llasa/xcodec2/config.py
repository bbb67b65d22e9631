"""The dimensions of an X-Codec-2 checkpoint, from either of the two kinds of config.json.

The published (legacy) file names three widths and leaves the rest to the code; transformers' native file names all of
them. Both say model_type "xcodec2", so they are told apart by their keys, independently of how the tensors are named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

SAMPLE_RATE = 16_000  # Hz, in and out
SEMANTIC_LAYERS = 16  # the hidden state that the codec was trained on; layers above it are dead weight
_SEMANTIC_FILE = "semantic_config.json"


@dataclass(frozen=True, slots=True)
class CodecDimensions:
    """Widths and counts; the defaults are the published model's.

    width, depth, heads, head_dim, hidden: the decoder's transformer; fsq_width: width around the quantiser;
    encoder_width: channels of the first acoustic convolution; acoustic_width: channels it ends with; strides: of its
    blocks, their product is the hop in samples; semantic: keys of transformers' Wav2Vec2BertConfig.
    """

    width: int = 1024
    depth: int = 12
    heads: int = 16
    head_dim: int = 64
    hidden: int = 4096
    norm_eps: float = 1e-6
    levels: tuple[int, ...] = (4,) * 8
    fsq_width: int = 2048
    encoder_width: int = 48
    acoustic_width: int = 1024
    strides: tuple[int, ...] = (2, 2, 4, 4, 5)
    dilations: tuple[int, ...] = (1, 3, 9)
    semantic_width: int = 1024
    semantic_layers: int = SEMANTIC_LAYERS
    semantic: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def n_fft(self) -> int:
        return 4 * self.hop

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)


def read_dims(folder: Path) -> CodecDimensions:
    """The dimensions that a codec folder states. Raises ModelUnavailable for a file that is missing or of another
    model."""
    config = read_json(folder / "config.json")
    if config.get("model_type") not in ("xcodec2", "xcodec"):
        raise ModelUnavailable(
            f"{folder / 'config.json'} describes {config.get('model_type')!r}, not an X-Codec-2 codec"
        )
    rate = config.get("sampling_rate", config.get("fixture_dims", {}).get("sampling_rate", SAMPLE_RATE))
    if rate != SAMPLE_RATE:
        raise ModelUnavailable(
            f"{folder} is a {rate} Hz variant of X-Codec-2; only the {SAMPLE_RATE} Hz codec is supported"
        )
    semantic = read_json(folder / _SEMANTIC_FILE) if (folder / _SEMANTIC_FILE).is_file() else {}
    try:
        legacy = "codec_decoder_hidden_size" in config or "fixture_dims" in config
        return _checked(_legacy(config, semantic) if legacy else _native(config, semantic))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ModelUnavailable(
            f"{folder / 'config.json'} is not a usable X-Codec-2 configuration: {error!r}"
        ) from error


def _checked(dims: CodecDimensions) -> CodecDimensions:
    """Raises ValueError for sizes that no codec has."""
    check_size("the number of layers", dims.depth, MOST_LAYERS)
    check_size("the number of semantic layers", dims.semantic_layers, MOST_LAYERS)
    check_size("the number of heads", dims.heads, MOST_HEADS)
    for name in ("width", "head_dim", "fsq_width", "encoder_width", "acoustic_width", "semantic_width"):
        check_size(name, getattr(dims, name), MOST_WIDTH)
    check_size("the feed-forward width", dims.hidden, MOST_HIDDEN)
    check_positive("the norm epsilon", dims.norm_eps)
    check_sizes("the quantiser's levels", dims.levels, 1 << 10, least=2, count=16)
    check_sizes("the strides", dims.strides, 1 << 10, count=16)
    check_sizes("the dilations", dims.dilations, 1 << 10, count=16)
    check_size("the samples per frame", dims.hop, 1 << 16)
    check_size("the number of codes", dims.codebook, MOST_ROWS)
    if not isinstance(dims.semantic, Mapping):
        raise TypeError("the semantic model's configuration is no object")
    check_size("num_hidden_layers of the semantic model", dims.semantic.get("num_hidden_layers", 1), MOST_LAYERS)
    return dims


def _legacy(config: Mapping[str, Any], semantic: Mapping[str, Any]) -> CodecDimensions:
    known = config.get("fixture_dims", {})
    semantic = {**known.get("semantic", {}), **semantic}
    width = known.get("decoder_hidden", config.get("codec_decoder_hidden_size", 1024))
    heads = known.get("decoder_heads", 16)
    return CodecDimensions(
        width=width,
        depth=known.get("decoder_depth", 12),
        heads=heads,
        head_dim=width // heads,
        hidden=4 * width,
        levels=tuple(known.get("fsq_levels", (4,) * 8)),
        fsq_width=known.get("fsq_dim", 2048),
        encoder_width=known.get("encoder_ngf", 48),
        acoustic_width=config.get("codec_encoder_hidden_size", 1024),
        strides=tuple(known.get("up_ratios", (2, 2, 4, 4, 5))),
        dilations=tuple(known.get("dilations", (1, 3, 9))),
        semantic_width=config.get("semantic_hidden_size", semantic.get("hidden_size", 1024)),
        semantic_layers=known.get("semantic", {}).get("hidden_state_index", SEMANTIC_LAYERS),
        semantic=semantic,
    )


def _native(config: Mapping[str, Any], semantic: Mapping[str, Any]) -> CodecDimensions:
    semantic = {**semantic, **(config.get("semantic_model_config") or {})}
    width, heads = config.get("hidden_size", 1024), config.get("num_attention_heads", 16)
    return CodecDimensions(
        width=width,
        depth=config.get("num_hidden_layers", 12),
        heads=heads,
        head_dim=config.get("head_dim", 64) or width // heads,  # absent: the class's default; null: derived
        hidden=config.get("intermediate_size", 4096),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        levels=tuple(config.get("quantization_levels", (4,) * 8)),
        fsq_width=config.get("quantization_dim", 2048),
        encoder_width=config.get("encoder_hidden_size", 48),
        acoustic_width=width,
        strides=tuple(config.get("downsampling_ratios", (2, 2, 4, 4, 5))),
        semantic_width=semantic.get("hidden_size", 1024),
        semantic_layers=semantic.get("num_hidden_layers", SEMANTIC_LAYERS),
        semantic=semantic,
    )
