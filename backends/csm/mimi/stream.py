"""Mimi's decoder, streaming: every convolution as one matrix product over a short window of rows.

Built from moshi's modules, whose own streaming spends most of its time setting up convolutions of length 1 (80 ms per
frame on one thread; this form takes about a sixth) and loses one key of its attention window once that is full. Here
the window is cut exactly, so the joined pieces equal the one-shot decode at every length. Rows are channel-last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.transformer.rope import Rope, frequencies, rotate


@dataclass(slots=True)
class StreamState:
    """What a stream carries: past rows by layer index, keys and values by transformer layer, steps done."""

    past: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    steps: int = 0

    def copy(self) -> StreamState:
        """A state that can be advanced without changing this one (its tensors are replaced, never written)."""
        return StreamState(dict(self.past), dict(self.keys), dict(self.values), self.steps)


class StreamDecoder:
    """codes -> waveform, statelessly: all that is carried lies in the StreamState."""

    def __init__(self, network: Any, values: Mapping[str, Any]) -> None:
        self._groups = [_Group(network.quantizer.rvq_first), _Group(network.quantizer.rvq_rest)]
        self._upsample = _depthwise(network.upsample.convtr.convtr.convtr.weight)
        transformer = values["transformer"]
        layers = network.decoder_transformer.transformer.layers
        self._layers = [_Layer(layer, transformer["num_heads"], transformer["context"]) for layer in layers]
        head_dim = transformer["d_model"] // transformer["num_heads"]
        device = self._upsample.device
        self._frequencies = frequencies(Rope(float(transformer["max_period"])), head_dim).to(device)
        self._windows: list[_Window] = []
        self._net = [self._part(module) for module in network.decoder.model]

    def _part(self, module: Any) -> Any:
        """A SEANet module: an activation (None), a convolution, a transposed one, or a residual block of these."""
        kind = type(module).__name__
        if kind == "ELU":
            return None
        if kind == "SEANetResnetBlock":
            skip = None if type(module.shortcut).__name__ == "Identity" else self._part(module.shortcut)
            return [self._part(inner) for inner in module.block], skip
        window = _transposed(module.convtr.convtr) if kind == "StreamingConvTranspose1d" else _plain(module.conv.conv)
        self._windows.append(window)
        window.index = len(self._windows)
        return window

    def start(self, batch: int) -> StreamState:
        """Silence before the first frame."""
        device = self._upsample.device
        state = StreamState()
        state.past[0] = torch.zeros(batch, 1, self._upsample.shape[2], device=device)
        for window in self._windows:
            state.past[window.index] = torch.zeros(batch, window.reach, window.channels, device=device)
        for index, layer in enumerate(self._layers):
            empty = torch.zeros(batch, layer.heads, 0, layer.head_dim, device=device)
            state.keys[index] = state.values[index] = empty
        return state

    def __call__(self, codes: Tensor, state: StreamState) -> Tensor:
        """The next frames' codes [batch, codebooks, t] -> waveform [batch, 1, samples]; advances the state."""
        x = self._groups[0](codes[:, :1])
        if codes.shape[1] > 1:
            x = x + self._groups[1](codes[:, 1:])
        x = self._transformer(self._upsampled(x, state), state)
        for part in self._net:
            x = _applied(part, x, state)
        return x.transpose(1, 2)

    def _upsampled(self, x: Tensor, state: StreamState) -> Tensor:
        """Depthwise transposed convolution with kernel twice its stride: row t spreads over outputs t and t + 1."""
        before = torch.cat([state.past[0], x[:, :-1]], 1)
        state.past[0] = x[:, -1:]
        new, old = self._upsample  # [stride, channels] each
        spread: Tensor = x[:, :, None] * new + before[:, :, None] * old
        return spread.flatten(1, 2)

    def _transformer(self, x: Tensor, state: StreamState) -> Tensor:
        rows = x.shape[1]
        positions = torch.arange(state.steps, state.steps + rows, dtype=torch.float32, device=x.device)
        angles = torch.outer(positions, self._frequencies)
        rotary = torch.polar(torch.ones_like(angles), angles)[:, None]
        for index, layer in enumerate(self._layers):
            x = layer(x, rotary, index, state)
        state.steps += rows
        return x


class _Group:
    """One residual quantiser: codes [batch, k, t] -> rows [batch, t, width], the sum of code vectors, projected."""

    def __init__(self, quantizer: Any) -> None:
        books = [layer._codebook for layer in quantizer.vq.layers]
        self._table = torch.cat([b.embedding_sum / b.cluster_usage.clamp(min=1e-5)[:, None] for b in books]).detach()
        self._bins = books[0].embedding_sum.shape[0]
        self._projection = quantizer.output_proj.weight[:, :, 0].detach()

    def __call__(self, codes: Tensor) -> Tensor:
        shifted = codes + torch.arange(codes.shape[1], device=codes.device)[:, None] * self._bins
        rows: Tensor = F.linear(self._table[shifted].sum(1), self._projection)
        return rows


