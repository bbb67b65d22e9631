"""A noise floor for speech that has none.

Formant synthesis leaves digital silence between words, which pocketsphinx's acoustic model never saw: it then misses
four words of five. White noise 25 to 30 dB under the speech brings that to about one of four. On recordings, which have
a floor of their own, it does nothing good, so it is added only where an utterance shows digital silence between its
words.
Knows no recogniser.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.interface import ASR_SAMPLE_RATE, Samples

NOISE_BELOW_SPEECH_DB = 28.0
_FRAME = ASR_SAMPLE_RATE // 100  # 10 ms
_DIGITAL_SILENCE = 1e-4  # RMS, -80 dB of full scale: rounding of 16 bit at most, no microphone
_SPEECH_SHARE = 0.05  # of the loudest frame: frames above count as speech
_SILENT_SHARE = 0.02  # of the frames between first and last speech


def with_noise_floor(samples: Samples) -> tuple[Samples, bool]:
    """`samples` ([time] at 16 kHz), with noise under the whole of it if it needs some; and whether it did.

    The noise is the same for the same audio, so an answer can be repeated.
    """
    levels = _frame_levels(samples)
    if not _digitally_silent_between_words(levels):
        return samples, False
    speech = levels[levels > _SPEECH_SHARE * levels.max()]
    level = float(np.sqrt(np.mean(np.square(speech)))) * 10 ** (-NOISE_BELOW_SPEECH_DB / 20)
    noise = np.random.default_rng(0).standard_normal(len(samples), dtype=np.float32)
    return samples + np.float32(level) * noise, True


def _frame_levels(samples: Samples) -> NDArray[np.float32]:
    """RMS of each whole 10 ms frame."""
    count = len(samples) // _FRAME
    frames = np.asarray(samples[: count * _FRAME], np.float32).reshape(count, _FRAME)
    levels: NDArray[np.float32] = np.sqrt(np.mean(np.square(frames), axis=1))
    return levels


def _digitally_silent_between_words(levels: NDArray[np.float32]) -> bool:
    if not levels.size or levels.max() <= _DIGITAL_SILENCE:
        return False
    loud = np.flatnonzero(levels > _SPEECH_SHARE * levels.max())
    inner = levels[loud[0] : loud[-1] + 1]
    return bool(np.mean(inner < _DIGITAL_SILENCE) >= _SILENT_SHARE)
