"""Decode steps of an int8 stack on the CPU, with the arithmetic between its products compiled (loops.py).

A layer is four products and four calls here instead of some fifty operators, and computes what block.Block does within
float32 rounding. Owns the workspaces of those calls and the decision whether they are used: without numba, or where it
fails, `kernels` logs why and gives None, and everything runs as plain torch operators.

Only steps and short causal spans run here: the views that give `row_positions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from backends.transformer.attention import RowPositions
from backends.transformer.block import Block, RMSNorm
from backends.transformer.config import TransformerConfig
from backends.transformer.cpu_int8.arrays import Floats, KVRows
from backends.transformer.cpu_int8.kernels import kernels
from backends.transformer.linear import Int8Dynamic


class Workspaces:
    """The buffers for one number of rows: hidden state, absmax, and a product's input for every width."""

    def __init__(self, rows: int, config: TransformerConfig) -> None:
        self.x = np.empty((rows, config.width), np.float32)
        self.zeros = np.zeros((rows, config.width), np.float32)
        self.absmax = np.zeros(rows, np.float32)
        made = {
            width: Int8Dynamic.workspace(rows, width)
            for width in {config.width, config.heads * config.head_dim, config.hidden}
        }
        self.inputs = {width: (workspace, workspace.numpy()) for width, workspace in made.items()}


class FusedSteps:
    """Runs one decode step with the compiled loops. Holds no weights: stacks that share blocks share it. One thread."""

    def __init__(self, config: TransformerConfig, table: Tensor, loops: ModuleType) -> None:
        """table: the rotations of all positions, complex64 [max_positions, head_dim / 2]."""
        self._config, self._loops = config, loops
        self._rotary: Floats = torch.view_as_real(table).flatten(1).numpy()
        self._workspaces: dict[int, Workspaces] = {}
        self._scores = np.empty((config.heads // config.kv_heads, config.max_positions), np.float32)

    @torch.inference_mode()
    def __call__(self, x: Tensor, row_positions: RowPositions, blocks: Sequence[Block], norm: RMSNorm) -> Tensor:
        """Hidden states after the final norm, of inputs x float32 [batch, time, width] at those positions."""
        width, loops = self._config.width, self._loops
        count = len(row_positions.slots)
        if row_positions.last >= len(self._rotary):
            raise ValueError(f"position {row_positions.last} in a model of {len(self._rotary)}")
        workspaces = self._workspace(count)
        workspace, workspace_array = workspaces.inputs[width]
        state, absmax = workspaces.x, workspaces.absmax
        state[:] = x.reshape(count, width).numpy()
        product, scale = workspaces.zeros, workspaces.zeros[0]
        for layer, block in enumerate(blocks):
            loops.add_norm(
                state, product, scale, absmax, block.attention_norm.array, block.attention_norm.eps, workspace_array
            )
            product, scale = self._attention(block, layer, workspace, workspaces, row_positions)
            loops.add_norm(state, product, scale, absmax, block.mlp_norm.array, block.mlp_norm.eps, workspace_array)
            product, scale = self._mlp(block, workspace, workspaces)
        out = torch.empty(x.shape)
        loops.add_norm_out(state, product, scale, absmax, norm.array, norm.eps, out.view(count, width).numpy())
        return out

    def _attention(
        self, block: Block, layer: int, workspace: Tensor, workspaces: Workspaces, row_positions: RowPositions
    ) -> tuple[Floats, Floats]:
        """The output projection's accumulator and its scale."""
        qkv, o = block.qkv, block.o
        assert isinstance(qkv, Int8Dynamic)  # noqa: S101
        assert isinstance(o, Int8Dynamic)  # noqa: S101
        keys, values = row_positions.arrays[layer]
        output_workspace, output_array = workspaces.inputs[self._config.heads * self._config.head_dim]
        accumulator = qkv.accumulator(workspace).numpy()
        cache = KVRows(keys, values, row_positions.slots, row_positions.positions)
        self._loops.attend(accumulator, qkv.scales, workspaces.absmax, self._rotary, cache, self._scores, output_array)
        return o.accumulator(output_workspace).numpy(), o.scales

    def _mlp(self, block: Block, workspace: Tensor, workspaces: Workspaces) -> tuple[Floats, Floats]:
        gate_up, down = block.gate_up, block.down
        assert isinstance(gate_up, Int8Dynamic)  # noqa: S101
        assert isinstance(down, Int8Dynamic)  # noqa: S101
        output_workspace, output_array = workspaces.inputs[self._config.hidden]
        self._loops.gate(gate_up.accumulator(workspace).numpy(), gate_up.scales, workspaces.absmax, output_array)
        return down.accumulator(output_workspace).numpy(), down.scales

    def _workspace(self, count: int) -> Workspaces:
        if count not in self._workspaces:
            self._workspaces[count] = Workspaces(count, self._config)
        return self._workspaces[count]


def fused_steps(config: TransformerConfig, blocks: Sequence[Block], table: Tensor) -> FusedSteps | None:
    """For a stack all of whose products are int8 with dynamic activations; None for others, or without the loops."""
    linears = (linear for block in blocks for linear in (block.qkv, block.o, block.gate_up, block.down))
    if not all(isinstance(linear, Int8Dynamic) for linear in linears):
        return None
    loops = kernels()
    return None if loops is None else FusedSteps(config, table, loops)
