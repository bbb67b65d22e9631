"""Several channels to one.

Owns the weight of each loudspeaker, what is done where channels cancel each other, and that the centre is heard where
it speaks. Knows neither files nor decoders.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from backends.interface import Samples

_LOST = 0.01  # of the channels' mean energy: a sum with less than this (-20 dB) has cancelled
# ITU-R BS.775-3, table 2, the row of one front channel and no other: the centre, where films speak, counts most. What
# stands in the effects' channel (LFE) lies below speech. Names as FFmpeg calls the loudspeakers.
_WEIGHTS = {
    "FC": 1.0,
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "DL", "DR"), 0.7071),
    **dict.fromkeys(("BL", "BR", "BC", "SL", "SR"), 0.5),
    **dict.fromkeys(("TFL", "TFC", "TFR", "TC", "TBL", "TBC", "TBR", "TSL", "TSR"), 0.5),
    **dict.fromkeys(("LFE", "LFE2"), 0.0),
}
_LEVEL_SECONDS, _LEVELS = 0.02, 150  # of one level, and how many of the last ones are looked at: 3 s
_FEWEST_LEVELS = 10
_SPOKEN_DB = 12.0  # between the loud and the quiet of what is spoken; of noise it is some 4
_QUIETEST_DB = -55.0  # of full scale; what is quieter in the centre is no speech
_FARTHEST_DB = 25.0  # by which speech in the centre may be quieter than all around it
# What the other channels count while the centre speaks: steady noise holds no words, music or effects may hold some.
_NOISE, _BESIDE = 0.03, 0.25
_FADE_SECONDS, _AHEAD_SECONDS = 0.02, 1.0
# The bits of a wav file's channel mask, lowest first (mmreg.h, SPEAKER_FRONT_LEFT and following).
_MASK = [
    "FL",
    "FR",
    "FC",
    "LFE",
    "BL",
    "BR",
    "FLC",
    "FRC",
    "BC",
    "SL",
    "SR",
    "TC",
    "TFL",
    "TFC",
    "TFR",
    "TBL",
    "TBC",
    "TBR",
]
# RFC 9639, 9.1.3: what one to eight channels of a FLAC are.
_FLAC = {
    3: ("FL", "FR", "FC"),
    4: ("FL", "FR", "BL", "BR"),
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}

Speakers = tuple[str, ...]  # the loudspeaker of each channel; () where nobody says


class Block(NamedTuple):
    """samples: float32 [frames, channels] in -1..1; rate: Hz; speakers: as many names as channels, or none."""

    samples: Samples
    rate: int
    speakers: Speakers = ()


def speakers_of_mask(mask: int) -> Speakers:
    """The loudspeakers of a wav file's channel mask, in the order of its channels."""
    return tuple(name for bit, name in enumerate(_MASK) if mask >> bit & 1)


def speakers_of_flac(channels: int) -> Speakers:
    """The loudspeakers of a FLAC with so many channels."""
    return _FLAC.get(channels, ())


