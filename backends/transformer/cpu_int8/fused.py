"""Decode steps of an int8 stack on the CPU with what lies between its products compiled; loops.py has the arithmetic.

A layer is four products and four calls here instead of some fifty operators, and computes what model.Block does within
float32 rounding. Owns the rooms that those calls work in and the decision whether they can be used: without numba, or where
it fails, `kernels` logs why and gives None, and everything runs as plain torch operators.

Steps and short causal spans come here: the views that can say which row stands where (`View.places`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.transformer.cpu_int8.kernels import kernels
from backends.transformer.linear import Int8Dynamic

if TYPE_CHECKING:
    from backends.transformer.attention import Places
    from backends.transformer.model import Block, RMSNorm, TransformerConfig

Floats = NDArray[np.float32]


class Rooms:
    """Where one number of rows is computed: the rows' state, their peaks, and an input room for every width."""

    def __init__(self, rows: int, config: TransformerConfig) -> None:
        self.x = np.empty((rows, config.width), np.float32)
        self.nothing = np.zeros((rows, config.width), np.float32)
        self.peaks = np.zeros(rows, np.float32)
        made = {width: Int8Dynamic.room(rows, width) for width in {config.width, config.heads * config.head_dim, config.hidden}}
        self.inputs = {width: (room, room.numpy()) for width, room in made.items()}


class FusedSteps:
    """The step of a stack of that shape. Holds no weights: stacks that share blocks may share it. For one thread."""

    def __init__(self, config: TransformerConfig, table: Tensor, loops: ModuleType) -> None:
        """table: the rotations of all positions, complex64 [max_positions, head_dim / 2]."""
        self._config, self._loops = config, loops
        self._turns: Floats = torch.view_as_real(table).flatten(1).numpy()
        self._rooms: dict[int, Rooms] = {}
        self._scores = np.empty((config.heads // config.kv_heads, config.max_positions), np.float32)

    @torch.inference_mode()
    def __call__(self, x: Tensor, places: Places, blocks: Sequence[Block], norm: RMSNorm) -> Tensor:
        """Hidden states after the final norm, of inputs x float32 [batch, time, width] in the order of `places`."""
        width, loops = self._config.width, self._loops
        count = len(places.slots)
        if places.last >= len(self._turns):
            raise ValueError(f"position {places.last} in a model of {len(self._turns)}")
        rooms = self._room(count)
        room, room_array = rooms.inputs[width]
        state, peaks = rooms.x, rooms.peaks
        state[:] = x.reshape(count, width).numpy()
        product, scale = rooms.nothing, rooms.nothing[0]
        for layer, block in enumerate(blocks):
            loops.add_norm(state, product, scale, peaks, block.attention_norm.array, block.attention_norm.eps, room_array)
            product, scale = self._attention(block, layer, room, rooms, places)
            loops.add_norm(state, product, scale, peaks, block.mlp_norm.array, block.mlp_norm.eps, room_array)
            product, scale = self._mlp(block, room, rooms)
        out = torch.empty(x.shape)
        loops.add_norm_out(state, product, scale, peaks, norm.array, norm.eps, out.view(count, width).numpy())
        return out

    def _attention(self, block: Block, layer: int, room: Tensor, rooms: Rooms, places: Places) -> tuple[Floats, Floats]:
        """The output projection's raw product and its scale."""
        qkv, o = block.qkv, block.o
        assert isinstance(qkv, Int8Dynamic)  # noqa: S101
        assert isinstance(o, Int8Dynamic)  # noqa: S101
        keys, values = places.arrays[layer]
        into, into_array = rooms.inputs[self._config.heads * self._config.head_dim]
        raw = qkv.raw(room).numpy()
        where = (keys, values, places.slots, places.positions)
        self._loops.attend(raw, qkv.scales, rooms.peaks, self._turns, *where, self._scores, into_array)
        return o.raw(into).numpy(), o.scales

    def _mlp(self, block: Block, room: Tensor, rooms: Rooms) -> tuple[Floats, Floats]:
        gate_up, down = block.gate_up, block.down
        assert isinstance(gate_up, Int8Dynamic)  # noqa: S101
        assert isinstance(down, Int8Dynamic)  # noqa: S101
        into, into_array = rooms.inputs[self._config.hidden]
        self._loops.gate(gate_up.raw(room).numpy(), gate_up.scales, rooms.peaks, into_array)
        return down.raw(into).numpy(), down.scales

    def _room(self, count: int) -> Rooms:
        if count not in self._rooms:
            self._rooms[count] = Rooms(count, self._config)
        return self._rooms[count]


def fused_steps(config: TransformerConfig, blocks: Sequence[Block], table: Tensor) -> FusedSteps | None:
    """For a stack all of whose products are int8 with dynamic activations; None for others, or without the loops."""
    linears = (linear for block in blocks for linear in (block.qkv, block.o, block.gate_up, block.down))
    if not all(isinstance(linear, Int8Dynamic) for linear in linears):
        return None
    loops = kernels()
    return None if loops is None else FusedSteps(config, table, loops)
