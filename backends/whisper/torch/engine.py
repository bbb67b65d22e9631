"""Whisper on torch: transformers' modules and weights, with a decoder pass of our own over a static cache.

CUDA, ROCm, MPS, XPU, CPU, and DirectML through torch-directml, which gets eager attention, float32 and dense buffers
only.
The pass is our own because torch-directml is bound to an old transformers, and because rows may be padded at the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperModel

from backends.interface import ModelUnavailable, OutOfMemory
from backends.memory import is_out_of_memory
from backends.transformer.linear import precision
from backends.whisper.checkpoint import Checkpoint, encoder_positions, expected_shapes, head_name
from backends.whisper.config import ModelDimensions
from backends.whisper.network import EncoderOutput, Floats, Network, Tokens, attention_probabilities
from backends.whisper.torch.int8 import Int8Linear, quantise_linears

_MASKED = -1e4
_DTYPES = ("float32", "float16", "bfloat16", "int8")


def torch_device(name: str) -> torch.device:
    """The device of "cpu", "cuda:N", "mps", "xpu" or "directml:N". Raises ModelUnavailable if it is not there."""
    kind, _, number = name.partition(":")
    if kind == "directml":
        return _directml_device(int(number or 0))
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
    }
    if not there.get(kind):
        raise ModelUnavailable(
            f"this torch ({torch.__version__}) has no device {name}; `speech-gateway doctor` tells why"
        )
    return torch.device(name)


def _directml_device(number: int) -> torch.device:
    try:
        import torch_directml
    except (ImportError, OSError) as error:  # OSError: the system lacks DirectX 12 libraries
        raise ModelUnavailable(
            f"torch-directml does not load ({error}); prepare its environment with setup.ps1 -Accelerator "
            f"torch-directml"
        ) from error
    if number >= torch_directml.device_count():
        raise ModelUnavailable(f"there is no DirectML device {number}; `speech-gateway doctor` lists the devices")
    device: torch.device = torch_directml.device(number)
    return device


@dataclass(frozen=True, slots=True)
class TorchEncoderOutput:
    """Cross keys and values [1, heads, positions, d] of every decoder layer."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]


