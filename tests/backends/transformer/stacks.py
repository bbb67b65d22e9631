"""Small random stacks for the tests of the core."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from backends.transformer.config import TransformerConfig, tensor_shapes
from backends.transformer.linear import Precision
from backends.transformer.model import Transformer
from backends.transformer.rope import Llama3Scaling, Rope

SMALL = TransformerConfig(
    layers=2,
    width=32,
    heads=4,
    kv_heads=2,
    head_dim=8,
    hidden=64,
    max_positions=64,
    rope=Rope(10_000.0, Llama3Scaling(8.0, 1.0, 4.0, 32)),
)
FULL_HEADS = replace(SMALL, kv_heads=4, rope=Rope(500_000.0))
FLOAT = Precision(torch.float32)


def random_tensors(config: TransformerConfig, seed: int = 0) -> dict[str, Tensor]:
    """Canonical name -> random tensor."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in tensor_shapes(config):
        drawn = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.1 * drawn if len(shape) == 1 else drawn * shape[1] ** -0.5
    return tensors


def stack(config: TransformerConfig = SMALL, precision: Precision = FLOAT, rows: int = 0) -> Transformer:
    tensors = random_tensors(config)
    return Transformer(config, lambda name, _shape: tensors[name], precision=precision, rows=rows)


def embeddings(batch: int, time: int, width: int = 32, seed: int = 1) -> Tensor:
    return torch.randn(batch, time, width, generator=torch.Generator().manual_seed(seed))
