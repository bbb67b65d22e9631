"""One layer of the stack, and its norm: grouped-query attention with rotary positions, then a SwiGLU, both pre-norm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backends.transformer.attention import View
from backends.transformer.config import TransformerConfig
from backends.transformer.linear import Linear
from backends.transformer.rope import interleave, rotate


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

    __slots__ = ("_config", "attention_norm", "down", "gate_up", "mlp_norm", "o", "qkv")

    def __init__(
        self, config: TransformerConfig, tensors: dict[str, Tensor], linear: Callable[[Tensor], Linear]
    ) -> None:
        self._config = config
        q, k = tensors["q"], tensors["k"]
        if not config.rope.interleaved:
            q, k = interleave(q, config.heads), interleave(k, config.kv_heads)
        self.attention_norm = RMSNorm(tensors["attention_norm"], config.norm_eps)
        self.mlp_norm = RMSNorm(tensors["mlp_norm"], config.norm_eps)
        self.qkv = linear(torch.cat([q, k, tensors["v"]]))
        self.o, self.down = linear(tensors["o"]), linear(tensors["down"])
        self.gate_up = linear(torch.cat([tensors["gate"], tensors["up"]]))

    def __call__(self, x: Tensor, layer: int, rotary: Tensor, view: View, rows: Tensor | None = None) -> Tensor:
        """rows: the only ones to compute the output of; keys and values are computed and stored for all."""
        attended = self._attention(self.attention_norm(x), layer, rotary, view, rows)
        x = attended + (x if rows is None else x[:, rows])
        return x + self._mlp(self.mlp_norm(x))

    def _attention(self, x: Tensor, layer: int, rotary: Tensor, view: View, rows: Tensor | None) -> Tensor:
        config = self._config
        heads = self.qkv(x).view(*x.shape[:-1], -1, config.head_dim)
        rotated = rotate(heads[:, :, : config.heads + config.kv_heads], rotary)
        q, k = rotated[:, :, : config.heads], rotated[:, :, config.heads :]
        v = heads[:, :, config.heads + config.kv_heads :]
        q = q if rows is None else q[:, rows]
        return self.o(view.attend(layer, q, k, v).flatten(-2))

    def _mlp(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate).mul_(up))

    def bytes(self) -> int:
        return sum(linear.bytes() for linear in (self.qkv, self.o, self.gate_up, self.down))
