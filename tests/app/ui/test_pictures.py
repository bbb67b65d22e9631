"""The picture of a sound shows what it should, for any length."""

from __future__ import annotations

import numpy as np
import pytest

from app.ui.pictures import waveform_and_mel

RATE = 16_000


def test_a_tone_is_bright_in_its_own_band_only() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    wave, mel = waveform_and_mel(tone, RATE).axes[:2]
    shown = mel.images[0].get_array()
    rows = np.asarray(shown).mean(axis=1)
    assert rows.max() - np.median(rows) > 30  # dB
    assert wave.get_xlim() == (0.0, 1.0)


@pytest.mark.parametrize("samples", [np.zeros(400, np.float32), np.zeros(RATE, np.float32)])
def test_silence_and_a_blink_are_drawn_too(samples: np.ndarray) -> None:
    assert len(waveform_and_mel(samples, RATE).axes) == 3


def test_only_the_beginning_of_a_long_recording_is_drawn() -> None:
    wave = waveform_and_mel(np.zeros(301 * RATE, np.float32), RATE).axes[0]
    assert wave.get_xlim() == (0.0, 300.0)


def _written(word: str, **more: float) -> list[str]:
    words = [{"word": word, "start": 0.5, **more}]
    wave = waveform_and_mel(np.zeros(RATE, np.float32), RATE, words).axes[0]
    return [text.get_text() for text in wave.texts]


def test_words_are_written_where_they_begin() -> None:
    assert _written("häuser") == ["häuser"]
    assert _written("late", start=2.0) == []


@pytest.mark.parametrize(("fonts", "texts"), [(["DejaVu Sans"], []), (["DejaVu Sans", "DejaVu Serif"], ["猫"])])
def test_what_no_font_can_draw_is_left_out(monkeypatch: pytest.MonkeyPatch, fonts: list[str], texts: list[str]) -> None:
    monkeypatch.setattr("app.ui.pictures._fonts", lambda: fonts)
    assert _written("猫") == texts
