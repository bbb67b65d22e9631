"""The shape of a Llama-family stack, and the names and shapes of the tensors that it is loaded from.

Knows no tensor values and no kind of checkpoint: checkpoint.py maps the canonical names to those of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from backends.transformer.rope import Rope

TensorReader = Callable[[str, tuple[int, ...]], Tensor]
"""Gives the tensor of a canonical name, of exactly that shape, or raises an error that names it."""


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """layers, width, heads, kv_heads, head_dim; hidden: SwiGLU width; max_positions: rows of the rotation table."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    norm_eps: float = 1e-5
    max_positions: int = 2048
    rope: Rope = field(default_factory=Rope)


def tensor_shapes(config: TransformerConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Canonical name and shape of every tensor of the stack: "layers.0.q", "layers.0.gate", ..., "norm"."""
    for layer in range(config.layers):
        for name, shape in layer_shapes(config).items():
            yield f"layers.{layer}.{name}", shape
    yield "norm", (config.width,)


def layer_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Part and shape of every tensor of one layer; matrices are [out, in]."""
    width, queries, keys = config.width, config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {
        "attention_norm": (width,),
        "q": (queries, width),
        "k": (keys, width),
        "v": (keys, width),
        "o": (width, queries),
        "mlp_norm": (width,),
        "gate": (config.hidden, width),
        "up": (config.hidden, width),
        "down": (width, config.hidden),
    }
