"""The Llama-family transformer: embeddings in, normalised hidden states out.

Pre-norm blocks of grouped-query attention with rotary positions and a SwiGLU, as in Llama, CSM's two stacks and LLaDA.
Whether it is causal, what is remembered and at which positions the rows stand is the business of the view
(attention.py).
Knows no tokens, no audio, no embedding table and no head: those differ between the models built on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backends.transformer.attention import View
from backends.transformer.cpu_int8.fused import fused_steps
from backends.transformer.linear import Linear, Precision, make_linear
from backends.transformer.rope import Rope, interleave, rotate, rotations

Take = Callable[[str, tuple[int, ...]], Tensor]
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
        for name, shape in _layer_shapes(config).items():
            yield f"layers.{layer}.{name}", shape
    yield "norm", (config.width,)


def _layer_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
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


class RMSNorm:
    """x / rms(x) * weight over the last axis; the mean square is computed in float32."""

    __slots__ = ("_eps", "_least", "_scaled", "_shape", "array", "eps", "weight")

    def __init__(self, weight: Tensor, eps: float) -> None:
        """array, eps: weight and eps in float32, for compiled loops."""
        self.weight, self._eps, self._shape = weight, eps, tuple(weight.shape)
        self.array, self.eps = weight.float().cpu().numpy(), np.float32(eps)
        width = weight.shape[0]
        self._scaled = weight.float() * width**0.5
        self._least = torch.tensor((eps * width) ** 0.5, device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.rms_norm(x, self._shape, self.weight, self._eps)
        # The same by the vector's length, sqrt(width) * rms: a third of the time of the composed operator on a CPU.
        length = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32), self._least)
        scaled = (x / length).mul_(self._scaled)
        return scaled if x.dtype is torch.float32 else scaled.to(x.dtype)


class Block:
    """One layer. qkv and gate_up are fused matrices: fewer, larger products."""

    __slots__ = ("_config", "_split", "attention_norm", "down", "gate_up", "mlp_norm", "o", "qkv")

    def __init__(
        self, config: TransformerConfig, tensors: dict[str, Tensor], linear: Callable[[Tensor], Linear]
    ) -> None:
        self._config = config
        self._split = (config.heads, config.kv_heads, config.kv_heads)
        q, k = tensors["q"], tensors["k"]
        if not config.rope.interleaved:
            q, k = interleave(q, config.heads), interleave(k, config.kv_heads)
        self.attention_norm = RMSNorm(tensors["attention_norm"], config.norm_eps)
        self.mlp_norm = RMSNorm(tensors["mlp_norm"], config.norm_eps)
        self.qkv = linear(torch.cat([q, k, tensors["v"]]))
        self.o, self.down = linear(tensors["o"]), linear(tensors["down"])
        self.gate_up = linear(torch.cat([tensors["gate"], tensors["up"]]))

    def __call__(self, x: Tensor, layer: int, rotary: Tensor, view: View, wanted: Tensor | None = None) -> Tensor:
        """wanted: the rows to give; keys and values are computed and stored for all."""
        attended = self._attention(self.attention_norm(x), layer, rotary, view, wanted)
        x = attended + (x if wanted is None else x[:, wanted])
        return x + self._mlp(self.mlp_norm(x))

    def _attention(self, x: Tensor, layer: int, rotary: Tensor, view: View, wanted: Tensor | None) -> Tensor:
        config = self._config
        heads = self.qkv(x).view(*x.shape[:-1], -1, config.head_dim)
        turned = rotate(heads[:, :, : config.heads + config.kv_heads], rotary)
        q, k = turned[:, :, : config.heads], turned[:, :, config.heads :]
        v = heads[:, :, config.heads + config.kv_heads :]
        q = q if wanted is None else q[:, wanted]
        return self.o(view.attend(layer, q, k, v).flatten(-2))

    def _mlp(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate).mul_(up))

    def bytes(self) -> int:
        return sum(linear.bytes() for linear in (self.qkv, self.o, self.gate_up, self.down))


class Transformer:
    """A stack of blocks and the final norm. Inference only; plain tensors, no autograd, no modules."""

    def __init__(
        self,
        config: TransformerConfig,
        take: Take,
        *,
        precision: Precision,
        device: torch.device | str = "cpu",
        rows: int = 0,
        place: Callable[[int, Tensor], Linear] | None = None,
    ) -> None:
        """take: where tensors come from (see Checkpoint.reader); rows: pads dense products to a fixed shape
        (linear.py); place: makes the linear layers of the block of that number, where they differ (offloading).
        """
        self.config, self.device, self.dtype = config, torch.device(device), precision.compute
        self._table = rotations(config.rope, config.head_dim, config.max_positions, device)

        def small(name: str, shape: tuple[int, ...]) -> Tensor:
            return take(name, shape).to(device, precision.compute, copy=True)

        def linear(layer: int, weight: Tensor) -> Linear:
            return place(layer, weight) if place else make_linear(weight, precision, device, rows)

        self.blocks = [self._block(layer, take, small, partial(linear, layer)) for layer in range(config.layers)]
        self.norm = RMSNorm(small("norm", (config.width,)), config.norm_eps)
        self._fused = fused_steps(config, self.blocks, self._table)

    def _block(self, layer: int, take: Take, small: Take, linear: Callable[[Tensor], Linear]) -> Block:
        shapes = _layer_shapes(self.config)
        tensors = {
            name: (small if len(shape) == 1 else take)(f"layers.{layer}.{name}", shape)
            for name, shape in shapes.items()
        }
        return Block(self.config, tensors, linear)

    @torch.inference_mode()
    def __call__(self, x: Tensor, view: View, wanted: Tensor | None = None) -> Tensor:
        """Hidden states [batch, time, width] after the final norm, for input embeddings x of the same shape.

        wanted: int64 indices into the time axis whose hidden states are needed; the last layer computes no others. The
        view must expect so many queries.
        """
        x = x.to(self.dtype)
        if self._fused is not None and wanted is None and (row_positions := view.row_positions()) is not None:
            return self._fused(x, row_positions, self.blocks, self.norm)
        rotary = view.rotary(self._table)
        for layer, block in enumerate(self.blocks[:-1]):
            x = block(x, layer, rotary, view)
        return self.norm(self.blocks[-1](x, len(self.blocks) - 1, rotary, view, wanted))

    def bytes(self) -> int:
        """Bytes of the matrices on the device."""
        return sum(block.bytes() for block in self.blocks)
