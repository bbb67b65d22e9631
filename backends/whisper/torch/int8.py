"""int8 weights for transformers' modules: every linear layer becomes one of the shared core's products.

On the CPU activations are quantised as they come, elsewhere only the weights are int8. Knows no audio and no decoding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backends.transformer.linear import make_linear, precision


class Int8Linear(nn.Module):
    """y [..., out] = x [..., in] times the transposed weight [out, in], plus the bias [out] if there is one."""

    def __init__(self, weight: Tensor, bias: Tensor | None, device: torch.device) -> None:
        super().__init__()
        self._product = make_linear(weight.detach(), precision("int8", device), device)
        self._bias = bias

    def forward(self, x: Tensor) -> Tensor:
        y = self._product(x)
        return y if self._bias is None else y + self._bias

    def bytes(self) -> int:
        return self._product.bytes()


def quantise_linears(model: nn.Module, device: torch.device) -> None:
    """Replace every nn.Linear below `model`; what else it holds stays as it is."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Int8Linear(child.weight, child.bias, device))
