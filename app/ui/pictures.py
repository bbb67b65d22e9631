"""Pictures of sound: waveform and mel spectrogram (librosa, matplotlib), drawn in a thread of the page.

Knows samples only; decoding is the media worker's work.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.interface import Samples

_LONGEST_DRAWN = 300  # seconds; a picture of more shows nothing and costs memory
_MELS = 80
_HOP = 160


def waveform_and_mel(samples: Samples, rate: int) -> Any:
    """A matplotlib Figure of two rows: amplitude over seconds, and mel power in dB. samples: float32 [time], -1..1."""
    import librosa
    from matplotlib.figure import Figure

    part = np.asarray(samples[: _LONGEST_DRAWN * rate], dtype=np.float32)
    power = librosa.feature.melspectrogram(y=part, sr=rate, n_fft=400, hop_length=_HOP, n_mels=_MELS)
    decibels = librosa.power_to_db(power, ref=max(float(power.max(initial=0.0)), 1e-10))
    seconds = len(part) / rate
    figure = Figure(figsize=(8, 4), layout="constrained")
    wave, mel = figure.subplots(2, 1, sharex=True)
    wave.plot(np.arange(len(part)) / rate, part, linewidth=0.5)
    wave.set(ylabel="amplitude", ylim=(-1.05, 1.05), xlim=(0, max(seconds, 1e-3)))
    image = mel.imshow(decibels, origin="lower", aspect="auto", extent=(0, seconds, 0, _MELS), vmin=-80, vmax=0, cmap="magma")
    mel.set(ylabel="mel band", xlabel="seconds")
    figure.colorbar(image, ax=mel, label="dB")
    return figure