class TorchNetwork:
    """Implements Network."""

    engine = "torch"
    short_windows = False

    def __init__(
        self,
        folder: Path,
        dims: ModelDimensions,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        threads: int = 1,
        max_batch: int = 8,
    ) -> None:
        self.dims, self.device, self.dtype, self.max_batch = dims, device, dtype, max_batch
        if dtype not in _DTYPES:
            raise ModelUnavailable(f"Whisper's torch engine has no dtype {dtype!r} ({', '.join(_DTYPES)})")
        self.eager = device.startswith("directml")
        if self.eager and dtype != "float32":
            raise ModelUnavailable("on torch-directml Whisper runs in float32 only")
        self.place = torch_device(device)
        self.element = precision(dtype, self.place).compute
        self.fixed_shapes = self.place.type != "cpu"  # attention over the whole cache, masked, at every step
        if self.place.type == "cpu":
            torch.set_num_threads(threads)
        try:
            self.model, head = _load(folder, dims, self.place, self.element, eager=self.eager)
            self.head: nn.Module = _Product(head) if dtype != "int8" else Int8Linear(head, None, self.place)
            if dtype == "int8":
                quantise_linears(self.model, self.place)
        except (RuntimeError, MemoryError) as error:
            raise device_error(error) from error

    def replicas(self, windows: int, *, short: bool = False) -> Sequence[Network]:
        """One: a device does one thing at a time, and torch's threads share the rows of a batch well."""
        return [self]

    @torch.no_grad()  # inference_mode tensors have no version counter, which torch-directml needs
    def encode(self, mels: Sequence[Floats]) -> list[EncoderOutput]:
        size = 1 if self.place.type == "cpu" else self.max_batch
        encoder_outputs: list[EncoderOutput] = []
        try:
            for first in range(0, len(mels), size):
                encoder_outputs += self._encode(np.stack(list(mels[first : first + size])))
        except (RuntimeError, MemoryError) as error:
            raise device_error(error) from error
        return encoder_outputs

    def _encode(self, mels: Floats) -> list[TorchEncoderOutput]:
        features = torch.from_numpy(mels).to(self.place, self.element)
        hidden = self.model.encoder(features).last_hidden_state
        layers = []
        for layer in self.model.decoder.layers:
            attention = layer.encoder_attn
            layers.append((self.heads(attention.k_proj(hidden)), self.heads(attention.v_proj(hidden))))
        rows = range(len(mels))
        return [
            TorchEncoderOutput(tuple((key[row : row + 1], value[row : row + 1]) for key, value in layers))
            for row in rows
        ]

    def heads(self, value: torch.Tensor) -> torch.Tensor:
        """[batch, time, width] -> [batch, heads, time, d]."""
        batch, time, _ = value.shape
        return value.view(batch, time, self.dims.decoder_heads, self.dims.head_width).transpose(1, 2).contiguous()

    def decode(self, encoder_outputs: Sequence[EncoderOutput], padding: Sequence[int] = ()) -> TorchDecoding:
        windows = [
            encoder_output for encoder_output in encoder_outputs if isinstance(encoder_output, TorchEncoderOutput)
        ]
        return TorchDecoding(self, windows, list(padding) or [0] * len(windows))

    def cross_weights(
        self, encoder_output: EncoderOutput, tokens: Sequence[int], heads: Sequence[tuple[int, int]]
    ) -> Floats:
        decoding = self.decode([encoder_output])
        decoding.watched = {layer for layer, _ in heads}
        decoding.feed(np.array([tokens], np.int64), len(tokens) - 1)
        rows = []
        for layer, head in heads:
            key = decoding.cross[layer][0][0, head].float().cpu().numpy()
            rows.append(attention_probabilities(decoding.queries[layer][0, head].float().cpu().numpy(), key))
        return np.stack(rows)

    def footprint(self) -> int:
        modules = [self.model, self.head]
        tensors = {tensor.data_ptr(): tensor.nbytes for module in modules for tensor in module.parameters()}
        quantised = [part.bytes() for module in modules for part in module.modules() if isinstance(part, Int8Linear)]
        return sum([*tensors.values(), *quantised])

    def detail(self) -> dict[str, Any]:
        return {"torch": torch.__version__, "attention": "eager" if self.eager else "sdpa", "cache": "static"}


class _Product(nn.Module):
    """The output matrix [vocabulary, width], which may be the embedding's own."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.weight)


def _load(
    folder: Path, dims: ModelDimensions, device: torch.device, element: torch.dtype, *, eager: bool
) -> tuple[WhisperModel, torch.Tensor]:
    """The modules with the checkpoint's tensors, and the matrix that makes logits."""
    checkpoint = Checkpoint(folder)
    with torch.device("meta"):
        model = WhisperModel(_config(dims, eager=eager))
    state = {name: checkpoint[name] for name in expected_shapes(dims) if name != "proj_out.weight"}
    state["encoder.embed_positions.weight"] = encoder_positions(checkpoint, dims)
    tensors = {name: torch.from_numpy(array).to(device, element) for name, array in state.items()}
    model.load_state_dict(tensors, assign=True)
    model.eval()
    name = head_name(checkpoint, dims)
    head = tensors[name] if name in tensors else torch.from_numpy(checkpoint[name]).to(device, element)
    return model, head


def _config(dims: ModelDimensions, *, eager: bool) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=dims.vocabulary,
        num_mel_bins=dims.mels,
        d_model=dims.width,
        encoder_layers=dims.encoder_layers,
        encoder_attention_heads=dims.encoder_heads,
        encoder_ffn_dim=dims.encoder_ffn,
        decoder_layers=dims.decoder_layers,
        decoder_attention_heads=dims.decoder_heads,
        decoder_ffn_dim=dims.decoder_ffn,
        max_source_positions=dims.source_positions,
        max_target_positions=dims.target_positions,
        activation_function=dims.activation,
        pad_token_id=None,  # padding_idx would demand more of the vocabulary; the ids are not used here
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        attn_implementation="eager" if eager else "sdpa",
    )


def device_error(error: BaseException) -> Exception:
    """OutOfMemory or ModelUnavailable for what torch raised."""
    text = str(error)
    if is_out_of_memory(error):
        return OutOfMemory(f"no memory for Whisper: {text[:300]}")
    return ModelUnavailable(f"torch failed: {text[:500]}")


