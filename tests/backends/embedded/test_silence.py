"""Silence around and between the pieces."""

from __future__ import annotations

import numpy as np
import pytest

from backends.embedded.silence import pause_behind, silence, trimmed


def test_silence_at_the_ends_is_cut_and_inner_silence_stays() -> None:
    tone = np.sin(np.arange(2400) * 0.2).astype(np.float32)
    samples = np.concatenate([np.zeros(7200), tone, np.zeros(4800), tone, np.zeros(10_800)]).astype(np.float32)
    left = trimmed(samples, 24_000)
    assert len(left) == pytest.approx(2 * 2400 + 4800, abs=2400)
    assert np.count_nonzero(left) == np.count_nonzero(samples)


@pytest.mark.parametrize("samples", [np.zeros(1000, np.float32), np.zeros(0, np.float32), np.zeros(3, np.float32)])
def test_nothing_is_left_of_silence(samples: np.ndarray) -> None:
    assert not len(trimmed(samples, 24_000))


def test_a_sentence_pauses_longer_than_a_clause() -> None:
    assert pause_behind("həlˈoʊ.”") > pause_behind("həlˈoʊ,") > pause_behind("həlˈoʊ") > 0
    assert len(silence(0.5, 24_000)) == 12_000
