"""Limits on what a model's configuration may ask for, checked before anything is built.

A number in a file decides how many layers are made and how much memory is taken: a damaged or hostile one would load
for ever. The limits lie far above every published model (the largest of them has some hundred layers).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from backends.transformer.config import TransformerConfig

MOST_LAYERS = 512
MOST_HEADS = 1024
MOST_WIDTH = 1 << 17  # of a hidden state or a head
MOST_HIDDEN = 1 << 20  # of a feed-forward
MOST_POSITIONS = 1 << 20
MOST_ROWS = 1 << 23  # of an embedding table


def check_size(name: str, value: object, most: int, least: int = 1) -> int:
    """`value` if it is a whole number from `least` to `most`. Raises ValueError, naming it."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {_shown(value)}, not a whole number from {least} to {most}")
    return value


def check_sizes(name: str, values: Iterable[object], most: int, least: int = 1, count: int = 64) -> None:
    """The same for each of at most `count` numbers."""
    listed = list(values)
    if len(listed) > count:
        raise ValueError(f"{name} has {len(listed)} entries; at most {count} are possible")
    for value in listed:
        check_size(name, value, most, least)


def check_positive(name: str, value: object) -> float:
    """`value` if it is a finite number above 0. Raises ValueError, naming it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {_shown(value)}, not a finite number above 0")
    return float(value)


def check_stack(config: TransformerConfig, name: str = "the model") -> TransformerConfig:
    """The configuration, if it can be built. Raises ValueError naming what is out of bounds or does not fit
    together."""
    check_size(f"{name}'s number of layers", config.layers, MOST_LAYERS)
    check_size(f"{name}'s width", config.width, MOST_WIDTH)
    check_size(f"{name}'s number of heads", config.heads, MOST_HEADS)
    check_size(f"{name}'s number of key heads", config.kv_heads, MOST_HEADS)
    check_size(f"{name}'s head_dim", config.head_dim, MOST_WIDTH)
    check_size(f"{name}'s feed-forward width", config.hidden, MOST_HIDDEN)
    check_size(f"{name}'s number of positions", config.max_positions, MOST_POSITIONS)
    check_positive(f"{name}'s norm epsilon", config.norm_eps)
    check_positive(f"{name}'s rope theta", config.rope.theta)
    scaling = config.rope.scaling
    if scaling is not None:
        for part in ("factor", "low_freq_factor", "high_freq_factor", "original_max_positions"):
            check_positive(f"{name}'s rope {part}", getattr(scaling, part))
    if config.heads % config.kv_heads:
        raise ValueError(f"{name}'s {config.heads} heads cannot share {config.kv_heads} key heads")
    if config.head_dim % 2:
        raise ValueError(f"{name}'s head_dim {config.head_dim} is odd")
    return config


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