class _Window:
    """A causal convolution of `kernel` taps `dilation` rows apart; `spread` > 1: each row gives that many output
    rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, kernel: int, dilation: int = 1, spread: int = 1) -> None:
        self._weight, self._bias = weight.detach().contiguous(), None if bias is None else bias.detach()
        self._kernel, self._dilation, self._spread = kernel, dilation, spread
        self.channels = weight.shape[1] // kernel
        self.reach = (kernel - 1) * dilation
        self.index = 0

    def __call__(self, x: Tensor, state: StreamState) -> Tensor:
        if self.reach:
            rows = x.shape[1]
            padded = torch.cat([state.past[self.index], x], 1)
            state.past[self.index] = padded[:, rows:]
            x = torch.cat([padded[:, tap * self._dilation :][:, :rows] for tap in range(self._kernel)], 2)
        y = F.linear(x, self._weight, self._bias)
        return y.view(y.shape[0], y.shape[1] * self._spread, -1) if self._spread > 1 else y


def _plain(conv: Any) -> _Window:
    """Conv1d weight [out, in, kernel] -> matrix [out, kernel * in]."""
    weight: Tensor = conv.weight
    return _Window(weight.transpose(1, 2).flatten(1), conv.bias, conv.kernel_size[0], conv.dilation[0])


def _transposed(conv: Any) -> _Window:
    """ConvTranspose1d weight [in, out, 2 * stride] -> matrix [stride * out, 2 * in] over the rows t - 1 and t.

    Output t * stride + j takes tap j of row t and tap stride + j of row t - 1.
    """
    weight, stride = conv.weight, conv.stride[0]
    if conv.kernel_size[0] != 2 * stride:
        raise ValueError(f"a transposed convolution of kernel {conv.kernel_size[0]} and stride {stride}")
    new, old = weight[:, :, :stride], weight[:, :, stride:]
    matrix = torch.cat([old.permute(2, 1, 0), new.permute(2, 1, 0)], 2).flatten(0, 1)
    bias = None if conv.bias is None else conv.bias.repeat(stride)
    return _Window(matrix, bias, kernel=2, spread=stride)


def _depthwise(weight: Tensor) -> Tensor:
    """Depthwise transposed weight [channels, 1, 2 * stride] -> [2 (this row, the row before), stride, channels]."""
    return weight.detach()[:, 0].T.reshape(2, -1, weight.shape[0]).contiguous()


def _applied(part: Any, x: Tensor, state: StreamState) -> Tensor:
    if part is None:
        return F.elu(x)
    if not isinstance(part, tuple):
        convolved: Tensor = part(x, state)
        return convolved
    block, skip = part
    inner = x
    for module in block:
        inner = _applied(module, inner, state)
    return inner + (x if skip is None else _applied(skip, x, state))


class _Layer:
    """A pre-LayerNorm transformer layer with layer scale, over a window of `context` steps."""

    def __init__(self, layer: Any, heads: int, context: int) -> None:
        attention = layer.self_attn
        self._qkv, self._out = attention.in_projs[0].weight.detach(), attention.out_projs[0].weight.detach()
        # The layer scales multiply the branches' outputs, so they go into the last matrix of each.
        self._out = self._out * layer.layer_scale_1.scale.detach()[:, None]
        self._down = layer.linear2.weight.detach() * layer.layer_scale_2.scale.detach()[:, None]
        self._up = layer.linear1.weight.detach()
        self._norms = [
            (n.normalized_shape, n.weight.detach(), n.bias.detach(), n.eps) for n in (layer.norm1, layer.norm2)
        ]
        self.heads, self._context = heads, context
        self.head_dim = self._out.shape[0] // heads

    def __call__(self, x: Tensor, rotary: Tensor, index: int, state: StreamState) -> Tensor:
        x = x + self._attention(F.layer_norm(x, *self._norms[0]), rotary, index, state)
        return x + F.linear(F.gelu(F.linear(F.layer_norm(x, *self._norms[1]), self._up)), self._down)

    def _attention(self, x: Tensor, rotary: Tensor, index: int, state: StreamState) -> Tensor:
        batch, rows, width = x.shape
        qkv = F.linear(x, self._qkv).view(batch, rows, 3, self.heads, self.head_dim)
        q, k = rotate(qkv[:, :, 0], rotary).transpose(1, 2), rotate(qkv[:, :, 1], rotary).transpose(1, 2)
        keys = torch.cat([state.keys[index], k], 2)
        values = torch.cat([state.values[index], qkv[:, :, 2].transpose(1, 2)], 2)
        old = max(0, keys.shape[2] - (self._context - 1))  # steps that the next rows no longer see
        state.keys[index], state.values[index] = keys[:, :, old:], values[:, :, old:]
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=self._mask(rows, keys.shape[2], x.device))
        return F.linear(out.transpose(1, 2).reshape(batch, rows, width), self._out)

    def _mask(self, rows: int, length: int, device: torch.device) -> Tensor:
        """bool [rows, length]: each row, of the last `rows` of `length`, sees itself and context - 1 before it."""
        age = torch.arange(length - rows, length, device=device)[:, None] - torch.arange(length, device=device)
        return (age >= 0) & (age < self._context)
