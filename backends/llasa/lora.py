"""Variants of one base model: what an adapter changes is its own, everything else is shared with the base."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.llasa.adapters import Adapter
from backends.transformer.attention import View
from backends.transformer.block import Block, RMSNorm
from backends.transformer.checkpoint import llama_names
from backends.transformer.config import TensorReader, TransformerConfig, tensor_shapes
from backends.transformer.linear import Linear
from backends.transformer.model import Transformer
from backends.transformer.rope import interleave


@dataclass(slots=True)
class LoraVariant:
    """The base model, or the base with an adapter merged. row_ids: token id of each row of the head (None: the
    same)."""

    stack: Transformer
    table: Tensor
    head: Linear
    row_ids: Tensor | None

    def hidden(self, ids: Tensor, view: View) -> Tensor:
        """Normalised hidden states [batch, time, width] of token ids [batch, time]."""
        return self.stack(self.table[ids], view)


def weights_of(variant: LoraVariant) -> dict[int, int]:
    """Bytes of each part of a variant by its identity, so that shared parts can be counted once."""
    parts = {
        id(variant.table): variant.table.numel() * variant.table.element_size(),
        id(variant.head): variant.head.bytes(),
    }
    for block in variant.stack.blocks:
        parts.update({id(part): part.bytes() for part in (block.qkv, block.o, block.gate_up, block.down)})
    return parts


def adapted_stack(
    base: Transformer, adapter: Adapter, take: TensorReader, linear: Callable[[Tensor], Linear]
) -> Transformer:
    """The base stack with the matrices that an adapter changes made anew; take: reads merged weights."""
    stack = copy.copy(base)
    if llama_names()("norm") in adapter.changed:
        stack.norm = _norm(base.norm, take(llama_names()("norm"), (base.config.width,)), base.config)
    stack.blocks = [
        _adapted_block(block, layer, base.config, adapter, take, linear) for layer, block in enumerate(base.blocks)
    ]
    return stack


def _adapted_block(
    base: Block,
    layer: int,
    config: TransformerConfig,
    adapter: Adapter,
    take: TensorReader,
    linear: Callable[[Tensor], Linear],
) -> Block:
    names, shapes, block = llama_names(), dict(tensor_shapes(config)), copy.copy(base)

    def part(name: str) -> Tensor:
        canonical = f"layers.{layer}.{name}"
        return take(names(canonical), shapes[canonical]).float()

    def changed(*parts: str) -> bool:
        return any(names(f"layers.{layer}.{name}") in adapter.changed for name in parts)

    if changed("attention_norm"):
        block.attention_norm = _norm(base.attention_norm, part("attention_norm"), config)
    if changed("mlp_norm"):
        block.mlp_norm = _norm(base.mlp_norm, part("mlp_norm"), config)
    if changed("q", "k", "v"):
        parts = (interleave(part("q"), config.heads), interleave(part("k"), config.kv_heads), part("v"))
        block.qkv = linear(torch.cat(parts))
    if changed("o"):
        block.o = linear(part("o"))
    if changed("gate", "up"):
        block.gate_up = linear(torch.cat([part("gate"), part("up")]))
    if changed("down"):
        block.down = linear(part("down"))
    return block


def _norm(base: RMSNorm, weight: Tensor, config: TransformerConfig) -> RMSNorm:
    """A norm with another weight, in the base's dtype and on its device."""
    return RMSNorm(weight.to(base.weight, copy=True), config.norm_eps)
