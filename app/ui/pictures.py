"""Pictures of sound: waveform and mel spectrogram (librosa, matplotlib), drawn in a thread of the page.

Knows samples only; decoding is the media worker's work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backends.interface import Samples

_LONGEST_DRAWN = 300  # seconds; a picture of more shows nothing and costs memory
_MELS = 80
_HOP = 160
_INK = "#808080"  # reads on white as on black, for light and dark pages
_SOUND, _WORDS = "#2563eb", "#f97316"
_FIRST_CJK = "\u2e80"
_CJK_FONTS = ("Yu Gothic", "Meiryo", "MS Gothic", "Hiragino Sans", "Noto Sans CJK JP", "IPAexGothic")
_MOST_WORDS = 40  # more would be drawn over each other


def waveform_and_mel(samples: Samples, rate: int, words: Sequence[Mapping[str, Any]] = ()) -> Any:
    """Draw a matplotlib Figure of two rows: amplitude over seconds, and mel power in dB.

    samples: float32 [time], -1..1. words: {"word", "start"} with start in seconds, written over the waveform.
    """
    import librosa
    from matplotlib.figure import Figure

    part = np.asarray(samples[: _LONGEST_DRAWN * rate], dtype=np.float32)
    power = librosa.feature.melspectrogram(y=part, sr=rate, n_fft=400, hop_length=_HOP, n_mels=_MELS)
    decibels = librosa.power_to_db(power, ref=max(float(power.max(initial=0.0)), 1e-10))
    seconds = len(part) / rate
    figure = Figure(figsize=(8, 4), layout="constrained", facecolor="none")
    wave, mel = figure.subplots(2, 1, sharex=True)
    wave.plot(np.arange(len(part)) / rate, part, linewidth=0.5, color=_SOUND)
    loudest = max(float(np.abs(part).max(initial=0.0)), 0.05)
    wave.set(ylabel="amplitude", ylim=(-1.1 * loudest, 1.1 * loudest), xlim=(0, max(seconds, 1e-3)))
    image = mel.imshow(
        decibels, origin="lower", aspect="auto", extent=(0, seconds, 0, _MELS), vmin=-80, vmax=0, cmap="magma"
    )
    mel.set(ylabel="mel band", xlabel="seconds")
    bar = figure.colorbar(image, ax=mel, label="dB")
    for axes in (wave, mel, bar.ax):
        _in_ink(axes)
    _write_words(wave, [word for word in words if word["start"] < seconds])
    return figure


def _in_ink(axes: Any) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=_INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
    for spine in axes.spines.values():
        spine.set_color(_INK)


def _write_words(axes: Any, words: Sequence[Mapping[str, Any]]) -> None:
    """Mark the start of each word, with the word above it while there is room and a font for it."""
    fonts = _fonts()
    for word in words:
        axes.axvline(word["start"], color=_WORDS, linewidth=0.8, alpha=0.8)
    for word in words if len(words) <= _MOST_WORDS else ():
        if len(fonts) > 1 or max(word["word"], default="") < _FIRST_CJK:
            position = {"xy": (word["start"], 1.02), "xycoords": ("data", "axes fraction"), "rotation": 30}
            axes.annotate(word["word"], **position, fontsize=8, color=_INK, fontfamily=fonts)


def _fonts() -> list[str]:
    """List matplotlib's own font, and one of this machine's for what it lacks: Chinese, Japanese, Korean."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *[name for name in _CJK_FONTS if name in installed][:1]]
