"""SilentCipher's three networks, loaded from its published files without running anything that is in them.

Knows hyperparameters, weights and batch normalisation; the signal processing is watermark.py's.
"""

from __future__ import annotations

import argparse
import importlib.util
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from safetensors.torch import load_file
from torch import Tensor

from backends.interface import ModelUnavailable

_PUBLISHED = ("44_1_khz/73999_iteration", "73999_iteration")
_CHANNELS = 32  # of the carrier encoder's output, fixed in the package


class Nets:
    """rate, fft, hop: Hz and samples; band: bins that carry the message; symbols per period, of so many kinds."""

    def __init__(self, hparams: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.rate, self.fft = int(hparams["SR"]), int(hparams["N_FFT"])
        self.hop, self.band = int(hparams["HOP_LENGTH"]), int(hparams["message_band_size"])
        self.symbols, self.symbol_kinds = int(hparams["message_len"]), int(hparams["message_dim"])
        self.normalised = not hparams.get("no_normalization", False)
        self._flags = {name: bool(value) for name, value in hparams.items() if isinstance(value, bool)}
        nets, config = _package(), argparse.Namespace(**{**_FLAGS, **hparams})
        self._encoder = nets.Encoder(
            n_layers=_layers(states["enc_c"]),
            message_dim=self.symbol_kinds,
            out_dim=_CHANNELS,
            message_band_size=self.band,
            n_fft=self.fft,
        )
        self._carrier = nets.CarrierDecoder(config, 3 * _CHANNELS, _layers(states["dec_c"]), self.band)
        decoder = states["dec_m_0"]
        channels = decoder["main.1.conv.weight"].shape[0] if "main.1.conv.weight" in decoder else 128
        self._decoder = nets.MsgDecoder(self.symbol_kinds, self.band, channels, _layers(decoder))
        for net, name in ((self._encoder, "enc_c"), (self._carrier, "dec_c"), (self._decoder, "dec_m_0")):
            _fill(net, states[name], name)

    def normalise_by(self, statistics: str) -> None:
        """ "batch": statistics of each call's own data, kept nowhere; "running": the trained ones."""
        for net in (self._encoder, self._carrier, self._decoder):
            net.eval().requires_grad_(False)
            for module in net.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.track_running_stats = statistics == "running"
                    module.train(statistics == "batch")

    def carrier(self, magnitude: Tensor, message: Tensor) -> Tensor:
        """The raw watermark [bins, frames] for magnitude [bins, frames] and one-hot message [kinds, frames]."""
        bins, frames = magnitude.shape
        image = magnitude[None, None]
        words = self._encoder.linear(message.T).T  # [band, frames]
        words = torch.nn.functional.pad(words, (0, 0, 0, max(0, bins - self.band)))[:bins]
        channels = (1, _CHANNELS, bins, frames)
        merged = torch.cat([self._encoder.main(image), image.expand(channels), words.expand(channels)], 1)
        raw: Tensor = self._carrier.main(merged)[0, 0]
        return raw.abs() if self._flags.get("ensure_negative_message") else raw

    def combined(self, magnitude: Tensor, watermark: Tensor) -> Tensor:
        """The marked magnitude, never negative."""
        if self._flags.get("ensure_negative_message"):
            return torch.relu(magnitude - watermark)
        if self._flags.get("ensure_constrained_message"):
            return magnitude + torch.minimum(torch.maximum(watermark, -magnitude), magnitude)
        return (magnitude + watermark).abs()

    def loudness(self, magnitude: Tensor) -> Tensor | float:
        """What the watermark is scaled by: the rms of each frame, of the whole, or nothing."""
        if self._flags.get("frame_level_normalization"):
            return magnitude.square().mean(0, keepdim=True).sqrt()
        return magnitude.square().mean().sqrt() if self._flags.get("utterance_level_normalization") else 1.0

    def symbol_scores(self, magnitude: Tensor) -> Tensor:
        """Scores [kinds, frames] of the symbols in magnitude [bins, frames]."""
        scores: Tensor = self._decoder(magnitude[None, None])[0, 0]
        return scores


_FLAGS = {
    "ensure_negative_message": True,
    "ensure_constrained_message": False,
    "frame_level_normalization": False,
    "utterance_level_normalization": True,
    "no_normalization": False,
}


def load_nets(folder: Path) -> Nets:
    """Raises ModelUnavailable naming the file or tensor that is missing or broken."""
    inner = next((folder / part for part in _PUBLISHED if (folder / part / "hparams.yaml").is_file()), folder)
    file = inner / "hparams.yaml"
    if not file.is_file():
        raise ModelUnavailable(
            f"the watermark model is not in {folder} (no hparams.yaml); fetch it with: "
            f"speech-gateway pull sony/silentcipher, or set watermark = false in the deployment"
        )
    states = {name: _state(inner, name) for name in ("enc_c", "dec_c", "dec_m_0")}
    try:
        hparams = {**_FLAGS, **yaml.safe_load(file.read_text(encoding="utf-8"))}
        return Nets(hparams, states)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ModelUnavailable(f"{file} is not a usable SilentCipher configuration: {error!r}") from error


def _state(folder: Path, name: str) -> dict[str, Tensor]:
    """One network's tensors; the published pickles are read as plain tensors only."""
    safe, pickled = folder / f"{name}.safetensors", folder / f"{name}.ckpt"
    if safe.is_file():
        state = load_file(safe)
    elif pickled.is_file():
        try:
            state = torch.load(pickled, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise ModelUnavailable(f"{pickled} is not a plain state dict: {error}") from error
    else:
        raise ModelUnavailable(f"the watermark model in {folder} lacks {pickled.name}")
    return {key.removeprefix("module."): tensor.float() for key, tensor in state.items()}


def _fill(net: Any, state: Mapping[str, Tensor], name: str) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ModelUnavailable(f"the watermark's network {name} does not fit its configuration: {error}") from error


def _layers(state: Mapping[str, Tensor]) -> int:
    """How many gated layers a state dict holds."""
    return sum(1 for key in state if re.fullmatch(r"main\.\d+\.conv\.weight", key))


def _package() -> ModuleType:
    """silentcipher's module of networks alone: importing the package would pull audio readers that are not needed."""
    package = importlib.util.find_spec("silentcipher")
    if package is None or not package.submodule_search_locations:
        raise ModelUnavailable("the watermark needs the package silentcipher; install the extra `torch`")
    spec = importlib.util.spec_from_file_location(
        "silentcipher_networks", Path(package.submodule_search_locations[0]) / "model.py"
    )
    if spec is None or spec.loader is None:
        raise ModelUnavailable("the package silentcipher has no module `model`")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
