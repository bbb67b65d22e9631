"""Offloading: which layers stay in the processor's memory because they do not fit the device, and how they run.

The choice is accelerate's device map over an empty copy of the stack; the weights of an offloaded layer are sent to the
device for each product and forgotten. Knows shapes and bytes only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import infer_auto_device_map
from torch import Tensor, nn
from torch.nn import functional as F

from backends.interface import OutOfMemory
from backends.transformer.config import TransformerConfig, tensor_shapes
from backends.transformer.linear import Linear, Precision, make_linear, quantised_rows

MakeLayer = Callable[[int, Tensor], Linear]
_RESERVED = 0.10  # of the budget: activations, keys and values, the allocator's own needs


@dataclass(frozen=True, slots=True)
class Offload:
    """layers: indices of those that stay in the processor's memory; table: the embedding table stays there too."""

    layers: frozenset[int]
    table: bool = False

    def linear_factory(self, precision: Precision, device: torch.device) -> MakeLayer:
        """Makes a linear layer of the block of a number: streamed if the block is offloaded, else on the device."""

        def make(layer: int, weight: Tensor) -> Linear:
            offloaded = layer in self.layers
            return Streamed(weight, precision, device) if offloaded else make_linear(weight, precision, device)

        return make


class Streamed:
    """A weight in the processor's memory that is copied to the device for every product. bytes: on the device, so
    none."""

    __slots__ = ("_device", "_scale", "_weight")

    def __init__(self, weight: Tensor, precision: Precision, device: torch.device) -> None:
        self._device, self._scale = device, None
        if precision.weights != "dense":
            weight, scale = quantised_rows(weight)
            self._scale = scale.to(device, precision.compute)
        else:
            weight = weight.to("cpu", precision.compute, copy=True)
        # Pinned pages can be copied while the device computes.
        self._weight = weight.pin_memory() if device.type == "cuda" else weight

    def __call__(self, x: Tensor) -> Tensor:
        weight = self._weight.to(self._device, non_blocking=True).to(x.dtype)
        y = F.linear(x, weight)
        return y if self._scale is None else y * self._scale

    def bytes(self) -> int:
        return 0


def plan(config: TransformerConfig, rows: int, precision: Precision, budget: int, other_bytes: int) -> Offload | None:
    """The smallest offload with which the rest fits `budget` bytes; None if everything fits.

    rows: of the embedding table and of the head; other_bytes: what else lives on the device (encoder and adapters).
    Raises OutOfMemory if the budget has no room for any part of the model.
    """
    usable = int(budget * (1 - _RESERVED)) - other_bytes
    # accelerate keeps room for the largest layer free, which is what a streamed one needs.
    device_map = infer_auto_device_map(
        MetaModel(config, rows, precision),
        max_memory={0: max(usable, 0), "cpu": 1 << 50},
        no_split_module_classes=[MetaLayer.__name__],
    )
    offloaded = {name for name, device in device_map.items() if device != 0}
    if not offloaded:
        return None
    if len(offloaded) == len(device_map):
        raise OutOfMemory(
            f"a budget of {budget} bytes has no room for this model beside {other_bytes} bytes of audio encoder"
        )
    layers = (
        range(config.layers)
        if "layers" in offloaded
        else (n for n in range(config.layers) if f"layers.{n}" in offloaded)
    )
    return Offload(frozenset(layers), table="table" in offloaded)


class MetaLayer(nn.Module):
    """The sizes of one layer, without its weights."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], precision: Precision) -> None:
        super().__init__()
        for name, shape in shapes.items():
            kind = torch.int8 if len(shape) > 1 and precision.weights != "dense" else precision.compute
            self.register_parameter(name, _on_meta(shape, kind))


class MetaModel(nn.Module):
    """The sizes of the language model in the order in which its parts deserve room on the device."""

    def __init__(self, config: TransformerConfig, rows: int, precision: Precision) -> None:
        super().__init__()
        layers: list[dict[str, tuple[int, ...]]] = [{} for _ in range(config.layers)]
        for name, shape in tensor_shapes(config):
            if name.startswith("layers."):
                _, layer, part = name.split(".")
                layers[int(layer)][part] = shape
        self.head = _on_meta((rows, config.width), torch.int8 if precision.weights != "dense" else precision.compute)
        self.layers = nn.ModuleList(MetaLayer(shapes, precision) for shapes in layers)
        self.norm = _on_meta((config.width,), precision.compute)
        self.table = _on_meta((rows, config.width), precision.compute)


def _on_meta(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
