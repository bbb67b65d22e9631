"""Pauses, noise floor and the closed self-test, below the backend."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backends.embedded.comfort_noise import NOISE_BELOW_SPEECH_DB, with_noise_floor
from backends.embedded.selftest import Result, self_test
from backends.embedded.utterances import Rules, Utterance, UtteranceFinder
from backends.embedded.voice_activity import FRAME, ListeningState, VoiceDetector
from backends.embedded.vowel import vowel
from backends.interface import ASR_SAMPLE_RATE, Samples
from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def detector() -> VoiceDetector:
    return VoiceDetector()


class ScriptedDetector:
    """Says speech wherever the samples are not zero, so that the cutting rules can be tested exactly."""

    def probabilities(self, samples: Samples, state: ListeningState) -> np.ndarray:
        frames = samples.reshape(-1, FRAME)
        return np.abs(frames).max(axis=1).astype(np.float32)


def spans(*seconds: float) -> Samples:
    """Alternating silence and speech of the given lengths, beginning with silence."""
    parts = [np.full(round(s * ASR_SAMPLE_RATE), index % 2, np.float32) for index, s in enumerate(seconds)]
    return np.concatenate(parts)


def utterances(samples: Samples, rules: Rules) -> list[Utterance]:
    finder = UtteranceFinder(ScriptedDetector(), samples, rules)  # type: ignore[arg-type]
    found = []
    for _ in range(1000):
        if (utterance := finder.next()) is not None:
            found.append(utterance)
        if finder.finished:
            return found
    raise AssertionError("the finder does not end")


def test_pauses_end_utterances_and_short_ones_do_not() -> None:
    found = utterances(spans(1, 2, 0.3, 1, 1, 1.5, 1), Rules())
    edges = [(u.begin / ASR_SAMPLE_RATE, u.end / ASR_SAMPLE_RATE) for u in found]
    assert edges == [pytest.approx((0.8, 4.5), abs=0.07), pytest.approx((5.1, 7.0), abs=0.07)]


def test_speech_without_a_pause_is_cut_and_nothing_is_lost() -> None:
    found = utterances(spans(0, 20), Rules(longest=6))
    assert all((u.end - u.begin) / ASR_SAMPLE_RATE <= 6.1 for u in found)
    assert found[0].begin == 0
    assert found[-1].end == 20 * ASR_SAMPLE_RATE
    assert all(before.end == after.begin for before, after in itertools.pairwise(found))


def test_a_cut_is_made_where_it_is_quietest() -> None:
    samples = spans(0, 20)
    samples[int(4 * ASR_SAMPLE_RATE) : int(4.2 * ASR_SAMPLE_RATE)] = 0.4
    first = utterances(samples, Rules(longest=6))[0]
    assert 4.0 <= first.end / ASR_SAMPLE_RATE <= 4.1  # no padding: what follows belongs to the next


@pytest.mark.parametrize("length", [0, 1, FRAME - 1, FRAME, 100_000])
def test_any_length_ends(length: int) -> None:
    assert utterances(np.zeros(length, np.float32), Rules()) == []
    assert len(utterances(np.ones(length, np.float32), Rules())) == (length > 3 * FRAME) + (length > 90_000)


def test_the_detector_gives_the_same_in_pieces(detector: VoiceDetector) -> None:
    samples = np.concatenate([vowel(), vowel()])[: 60 * FRAME]
    whole = detector.probabilities(samples, ListeningState())
    state = ListeningState()
    pieces = [detector.probabilities(samples[i : i + 7 * FRAME], state) for i in range(0, len(samples), 7 * FRAME)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)


def test_the_detector_finds_a_vowel_and_no_noise(detector: VoiceDetector) -> None:
    assert np.count_nonzero(detector.probabilities(vowel(), ListeningState()) > 0.5) >= 6
    noise = np.random.default_rng(0).standard_normal(ASR_SAMPLE_RATE).astype(np.float32)
    assert detector.probabilities(noise, ListeningState()).max() < 0.5


def test_noise_goes_under_digital_silence_at_the_stated_level() -> None:
    speech = np.random.default_rng(1).standard_normal(ASR_SAMPLE_RATE).astype(np.float32) * np.float32(0.2)
    gapped = np.concatenate([speech, np.zeros(3200, np.float32), speech])
    noisy, added = with_noise_floor(gapped)
    assert added
    floor = noisy[ASR_SAMPLE_RATE : ASR_SAMPLE_RATE + 3200]
    below = 20 * np.log10(np.sqrt(np.mean(speech**2)) / np.sqrt(np.mean(floor**2)))
    assert below == pytest.approx(NOISE_BELOW_SPEECH_DB, abs=0.5)
    np.testing.assert_array_equal(with_noise_floor(gapped)[0], noisy)


def test_recordings_and_silence_stay_untouched() -> None:
    speech = np.random.default_rng(1).standard_normal(ASR_SAMPLE_RATE).astype(np.float32)
    buzz = np.full(3200, 0.003, np.float32)
    for samples in (np.concatenate([speech, buzz, speech]), np.zeros(9000, np.float32), np.zeros(0, np.float32)):
        same, added = with_noise_floor(samples)
        assert not added
        assert same is samples


def test_silence_around_the_speech_is_no_reason_for_noise() -> None:
    speech = np.random.default_rng(1).standard_normal(ASR_SAMPLE_RATE).astype(np.float32)
    assert not with_noise_floor(np.concatenate([np.zeros(8000, np.float32), speech, np.zeros(8000, np.float32)]))[1]


def test_the_self_test_needs_the_exact_sentence() -> None:
    assert not Result("A cup of milk.", "a cup of milk").passed
    assert [result.passed for result in self_test(("A cup of coffee.", "A glass of water."))] == [True, True]


def test_the_self_test_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "backends.embedded.selftest"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.count('"passed": true') == 12
