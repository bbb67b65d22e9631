"""The Llama-family transformer: embeddings in, normalised hidden states out.

Pre-norm blocks of grouped-query attention with rotary positions and a SwiGLU, as in Llama, CSM's two stacks and LLaDA.
Whether it is causal, what is cached and which positions the rows have is the business of the view
(attention.py). Knows no tokens, no audio, no embedding table and no head: those differ between the models built on it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from backends.transformer.attention import View
from backends.transformer.block import Block, RMSNorm
from backends.transformer.config import TensorReader, TransformerConfig, layer_shapes
from backends.transformer.cpu_int8.fused import fused_steps
from backends.transformer.linear import Linear, Precision, make_linear
from backends.transformer.rope import rotations


class Transformer:
    """A stack of blocks and the final norm. Inference only; plain tensors, no autograd, no modules."""

    def __init__(
        self,
        config: TransformerConfig,
        take: TensorReader,
        *,
        precision: Precision,
        device: torch.device | str = "cpu",
        rows: int = 0,
        linear_factory: Callable[[int, Tensor], Linear] | None = None,
    ) -> None:
        """take: where tensors come from (see Checkpoint.reader); rows: pads dense products to a fixed shape
        (linear.py); linear_factory: makes the linear layers of the block of that number in another way (offloading).
        """
        self.config, self.device, self.dtype = config, torch.device(device), precision.compute
        self._table = rotations(config.rope, config.head_dim, config.max_positions, device)

        def small(name: str, shape: tuple[int, ...]) -> Tensor:
            return take(name, shape).to(device, precision.compute, copy=True)

        def linear(layer: int, weight: Tensor) -> Linear:
            if linear_factory is not None:
                return linear_factory(layer, weight)
            return make_linear(weight, precision, device, rows)

        self.blocks = [self._block(layer, take, small, partial(linear, layer)) for layer in range(config.layers)]
        self.norm = RMSNorm(small("norm", (config.width,)), config.norm_eps)
        self._fused = fused_steps(config, self.blocks, self._table)

    def _block(self, layer: int, take: TensorReader, small: TensorReader, linear: Callable[[Tensor], Linear]) -> Block:
        shapes = layer_shapes(self.config)
        tensors = {
            name: (small if len(shape) == 1 else take)(f"layers.{layer}.{name}", shape)
            for name, shape in shapes.items()
        }
        return Block(self.config, tensors, linear)

    @torch.inference_mode()
    def __call__(self, x: Tensor, view: View, rows: Tensor | None = None) -> Tensor:
        """Hidden states [batch, time, width] after the final norm, for input embeddings x of the same shape.

        rows: int64 indices into the time axis whose hidden states are needed; the last layer computes no others. The
        view must expect so many queries.
        """
        x = x.to(self.dtype)
        if self._fused is not None and rows is None and (row_positions := view.row_positions()) is not None:
            return self._fused(x, row_positions, self.blocks, self.norm)
        rotary = view.rotary(self._table)
        for layer, block in enumerate(self.blocks[:-1]):
            x = block(x, layer, rotary, view)
        return self.norm(self.blocks[-1](x, len(self.blocks) - 1, rotary, view, rows))

    def bytes(self) -> int:
        """Bytes of the matrices on the device."""
        return sum(block.bytes() for block in self.blocks)
