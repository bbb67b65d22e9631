"""X-Codec-2's encoder: waveform to codes, for cloning and dataset work. Loaded only when something is to be encoded.

Two branches see the padded clip: w2v-bert-2.0 (through transformers; only the layers below the hidden state in use)
with a small convolutional adapter, and a convolutional encoder of the waveform. Both meet in a finite scalar quantiser
that bounds its input twice, as the published one does. Tensors are [batch, channels, time].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.interface import ModelUnavailable
from backends.llasa.xcodec2.config import CodecDimensions
from backends.llasa.xcodec2.decoder import basis
from backends.llasa.xcodec2.features import semantic_features
from backends.llasa.xcodec2.layouts import CodecTensors, Shape, quantiser_shapes
from backends.transformer.config import TensorReader

_BOUND_MARGIN = 1e-3  # the published quantiser keeps tanh this far from its ends
_FILTER_TAPS, _CUTOFF, _HALF_WIDTH = 12, 0.25, 0.3


class Encoder:
    """wave -> codes. dtype: of both branches; the quantiser computes in float32."""

    def __init__(
        self, dims: CodecDimensions, tensors: CodecTensors, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self._dims, self._dtype, self._device = dims, dtype, torch.device(device)

        def move(name: str, shape: Shape) -> Tensor:
            return tensors.take(name, shape).to(device, dtype)

        self._semantic = SemanticModel(dims, tensors, dtype, self._device)
        self._adapter = SemanticAdapter(dims.semantic_width, move)
        self._acoustic = AcousticEncoder(dims, move)
        self._quantiser = Quantiser(dims, tensors.take, self._device)

    @torch.inference_mode()
    def __call__(self, wave: Tensor) -> Tensor:
        """wave float32 [samples] at 16 kHz -> codes int32 [1, 1, samples // 320 + 1]."""
        padded = self.padded(wave)
        semantic = self._semantic(semantic_features(padded))
        return self._codes(self._adapter(semantic), padded)

    @torch.inference_mode()
    def batch(self, waves: Sequence[Tensor]) -> list[Tensor]:
        """Codes of several clips. The large semantic model sees them together, masked, so that none hears another's
        padding."""
        padded = [self.padded(wave) for wave in waves]
        features = [semantic_features(wave)[0] for wave in padded]
        lengths = [len(rows) for rows in features]
        if len(set(lengths)) == 1:
            together = self._semantic(torch.stack(features))
        else:
            mask = torch.arange(max(lengths), device=self._device) < torch.tensor(lengths, device=self._device)[:, None]
            together = self._semantic(torch.nn.utils.rnn.pad_sequence(features, batch_first=True), mask)
        own = [together[i : i + 1, :, :length] for i, length in enumerate(lengths)]
        return [self._codes(self._adapter(semantic), wave) for semantic, wave in zip(own, padded, strict=True)]

    def bytes(self) -> int:
        """Bytes of the weights."""
        own = sum(math.prod(shape) for _, shape in encoder_shapes(self._dims))
        return (own + self._semantic.parameters()) * self._dtype.itemsize

    def padded(self, wave: Tensor) -> Tensor:
        """Zeros up to the next multiple of the hop; a clip that is one already gets a whole frame more, as
        published."""
        wave = wave.to(self._device, torch.float32)
        return F.pad(wave, (0, self._dims.hop - wave.shape[-1] % self._dims.hop))

    def _codes(self, semantic: Tensor, padded: Tensor) -> Tensor:
        acoustic = self._acoustic(padded[None, None].to(self._dtype))
        return self._quantiser(torch.cat([semantic, acoustic], 1).transpose(1, 2)).unsqueeze(1)


class SemanticModel:
    """w2v-bert-2.0 up to the hidden state in use: features [batch, time, 160] -> [batch, width, time]."""

    def __init__(self, dims: CodecDimensions, tensors: CodecTensors, dtype: torch.dtype, device: torch.device) -> None:
        import_semantic_model()
        from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

        known = Wav2Vec2BertConfig()
        stated = {key: value for key, value in dims.semantic.items() if hasattr(known, key)}
        # No masking of the spectrogram: it happens in training only, and its parameter would have to be loaded.
        fixed = {
            "num_hidden_layers": dims.semantic_layers,
            "mask_time_prob": 0.0,
            "mask_feature_prob": 0.0,
            "layerdrop": 0.0,
        }
        config = Wav2Vec2BertConfig(**{**stated, "hidden_size": dims.semantic_width, **fixed})
        with torch.device("meta"):
            self._model = Wav2Vec2BertModel(config).eval()
        shapes = {name: tuple(tensor.shape) for name, tensor in self._model.state_dict().items()}
        state = {name: tensor.to(device, dtype) for name, tensor in tensors.semantic(shapes).items()}
        self._model.load_state_dict(state, strict=True, assign=True)
        self._dtype = dtype

    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def __call__(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: bool [batch, time], False = padding."""
        hidden: Tensor = self._model(features.to(self._dtype), attention_mask=mask).last_hidden_state
        return hidden.transpose(1, 2)


class SemanticAdapter:
    """Four convolutions with a residual around the middle two. The residual is taken after the first ReLU."""

    def __init__(self, width: int, take: TensorReader) -> None:
        stem, shape = "SemanticEncoder_module", (width, width, 3)
        self._first = take(f"{stem}.initial_conv.weight", shape)
        self._middle = [
            (take(f"{stem}.residual_blocks.{i}.weight", shape), take(f"{stem}.residual_blocks.{i}.bias", (width,)))
            for i in (1, 3)
        ]
        self._last = take(f"{stem}.final_conv.weight", shape)

    def __call__(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv1d(x, self._first, padding=1))
        y = F.relu(F.conv1d(x, *self._middle[0], padding=1))
        return F.conv1d(x + F.conv1d(y, *self._middle[1], padding=1), self._last, padding=1)


class AcousticEncoder:
    """Waveform [1, 1, samples] -> [1, width, frames]: blocks of dilated residual units, each ending in a strided
    convolution."""

    def __init__(self, dims: CodecDimensions, take: TensorReader) -> None:
        width = dims.encoder_width
        self._first = convolution("CodecEnc.conv_blocks.0", 1, width, 7, take, padding=3)
        self._blocks: list[Callable[[Tensor], Tensor]] = []
        for number, stride in enumerate(dims.strides, start=1):
            stem = f"CodecEnc.conv_blocks.{number}.block"
            self._blocks += [ResidualUnit(f"{stem}.{i}.block", width, d, take) for i, d in enumerate(dims.dilations)]
            last = len(dims.dilations)
            self._blocks.append(Activation(f"{stem}.{last}", width, take))
            down = convolution(
                f"{stem}.{last + 1}", width, 2 * width, 2 * stride, take, stride=stride, padding=math.ceil(stride / 2)
            )
            self._blocks.append(down)
            width *= 2
        self._blocks.append(Activation("CodecEnc.conv_final_block.0", width, take))
        self._blocks.append(convolution("CodecEnc.conv_final_block.1", width, dims.acoustic_width, 3, take, padding=1))

    def __call__(self, wave: Tensor) -> Tensor:
        x = self._first(wave)
        for block in self._blocks:
            x = block(x)
        return x


class ResidualUnit:
    """x + conv1(act(conv7(act(x)))), the wide convolution dilated."""

    def __init__(self, name: str, width: int, dilation: int, take: TensorReader) -> None:
        self._steps: list[Callable[[Tensor], Tensor]] = [
            Activation(f"{name}.0", width, take),
            convolution(f"{name}.1", width, width, 7, take, dilation=dilation, padding=3 * dilation),
            Activation(f"{name}.2", width, take),
            convolution(f"{name}.3", width, width, 1, take),
        ]

    def __call__(self, x: Tensor) -> Tensor:
        y = x
        for step in self._steps:
            y = step(y)
        return x + y


class Activation:
    """Snake x + sin(a x)^2 / b at twice the rate, so that its overtones do not alias."""

    def __init__(self, name: str, width: int, take: TensorReader) -> None:
        self._alpha = take(f"{name}.act.alpha", (width,)).exp()[:, None]
        self._scale = 1.0 / (take(f"{name}.act.beta", (width,)).exp()[:, None] + 1e-9)
        taps = kaiser_sinc().to(self._alpha)
        # A transposed convolution of stride 2, as one convolution that makes the even and the odd samples.
        self._up = 2 * torch.stack([F.pad(taps.flip(0)[::2], (0, 1)), F.pad(taps.flip(0)[1::2], (1, 0))])[:, None]
        self._down = taps[None, None]

    def __call__(self, x: Tensor) -> Tensor:
        batch, width, time = x.shape
        rows = F.pad(x, (3, 3), mode="replicate").view(batch * width, 1, time + 6)
        fine = F.conv1d(rows, self._up).transpose(1, 2).reshape(batch, width, 2 * time)
        fine = fine + (fine * self._alpha).sin_().square_().mul_(self._scale)
        rows = F.pad(fine, (5, 6), mode="replicate").view(batch * width, 1, 2 * time + 11)
        return F.conv1d(rows, self._down, stride=2).view(batch, width, time)


class Quantiser:
    """Affine layers, two bounds, rounding: [batch, time, channels] -> codes int32 [batch, time]."""

    def __init__(self, dims: CodecDimensions, take: TensorReader, device: torch.device) -> None:
        shapes = dict(quantiser_shapes(dims))
        tensors = {name: take(name, shape).to(device, torch.float32) for name, shape in shapes.items()}
        self._prior = [tensors[f"fc_prior.{part}"] for part in ("weight", "bias")]
        self._project = [tensors[f"generator.quantizer.project_in.{part}"] for part in ("weight", "bias")]
        self._levels = torch.tensor(dims.levels, device=device)
        self._basis = torch.tensor(basis(dims.levels), device=device)

    def __call__(self, x: Tensor) -> Tensor:
        z = F.linear(F.linear(x.float(), *self._prior), *self._project)
        digits = self.bound(self.bound(z)).round().long() + self._levels // 2
        return (digits * self._basis).sum(-1).to(torch.int32)

    def bound(self, z: Tensor) -> Tensor:
        """Into the open interval that rounds to one of the levels (Mentzer et al., finite scalar quantisation)."""
        half = (self._levels - 1) * (1 + _BOUND_MARGIN) / 2
        offset = torch.where(self._levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / half)) * half - offset


def import_semantic_model() -> None:
    """Import the semantic model's code: seconds of CPU time at the first call. Raises ModelUnavailable."""
    try:
        from transformers import Wav2Vec2BertModel  # noqa: F401
    except Exception as error:  # transformers wraps whatever went wrong in errors of many kinds
        raise ModelUnavailable(
            f"cloning needs transformers, which cannot be imported: {error}; install the extra `torch` anew"
        ) from error


def convolution(
    name: str,
    inputs: int,
    outputs: int,
    kernel: int,
    take: TensorReader,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int = 0,
) -> Callable[[Tensor], Tensor]:
    """A plain 1-d convolution with its loaded weight and bias."""
    weight, bias = take(f"{name}.weight", (outputs, inputs, kernel)), take(f"{name}.bias", (outputs,))
    return lambda x: F.conv1d(x, weight, bias, stride=stride, padding=padding, dilation=dilation)


def kaiser_sinc() -> Tensor:
    """The half-band low-pass of the activations, float32 [12], summing to 1."""
    half = _FILTER_TAPS // 2
    attenuation = 2.285 * (half - 1) * math.pi * 4 * _HALF_WIDTH + 7.95  # Kaiser's formula
    beta = (
        0.1102 * (attenuation - 8.7)
        if attenuation > 50
        else 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    )
    window = torch.kaiser_window(_FILTER_TAPS, periodic=False, beta=beta, dtype=torch.float32)
    taps = window * torch.sinc(2 * _CUTOFF * (torch.arange(-half, half) + 0.5))
    return taps / taps.sum()


def encoder_shapes(dims: CodecDimensions) -> Iterator[tuple[str, Shape]]:
    """Name and shape of every tensor of the encoder outside the semantic model."""
    seen: list[tuple[str, Shape]] = []

    def record(name: str, shape: Shape) -> Tensor:
        seen.append((name, shape))
        # No memory, and no "meta" device: its operators are Python, which imports the compiler (5 s of CPU time).
        return torch.zeros(()).expand(shape)

    SemanticAdapter(dims.semantic_width, record)
    AcousticEncoder(dims, record)
    yield from seen
    yield from quantiser_shapes(dims)
