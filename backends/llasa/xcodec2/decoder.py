"""X-Codec-2's decoder: codes to waveform, 187 M parameters at the published size.

Quantiser digits -> convolution -> two residual blocks -> transformer -> two residual blocks -> inverse STFT head. The
published code rotates queries and keys by an angle that depends on the head only, which cancels in their product, so
there is no position encoding here. Statistics and attention run over the whole time axis: decoding in pieces is an
approximation (see streaming.py). Tensors stay [batch, time, channels]; a convolution is one matrix product over
neighbouring rows. The head computes in float32 whatever the body does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.llasa.xcodec2.config import CodecDimensions
from backends.transformer.config import TensorReader
from backends.transformer.cpu_kernels import pack_dense, packed_product
from backends.transformer.kernel_checks import packs

Layer = Callable[[Tensor], Tensor]

_NORM_GROUPS, _GROUP_EPS, _LAYER_EPS = 32, 1e-6, 1e-6
_LOUDEST = 100.0  # the published head clips magnitudes here


class Decoder:
    """codes int64 [batch, time] -> waveform float32 [batch, hop * time]."""

    def __init__(
        self, dims: CodecDimensions, take: TensorReader, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self._dims, self._dtype = dims, dtype

        def move(name: str, shape: tuple[int, ...]) -> Tensor:
            return take(name, shape).to(device, dtype)

        self._digits = Digits(dims, take, device)
        self._embed = Convolution("generator.backbone.embed", dims.width, 7, move)
        self._body: list[Layer] = []
        self._body += [ResidualBlock(f"generator.backbone.prior_net.{i}", dims.width, move) for i in range(2)]
        self._body += [Block(f"generator.backbone.transformers.{i}", dims, move) for i in range(dims.depth)]
        self._body += [ResidualBlock(f"generator.backbone.post_net.{i}", dims.width, move) for i in range(2)]
        self._norm = [move(f"generator.backbone.final_layer_norm.{part}", (dims.width,)) for part in ("weight", "bias")]
        self._head = SpectralHead(dims, take, device)

    @torch.inference_mode()
    def __call__(self, codes: Tensor) -> Tensor:
        x = self._embed(self._digits(codes).to(self._dtype))
        for part in self._body:
            x = part(x)
        x = F.layer_norm(x, (self._dims.width,), self._norm[0], self._norm[1], _LAYER_EPS)
        return self._head(x.float())


class Digits:
    """Code -> one vector of `width`: digit values of the quantiser through its two affine layers, folded to one."""

    def __init__(self, dims: CodecDimensions, take: TensorReader, device: torch.device | str) -> None:
        digits, inner, width = len(dims.levels), dims.fsq_width, dims.width
        first = take("generator.quantizer.project_out.weight", (inner, digits)).double()
        first_bias = take("generator.quantizer.project_out.bias", (inner,)).double()
        second = take("fc_post_a.weight", (width, inner)).double()
        second_bias = take("fc_post_a.bias", (width,)).double()
        self._weight = (second @ first).float().to(device)
        self._bias = (second @ first_bias + second_bias).float().to(device)
        self._levels = torch.tensor(dims.levels, device=device)
        self._basis = torch.tensor(basis(dims.levels), device=device)

    def __call__(self, codes: Tensor) -> Tensor:
        digits = (codes.unsqueeze(-1) // self._basis) % self._levels
        half = self._levels // 2
        return F.linear((digits - half) / half, self._weight, self._bias)


class Convolution:
    """Same-length 1-d convolution over [batch, time, channels], as one product over rows of `kernel` neighbours."""

    def __init__(self, name: str, width: int, kernel: int, take: TensorReader) -> None:
        weight = take(f"{name}.weight", (width, width, kernel))
        self._product = linear(weight.transpose(1, 2).reshape(width, kernel * width), take(f"{name}.bias", (width,)))
        self._kernel = kernel

    def __call__(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        padded = F.pad(x, (0, 0, self._kernel // 2, self._kernel // 2))
        rows = padded.as_strided((batch, time, self._kernel * width), (padded.stride(0), width, 1))
        return self._product(rows.contiguous())


class ResidualBlock:
    """x + conv(silu(norm(conv(silu(norm(x)))))), group-normalised over channels and time."""

    def __init__(self, name: str, width: int, take: TensorReader) -> None:
        self._norms = [[take(f"{name}.norm{i}.{part}", (width,)) for part in ("weight", "bias")] for i in (1, 2)]
        self._convolutions = [Convolution(f"{name}.conv{i}", width, 3, take) for i in (1, 2)]

    def __call__(self, x: Tensor) -> Tensor:
        y = x
        for (weight, bias), convolution in zip(self._norms, self._convolutions, strict=True):
            y = F.group_norm(y.transpose(1, 2), _NORM_GROUPS, weight, bias, _GROUP_EPS).transpose(1, 2)
            y = convolution(F.silu(y))
        return x + y


class Block:
    """Pre-norm attention over all frames and an ungated MLP."""

    def __init__(self, name: str, dims: CodecDimensions, take: TensorReader) -> None:
        width, inner = dims.width, dims.heads * dims.head_dim
        self._heads, self._eps = dims.heads, dims.norm_eps
        self._att_norm = take(f"{name}.att_norm.weight", (width,))
        self._ffn_norm = take(f"{name}.ffn_norm.weight", (width,))
        self._qkv = linear(take(f"{name}.att.c_attn.weight", (3 * inner, width)))
        self._out = linear(take(f"{name}.att.c_proj.weight", (width, inner)))
        self._up = linear(take(f"{name}.mlp.fc1.weight", (dims.hidden, width)))
        self._down = linear(take(f"{name}.mlp.fc2.weight", (width, dims.hidden)))

    def __call__(self, x: Tensor) -> Tensor:
        shape = (x.shape[-1],)
        heads = self._qkv(F.rms_norm(x, shape, self._att_norm, self._eps))
        q, k, v = heads.view(*x.shape[:2], 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        x = x + self._out(seen)
        return x + self._down(F.silu(self._up(F.rms_norm(x, shape, self._ffn_norm, self._eps)), inplace=True))


class SpectralHead:
    """Log-magnitudes and phases -> inverse STFT with "same" padding; float32 throughout."""

    def __init__(self, dims: CodecDimensions, take: TensorReader, device: torch.device | str) -> None:
        self._hop, self._n_fft = dims.hop, dims.n_fft
        weight = take("generator.head.out.weight", (dims.n_fft + 2, dims.width)).to(device, torch.float32)
        self._product = linear(weight, take("generator.head.out.bias", (dims.n_fft + 2,)).to(device, torch.float32))
        self._window = torch.hann_window(dims.n_fft, periodic=True, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        magnitude, phase = self._product(x).chunk(2, -1)
        spectrum = torch.polar(magnitude.exp().clamp_max(_LOUDEST), phase)
        frames = torch.fft.irfft(spectrum, self._n_fft, dim=-1) * self._window
        return self._overlap(frames) / self._overlap(self._window.square().expand(1, x.shape[1], -1)).clamp_min(1e-11)

    def _overlap(self, frames: Tensor) -> Tensor:
        """Frames [batch, time, n_fft] added up at every hop; the overhang is cut evenly from both ends."""
        batch, time, parts = *frames.shape[:2], self._n_fft // self._hop
        quarters = frames.reshape(batch, time, parts, self._hop)
        total = frames.new_zeros(batch, time + parts - 1, self._hop)
        for part in range(parts):
            total[:, part : part + time] += quarters[:, :, part]
        overhang = (self._n_fft - self._hop) // 2
        return total.flatten(1)[:, overhang:-overhang]


def basis(levels: tuple[int, ...]) -> list[int]:
    """Place value of each digit of a code."""
    values = [1]
    for level in levels[:-1]:
        values.append(values[-1] * level)
    return values


def linear(weight: Tensor, bias: Tensor | None = None) -> Layer:
    """x [..., in] -> [..., out]. On the CPU the weight is packed for oneDNN: in float32 2.5 times as fast as the
    default."""
    if weight.device.type != "cpu" or not packs(weight.dtype):
        return lambda x: F.linear(x, weight, bias)
    packed = pack_dense(weight)
    return lambda x: packed_product(x, packed, bias)
