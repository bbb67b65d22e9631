"""X-Codec-2 as one object: codes to waveform, and, once asked for, waveform to codes.

A start loads the decoder only (187 M parameters); the encoder with its semantic model follows at the first `encode`.
Knows no language model and no voices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.interface import InvalidInput, ModelUnavailable
from backends.llasa.xcodec2.config import SAMPLE_RATE, CodecDimensions, read_dims
from backends.llasa.xcodec2.decoder import Decoder
from backends.llasa.xcodec2.encoder import Encoder, encoder_shapes
from backends.llasa.xcodec2.layouts import CodecTensors, decoder_shapes
from backends.transformer.checkpoint import Checkpoint

Wave = Tensor | NDArray[np.float32]

FRAMES_PER_SECOND = 50


class Codec:
    """A loaded codec. dims: its dimensions; rate: Hz of its audio."""

    rate = SAMPLE_RATE

    def __init__(
        self, folder: Path, device: torch.device | str, dtype: torch.dtype, encoder_dtype: torch.dtype
    ) -> None:
        self.dims = read_dims(folder)
        self._folder, self._device = folder, torch.device(device)
        self._dtype, self._encoder_dtype = dtype, encoder_dtype
        tensors = self._open()
        tensors.demand(name for name, _ in decoder_shapes(self.dims))
        tensors.refuse_unknown_decoder(self.dims)
        self._decoder = Decoder(self.dims, tensors.take, dtype, self._device)
        self._encoder: Encoder | None = None

    def decode(self, codes: Tensor) -> Tensor:
        """codes int [batch, 1, time] -> waveform float32 [batch, 1, 320 * time]. Raises InvalidInput for codes out of
        range."""
        codes = torch.as_tensor(codes)
        if codes.is_floating_point():
            raise InvalidInput("codes must be whole numbers")
        if codes.dim() != 3 or codes.shape[1] != 1 or codes.shape[2] == 0:
            raise InvalidInput(f"codes must be [batch, 1, time] with at least one frame, not {list(codes.shape)}")
        codes = codes[:, 0].to(self._device, torch.int64)
        if int(codes.min()) < 0 or int(codes.max()) >= self.dims.codebook:
            raise InvalidInput(f"codes must lie in 0..{self.dims.codebook - 1}")
        return self.wave(codes).unsqueeze(1)

    def wave(self, codes: Tensor) -> Tensor:
        """codes int64 [batch, time] on the codec's device and known to be in range -> float32 [batch, 320 * time]."""
        return self._decoder(codes)

    def encode(self, wave: Wave) -> Tensor:
        """wave float32 [samples] at 16 kHz -> codes int32 [1, 1, samples // 320 + 1]."""
        return self.load_encoder()(_mono(wave))

    def encode_batch(self, waves: Sequence[Wave]) -> list[Tensor]:
        """Codes int32 [1, 1, time] of each clip; the semantic model sees them as one batch."""
        return self.load_encoder().batch([_mono(wave) for wave in waves])

    def load_encoder(self) -> Encoder:
        """The encoder, read from disk at the first call."""
        if self._encoder is None:
            tensors = self._open()
            tensors.demand(name for name, _ in encoder_shapes(self.dims))
            self._encoder = Encoder(self.dims, tensors, self._encoder_dtype, self._device)
        return self._encoder

    @property
    def identity(self) -> str:
        """Names what its codes depend on: the folder and the encoder's type."""
        return f"{self._folder.resolve()} {self._encoder_dtype}"

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Of the decoder's body."""
        return self._dtype

    def bytes(self) -> int:
        """Bytes of the weights in memory."""
        shapes = [
            shape
            for name, shape in decoder_shapes(self.dims)
            if not name.startswith(("fc_post_a", "generator.quantizer"))
        ]
        loaded = sum(math.prod(shape) for shape in shapes) * self._dtype.itemsize
        return loaded + (self._encoder.bytes() if self._encoder else 0)

    @property
    def encoder_loaded(self) -> bool:
        return self._encoder is not None

    def _open(self) -> CodecTensors:
        return CodecTensors(Checkpoint.from_folder(self._folder))


def load_codec(
    model_dir: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    encoder: bool = False,
    encoder_dtype: torch.dtype = torch.float32,
) -> Codec:
    """Load X-Codec-2 from a folder in any published layout. Raises ModelUnavailable that names what is missing.

    dtype: of the decoder's body; encoder: load the encoder now instead of at first use; encoder_dtype: of its branches.
    """
    folder = Path(model_dir)
    if not folder.is_dir():
        raise ModelUnavailable(f"there is no codec folder {folder}")
    codec = Codec(folder, device, dtype, encoder_dtype)
    if encoder:
        codec.load_encoder()
    return codec


def dims_of(model_dir: str | Path) -> CodecDimensions:
    """The dimensions a codec folder states, without loading it."""
    return read_dims(Path(model_dir))


def _mono(wave: Wave) -> Tensor:
    # An array may be read-only (it came in a message) or reversed, which tensors cannot share.
    tensor = torch.tensor(np.ascontiguousarray(wave)) if isinstance(wave, np.ndarray) else torch.as_tensor(wave)
    if tensor.dim() != 1 or tensor.numel() == 0 or not tensor.is_floating_point():
        shape = f"{list(tensor.shape)} of {tensor.dtype}"
        raise InvalidInput(f"a clip must be float samples [time] with at least one sample, not {shape}")
    return tensor.float()
