"""Mimi, the codec: waveforms of 24 kHz to frames of codes (12.5 per second) and back.

moshi's network does the encoding and the one-shot decoding; the streaming decoder (mimi/stream.py) is a matrix form of
the same network that carries its state. Knows no language model. Everything runs in float32.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from backends.csm.mimi.layouts import codec_state, open_codec, read_codec_config
from backends.csm.mimi.stream import StreamDecoder, StreamState
from backends.interface import InvalidInput, ModelUnavailable

_SPOKEN_CODEBOOKS = 32  # moshi's own default of 8 would lose quality silently


def load_mimi(
    folder_or_file: str | Path, config: Mapping[str, Any] | str | Path | None = None, device: torch.device | str = "cpu"
) -> Codec:
    """The codec of a folder (Mimi's, or a CSM model with `codec_model.` tensors) or of one safetensors file.

    config: moshi's or transformers' form, as a mapping or a file; None: config.json beside the weights, else the
    published one. min(32, available) codebooks are used. Raises ModelUnavailable naming what is missing.
    """
    path = Path(folder_or_file)
    values = read_codec_config(config, path)
    return Codec(_network(values, device, open_codec(path)), values, device)


def _network(values: Mapping[str, Any], device: torch.device | str, checkpoint: Any) -> Any:
    """moshi's MimiModel with exactly the checkpoint's weights."""
    # moshi compiles functions with Triton at their first call unless told not to; Windows has no Triton.
    os.environ.setdefault("NO_TORCH_COMPILE", "1")
    from moshi.models.loaders import get_mimi

    try:
        network = get_mimi(
            None, dict(values), device=device, num_codebooks=min(_SPOKEN_CODEBOOKS, values["quantizer"]["n_q"])
        )
    # What moshi raises for sizes that do not fit together.
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelUnavailable(f"the codec's configuration does not describe a Mimi: {error!r}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict(codec_state(checkpoint, shapes, values["transformer"]["num_heads"]))
    return network


class Codec:
    """Encoder and decoder with their shapes checked. rate: Hz; frame_samples: samples per frame (1920)."""

    def __init__(self, network: Any, values: Mapping[str, Any], device: torch.device | str) -> None:
        self._network, self._device = network, torch.device(device)
        self.rate = int(values["sample_rate"])
        self.frame_samples = round(self.rate / values["frame_rate"])
        self.codebooks: int = network.num_codebooks
        self.bins = int(values["quantizer"]["bins"])
        self._streaming = StreamDecoder(network, values)

    def use(self, codebooks: int) -> None:
        """Encode into fewer codebooks than there are."""
        self._network.set_num_codebooks(codebooks)
        self.codebooks = codebooks

    def bytes(self) -> int:
        """Bytes of the weights; the streaming decoder holds some of them a second time."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._network.state_dict().values())

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes int64 [batch, codebooks, frames] -> waveform float32 [batch, 1, 1920 * frames], in one pass."""
        codes = self._checked(codes)
        if not codes.shape[-1]:
            return torch.zeros(codes.shape[0], 1, 0)
        wave: Tensor = self._network.decode(codes)
        return wave

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """Waveform float32 [batch, 1, samples] at 24 kHz -> codes int64 [batch, codebooks, ceil(samples / 1920)]."""
        if wave.dim() != 3 or wave.shape[1] != 1:
            raise InvalidInput(f"a waveform of shape {list(wave.shape)}, wanted [batch, 1, samples]")
        if not wave.shape[-1]:
            return torch.zeros(wave.shape[0], self.codebooks, 0, dtype=torch.int64)
        # Padding the waveform (not each convolution) is what makes both reference implementations agree.
        whole = pad(wave.to(self._device, torch.float32), (0, -wave.shape[-1] % self.frame_samples))
        codes: Tensor = self._network.encode(whole)
        return codes

    @contextmanager
    def streaming(self, batch_size: int = 1) -> Iterator[CodecStream]:
        """A decoder that takes frames as they come; what it gives joins to what `decode` gives for all of them."""
        yield self.open_stream(batch_size)

    def open_stream(self, batch_size: int = 1) -> CodecStream:
        """A stream without a scope of its own, for jobs that live across calls; it holds nothing but memory."""
        return CodecStream(self, self._streaming, batch_size)

    def _checked(self, codes: Tensor) -> Tensor:
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.codebooks:
            raise InvalidInput(f"codes of shape {list(codes.shape)}, wanted [batch, up to {self.codebooks}, frames]")
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.bins):
            raise InvalidInput(f"codes must lie in 0..{self.bins - 1}")
        return codes.to(self._device, torch.int64)


class CodecStream:
    """One streaming decode in progress."""

    def __init__(self, codec: Codec, decoder: StreamDecoder, batch_size: int) -> None:
        self._codec, self._decoder = codec, decoder
        self._state: StreamState = decoder.start(batch_size)
        self._batch = batch_size

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """The next frames, int64 [batch, codebooks, t] -> waveform float32 [batch, 1, 1920 * t]."""
        codes = self._codec._checked(codes)
        if codes.shape[0] != self._batch:
            raise InvalidInput(f"codes of batch {codes.shape[0]} in a stream of {self._batch}")
        if not codes.shape[-1]:
            return torch.zeros(self._batch, 1, 0)
        state = self._state.copy()  # kept only if nothing goes wrong, so that a call may be repeated
        wave = self._decoder(codes, state)
        self._state = state
        return wave
