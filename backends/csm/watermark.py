"""SilentCipher, the inaudible watermark: five bytes hidden in speech, and found again.

The networks are silentcipher's; everything around them (spectrogram, energy, symbol phase, statistics) is here, so that
nothing global is kept between calls. One symbol of two bits per spectrogram frame, 20 symbols and a terminator per
period. The package normalises by statistics of the very audio it works on ("batch"), never by those it was trained
with ("running"); both are offered, and neither changes the networks. Knows no speech model.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backends.csm.watermark_model.nets import Nets, load_nets
from backends.csm.watermark_model.resample import resample
from backends.interface import InvalidInput

Samples = NDArray[np.float32]
Statistics = Literal["batch", "running"]

DEFAULT_SDR = 36.0  # dB, what CSM's own code uses
_SPEECH_POWER = 0.002837200844477648  # mean square of the speech the networks were trained on
_REACH = 6  # bins that the 3x3 convolutions of both encoding networks see beyond their own
_SURE = 0.9  # share of agreeing symbols at which the search for the frame grid stops
_SEARCH_SECONDS = 3.0  # of audio that the search looks at


@dataclass(frozen=True, slots=True)
class Detection:
    """status: "found", "not found" or "too short"; message: the five bytes; confidence: share of agreeing symbols."""

    status: Literal["found", "not found", "too short"]
    message: tuple[int, ...] = ()
    confidence: float = 0.0


def load_watermark(folder: str | Path, statistics: Statistics = "batch") -> Watermark:
    """The watermark's networks from a folder with hparams.yaml and enc_c, dec_c, dec_m_0 (.ckpt or .safetensors).

    A folder that holds the published 44_1_khz subfolder will do. Raises ModelUnavailable naming what is missing.
    """
    return Watermark(load_nets(Path(folder)), statistics)


class Watermark:
    """Encodes and detects; safe to use from several threads."""

    def __init__(self, nets: Nets, statistics: Statistics = "batch") -> None:
        if statistics not in ("batch", "running"):
            raise InvalidInput(
                f"watermark statistics {statistics!r}; known: batch, running", param="watermark_statistics"
            )
        nets.normalise_by(statistics)
        self._nets, self._statistics, self._lock = nets, statistics, threading.Lock()
        self._window = torch.hann_window(nets.fft)

    @property
    def rate(self) -> int:
        """Hz at which the networks work."""
        return self._nets.rate

    @property
    def hop(self) -> int:
        """Samples (at `rate`) per symbol."""
        return self._nets.hop

    @property
    def period(self) -> int:
        """Symbols per repetition of the message."""
        return self._nets.symbols

    # --- encoding -----------------------------------------------------------------------------------------------------

    def encode(self, samples: Samples, rate: int, key: Sequence[int], sdr: float = DEFAULT_SDR) -> Samples:
        """Marked samples float32 [n], same rate and length. key: the message, five bytes; silence stays unmarked."""
        at_rate = resample(samples, rate, self.rate)
        marked = self.encode_native(at_rate, key, sdr)
        return resample(marked, self.rate, rate)[: len(samples)]

    def encode_native(
        self,
        samples: Samples,
        key: Sequence[int],
        sdr: float = DEFAULT_SDR,
        first_symbol: int = 0,
        power: float | None = None,
    ) -> Samples:
        """The same at the networks' own rate, for samples whose first frame carries symbol `first_symbol` of the
        period.

        power: mean square to normalise by, where the samples are a piece of something longer.
        """
        power = float(np.mean(np.square(samples))) if power is None and len(samples) else power or 0.0
        if power == 0.0 or not len(samples) or not np.any(samples):
            return np.array(samples, np.float32)
        scale = np.sqrt(_SPEECH_POWER / power)
        with self._lock, torch.inference_mode():
            y = torch.from_numpy(np.ascontiguousarray(samples * scale, np.float32))
            marked = self._watermarked(y, self._symbols(key), sdr, first_symbol)
        quiet: Samples = (marked.numpy() / scale).astype(np.float32)
        return quiet

    def _symbols(self, key: Sequence[int]) -> Tensor:
        """One-hot symbols [dim, period]: two bits each plus one, then the terminator 0."""
        bits = "".join(f"{byte:08b}" for byte in key)
        pairs = [int(bits[i : i + 2], 2) + 1 for i in range(0, len(bits), 2)]
        if len(pairs) != self._nets.symbols - 1 or any(not 0 <= byte < 256 for byte in key):
            raise InvalidInput(f"a watermark message has {(self._nets.symbols - 1) // 4} bytes, not {list(key)}")
        return F.one_hot(torch.tensor([*pairs, 0]), self._nets.symbol_kinds).T.float()

    def _watermarked(self, y: Tensor, symbols: Tensor, sdr: float, first_symbol: int) -> Tensor:
        """y [n] -> [n] with the watermark added to its magnitudes, phases kept."""
        magnitude, phase = self._spectrum(y)
        frames = torch.arange(magnitude.shape[1]) + first_symbol
        watermark = self._watermark_of(magnitude, symbols[:, frames % self._nets.symbols], sdr)
        return self._signal(self._nets.combined(magnitude, watermark), phase, len(y))

    def _watermark_of(self, magnitude: Tensor, message: Tensor, sdr: float) -> Tensor:
        """The watermark for magnitude [bins, frames] that carries message [dim, frames], `sdr` dB below it."""
        bins = magnitude.shape[0]
        # Bins beyond the message's band are discarded; with fixed statistics they need not even be computed.
        used = min(bins, self._nets.band + _REACH) if self._statistics == "running" else bins
        raw = self._nets.carrier(magnitude[:used], message)
        watermark = F.pad(raw[: self._nets.band], (0, 0, 0, bins - self._nets.band))
        if self._nets.normalised:
            watermark = watermark / watermark.square().mean(0, keepdim=True).sqrt().clamp_min(1e-12) / 10 ** (sdr / 20)
        return watermark * self._nets.loudness(magnitude)

    # --- detection ----------------------------------------------------------------------------------------------------

    def detect(self, samples: Samples, rate: int, *, search: bool = True) -> Detection:
        """The message in samples float32 [n]. search: look for the frame grid, as needed for audio that was cut.

        The search stops at the first grid on which the symbols agree; unmarked audio costs 17 looks at 3 s each.
        """
        y = resample(samples, rate, self.rate)
        if len(y) < self.shortest:
            return Detection("too short")
        power = float(np.mean(np.square(y)))
        if power == 0.0:
            return Detection("not found")
        y = y * np.float32(np.sqrt(_SPEECH_POWER / power))
        with self._lock, torch.inference_mode():
            shift = self._grid(y) if search else 0
            return self._read(self._decided(y[shift:]))

    @property
    def shortest(self) -> int:
        """Samples at the networks' rate below which there is no whole period."""
        return (self._nets.symbols - 3) * self._nets.hop

    def _grid(self, y: Samples) -> int:
        """The offset in samples at which the repeated symbols agree best: coarse, then fine around the best."""
        part = y[: max(int(_SEARCH_SECONDS * self.rate), 3 * self.period * self.hop)]
        coarse, fine = max(1, self.hop // 16), max(1, self.hop // 128)
        best, agreement = 0, _agreement(self._decided(part))
        for offsets in (range(coarse, self.hop, coarse), range(-coarse + fine, coarse, fine)):
            centre = best if offsets.start < 0 else 0
            for offset in offsets:
                if agreement >= _SURE:
                    return best
                shift = (centre + offset) % self.hop
                seen = _agreement(self._decided(part[shift:]))
                if seen > agreement:
                    best, agreement = shift, seen
        return best

    def _decided(self, y: Samples) -> NDArray[np.int64]:
        """The most likely symbol of every frame, int64 [periods, symbols per period]."""
        magnitude, _ = self._spectrum(torch.from_numpy(np.ascontiguousarray(y, np.float32)))
        symbols = self._nets.symbol_scores(magnitude).argmax(0).numpy()
        complete = len(symbols) // self.period * self.period
        return symbols[:complete].reshape(-1, self.period)

    def _read(self, symbols: NDArray[np.int64]) -> Detection:
        """The most frequent symbol of every column, rotated so that the terminator ends the message."""
        if not len(symbols):
            return Detection("too short")
        message = _most_frequent(symbols)
        confidence = float(np.mean(symbols == message))
        ends = np.flatnonzero(message == 0)
        if len(ends) != 1:
            return Detection("not found", (), confidence)
        pairs = np.concatenate([message[ends[0] + 1 :], message[: ends[0]]]) - 1
        bits = "".join(f"{pair:02b}" for pair in pairs)
        return Detection("found", tuple(int(bits[i : i + 8], 2) for i in range(0, len(bits) - 7, 8)), confidence)

    # --- spectrogram --------------------------------------------------------------------------------------------------

    def _spectrum(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Magnitude and phase [bins, frames] of y [n], padded on the right by 1..fft samples to a multiple of fft."""
        fft, hop = self._nets.fft, self._nets.hop
        padded = F.pad(y, (0, fft - len(y) % fft))[None]
        spectrum = torch.stft(padded, fft, hop, fft, window=self._window, return_complex=True)[0]
        return spectrum.abs(), spectrum.angle()

    def _signal(self, magnitude: Tensor, phase: Tensor, samples: int) -> Tensor:
        spectrum = torch.polar(magnitude, phase)[None]
        return torch.istft(spectrum, self._nets.fft, self._nets.hop, self._nets.fft, window=self._window)[0, :samples]


def _most_frequent(symbols: NDArray[np.int64]) -> NDArray[np.int64]:
    """The mode of every column (the smallest of ties)."""
    counts = np.apply_along_axis(np.bincount, 0, symbols, minlength=int(symbols.max()) + 1)
    mode: NDArray[np.int64] = counts.argmax(0)
    return mode


def _agreement(symbols: NDArray[np.int64]) -> float:
    """Share of symbols equal to their column's most frequent one; one period alone proves nothing."""
    return float(np.mean(symbols == _most_frequent(symbols))) if len(symbols) > 1 else 0.0


def result(detection: Detection, key: Sequence[int] | None = None) -> dict[str, Any]:
    """A detection as JSON values; `ours`: whether the message is this installation's key."""
    return {
        "status": detection.status,
        "message": list(detection.message),
        "confidence": round(detection.confidence, 4),
        "ours": key is not None and detection.status == "found" and detection.message == tuple(key),
    }
