"""Several channels to one.

Owns the weight of each loudspeaker and what is done where channels cancel each other. Knows neither files nor decoders.
"""

from __future__ import annotations

from collections.abc import Sequence
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