class TorchDecoding:
    """Token sequences over caches of fixed length."""

    def __init__(
        self, network: TorchNetwork, encoder_outputs: Sequence[TorchEncoderOutput], padding: list[int]
    ) -> None:
        self._network, dims = network, network.dims
        self._padding = torch.tensor(padding)
        self._length = 0
        layers = range(dims.decoder_layers)
        self.cross = [
            (torch.cat([m.layers[i][0] for m in encoder_outputs]), torch.cat([m.layers[i][1] for m in encoder_outputs]))
            if len(encoder_outputs) > 1
            else encoder_outputs[0].layers[i]
            for i in layers
        ]
        shape = (len(encoder_outputs), dims.decoder_heads, dims.target_positions, dims.head_width)
        self._caches = [
            tuple(torch.zeros(shape, dtype=network.element, device=network.place) for _ in "kv") for _ in layers
        ]
        self.watched: set[int] = set()
        self.queries: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def feed(self, tokens: Tokens, keep: int = 0) -> Floats:
        network, new = self._network, tokens.shape[1]
        try:
            hidden = self._embed(torch.from_numpy(tokens))
            mask = self._mask(new)
            for number, layer in enumerate(network.model.decoder.layers):
                hidden = self._layer(number, layer, hidden, mask)
            hidden = network.model.decoder.layer_norm(hidden[:, keep:])
            logits: Floats = network.head(hidden).float().cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            raise device_error(error) from error
        self._length += new
        return logits

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        network = self._network
        positions = torch.arange(self._length, self._length + tokens.shape[1])[None, :] - self._padding[:, None]
        decoder = network.model.decoder
        embedded = decoder.embed_tokens(tokens.to(network.place))
        placed: torch.Tensor = embedded + decoder.embed_positions.weight[positions.clamp(min=0).to(network.place)]
        return placed

    def _mask(self, new: int) -> torch.Tensor:
        """0 where a new position may look: [batch, 1, new, total]; made on the processor, whose integers are sound."""
        total = self._total(new)
        place = torch.arange(total)
        seen = place[None, None, :] <= (self._length + torch.arange(new))[None, :, None]
        allowed = seen & (place[None, None, :] >= self._padding[:, None, None])
        mask = torch.zeros(allowed.shape).masked_fill_(~allowed, _MASKED)
        return mask[:, None].to(self._network.place, self._network.element)

    def _total(self, new: int) -> int:
        """Positions attention reads: the filled ones, or the whole cache where shapes should stay fixed."""
        return self._network.dims.target_positions if self._network.fixed_shapes else self._length + new

    def _layer(self, number: int, layer: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        network, new = self._network, hidden.shape[1]
        normed = layer.self_attn_layer_norm(hidden)
        keys, values = self._caches[number]
        keys[:, :, self._length : self._length + new] = network.heads(layer.self_attn.k_proj(normed))
        values[:, :, self._length : self._length + new] = network.heads(layer.self_attn.v_proj(normed))
        total = self._total(new)
        query = network.heads(layer.self_attn.q_proj(normed))
        hidden = hidden + layer.self_attn.out_proj(self._attend(query, keys[:, :, :total], values[:, :, :total], mask))
        query = network.heads(layer.encoder_attn.q_proj(layer.encoder_attn_layer_norm(hidden)))
        if number in self.watched:
            self.queries[number] = query
        hidden = hidden + layer.encoder_attn.out_proj(self._attend(query, *self.cross[number], None))
        inner = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
        result: torch.Tensor = hidden + layer.fc2(inner)
        return result

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """[batch, new, width]."""
        if self._network.eager:
            scores = query @ key.transpose(2, 3) * self._network.dims.head_width**-0.5
            mixed = torch.softmax(scores if mask is None else scores + mask, dim=-1) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        batch, _, new, _ = query.shape
        return mixed.transpose(1, 2).reshape(batch, new, -1)

    def select(self, rows: Sequence[int]) -> None:
        index = torch.tensor(list(rows))
        self._padding = self._padding[index]
        index = index.to(self._network.place)
        self.cross = [(key[index], value[index]) for key, value in self.cross]
        self._caches = [(key[index], value[index]) for key, value in self._caches]