class Mixer:
    """The blocks of one upload, each to one channel.

    Where the layout has a centre and that one speaks, the others stand back: steady noise until something else than
    noise is in them, all else as long as the centre speaks. That is decided for a second at a time.
    """

    def __init__(self) -> None:
        self._centre: deque[float] = deque(maxlen=_LEVELS)  # dB of full scale
        self._others: deque[float] = deque(maxlen=_LEVELS)
        self._gain = 1.0
        self._waiting: list[Block] = []
        self._seconds = 0.0

    def push(self, block: Block) -> Iterator[tuple[Samples, int]]:
        """float32 [frames] and Hz of this block or those before it. What is not a number becomes silence."""
        if not _has_centre(block):
            yield from self.flush()
            yield mono(block.samples, block.speakers), block.rate
            return
        for channel, levels in zip(_parted(block), (self._centre, self._others), strict=True):
            levels.extend(_levels(channel, max(1, round(_LEVEL_SECONDS * block.rate))))
        self._waiting.append(block)
        self._seconds += len(block.samples) / block.rate
        if self._seconds >= _AHEAD_SECONDS:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[Samples, int]]:
        """What has waited for what comes behind it."""
        waiting, self._waiting, self._seconds = self._waiting, [], 0.0
        before, self._gain = self._gain, self._next_gain()
        for block in waiting:
            if before == self._gain == 1.0:
                yield mono(block.samples, block.speakers), block.rate
            else:
                yield self._mixed(block, before), block.rate
            before = self._gain

    def _mixed(self, block: Block, before: float) -> Samples:
        centre, others = _parted(block)
        gain = np.full(len(others), self._gain, np.float32)
        fade = min(len(gain), round(_FADE_SECONDS * block.rate))
        gain[:fade] = np.linspace(before, self._gain, fade, dtype=np.float32)
        mixed: Samples = centre + gain * others
        return mixed

    def _next_gain(self) -> float:
        if len(self._centre) < _FEWEST_LEVELS:
            return self._gain
        quiet, loud = np.percentile(self._centre, (20, 90))
        calm, strong = np.percentile(self._others, (20, 90))
        steady = strong - calm < _SPOKEN_DB
        if loud - quiet >= _SPOKEN_DB and loud > max(_QUIETEST_DB, strong - _FARTHEST_DB):
            return _NOISE if steady else _BESIDE
        return self._gain if steady else 1.0


def _has_centre(block: Block) -> bool:
    """And all values are numbers."""
    channels = block.samples.shape[1]
    known = channels >= 3 and len(block.speakers) == channels and "FC" in block.speakers
    return known and bool(np.isfinite(block.samples).all())


def _parted(block: Block) -> tuple[Samples, Samples]:
    """The centre, and all others, float32 [frames], as they are in the mix."""
    weights, middle = _weights(len(block.speakers), block.speakers), block.speakers.index("FC")
    centre = block.samples[:, middle] * weights[middle]
    return centre, block.samples @ weights - centre


def _levels(samples: Samples, frames: int) -> list[float]:
    """dB of full scale of each `frames` samples; the rest at the end has none."""
    pieces = samples[: len(samples) // frames * frames].reshape(-1, frames)
    power = np.einsum("ij,ij->i", pieces, pieces) / frames
    return [float(level) for level in 10.0 * np.log10(power + 1e-12)]


def mono(samples: Samples, speakers: Speakers = ()) -> Samples:
    """float32 [frames, channels] as [frames]: weighted by loudspeaker where those are known, else the mean.

    Where two channels are each other's inverse, half their difference; where the sum of more has lost nearly all
    energy, the loudest channel. What is not a number becomes silence.
    """
    channels = samples.shape[1]
    mixed = samples[:, 0] if channels == 1 else _mixed(samples, _weights(channels, speakers))
    return mixed if np.isfinite(mixed).all() else np.nan_to_num(mixed, nan=0.0, posinf=0.0, neginf=0.0)


@cache
def _weights(channels: int, speakers: Sequence[str]) -> Samples:
    """float32 [channels] with the sum 1, so that nothing clips."""
    known = len(speakers) == channels and all(name in _WEIGHTS for name in speakers)
    weights = np.array([_WEIGHTS[name] for name in speakers] if known else [1.0] * channels, np.float32)
    total = weights.sum()
    return weights / total if total else np.full(channels, 1.0 / channels, np.float32)


def _mixed(samples: Samples, weights: Samples) -> Samples:
    mixed: Samples = samples @ weights
    flat = samples.ravel(order="K")
    whole = float(np.vdot(flat, flat)) / samples.shape[1]
    if not float(np.vdot(mixed, mixed)) < _LOST * whole:  # also where something is not a number
        return mixed
    if samples.shape[1] == 2:
        return (samples[:, 0] - samples[:, 1]) * np.float32(0.5)
    return samples[:, int(np.einsum("ij,ij->j", samples, samples).argmax())]
