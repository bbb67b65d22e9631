"""The language model's dimensions, from a Hugging Face Llama config.json of either generation of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.interface import ModelUnavailable
from backends.llasa.info import MOST_POSITIONS
from backends.model_files import read_json
from backends.transformer.bounds import MOST_ROWS, check_size, check_stack
from backends.transformer.config import TransformerConfig
from backends.transformer.rope import Llama3Scaling, Rope

_USUAL = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}


@dataclass(frozen=True, slots=True)
class LanguageConfig:
    """stack: the transformer; vocabulary: rows of the embedding table; tied: the head shares it."""

    stack: TransformerConfig
    vocabulary: int
    tied: bool


def read_language_config(folder: Path) -> LanguageConfig:
    """Raises ModelUnavailable for a file that is missing, broken, or of another architecture."""
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type") != "llama":
        raise ModelUnavailable(f"{path} describes {config.get('model_type')!r}; LLASA is a Llama model")
    for key, usual in _USUAL.items():
        if config.get(key, usual) != usual:
            raise ModelUnavailable(f"{path} sets {key} to {config[key]!r}, which no LLASA checkpoint has")
    try:
        return _read(config)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ModelUnavailable(f"{path} is not a usable Llama configuration: {error!r}") from error


def _read(config: Mapping[str, Any]) -> LanguageConfig:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    stack = TransformerConfig(
        layers=config["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or width // heads,
        hidden=config["intermediate_size"],
        norm_eps=config.get("rms_norm_eps", 1e-6),
        max_positions=MOST_POSITIONS,
        rope=_rope(config),
    )
    rows = check_size("vocab_size", config["vocab_size"], MOST_ROWS)
    return LanguageConfig(check_stack(stack), rows, bool(config.get("tie_word_embeddings", False)))


def _rope(config: Mapping[str, Any]) -> Rope:
    """Transformers 5 has rope_parameters; before, rope_theta stood beside rope_scaling."""
    stated = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = stated.get("rope_theta", config.get("rope_theta", 10_000.0))
    kind = stated.get("rope_type", stated.get("type", "default"))
    if kind == "default":
        return Rope(theta)
    if kind != "llama3":
        raise ValueError(f"rope type {kind!r} is not supported")
    original = stated.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    if original is None:
        raise KeyError("original_max_position_embeddings")
    return Rope(theta, Llama3Scaling(stated["factor"], stated["low_freq_factor"], stated["high_freq_factor"], original))
