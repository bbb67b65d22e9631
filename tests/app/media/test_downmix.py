"""Several channels to one: the weights of loudspeakers, and channels that cancel each other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from app.media.downmix import mono, speakers_of_flac, speakers_of_mask
from tests.app.media.reading import read
from tests.support.audio import by_av, by_soundfile, tone

SURROUND = ("FL", "FR", "FC", "LFE", "BL", "BR")


def _share(speaker: str) -> float:
    """Of a sound in one loudspeaker of a film."""
    samples = np.zeros((10, 6), np.float32)
    samples[:, SURROUND.index(speaker)] = 0.5
    samples[:, 2] += 1e-6  # so that not all is lost
    return float(mono(samples, SURROUND)[0]) / 0.5


def test_the_centre_counts_most_and_the_effects_channel_not_at_all() -> None:
    assert _share("FL") / _share("FC") == pytest.approx(0.7071, abs=1e-3)
    assert _share("BR") / _share("FC") == pytest.approx(0.5, abs=1e-3)
    assert sum(_share(speaker) for speaker in SURROUND if speaker != "LFE") == pytest.approx(1.0, abs=1e-3)
    assert mono(np.full((4, 6), 0.5, np.float32), SURROUND) == pytest.approx(0.5)


def test_unknown_loudspeakers_count_alike() -> None:
    """As the tracks of a recorder with several microphones do."""
    samples = np.eye(6, dtype=np.float32)
    assert mono(samples) == pytest.approx(1 / 6)
    assert mono(samples, ("FL", "FR", "FC", "LFE", "BL", "unheard of")) == pytest.approx(1 / 6)


def test_opposed_channels_do_not_cancel() -> None:
    left = tone(16_000, 1.0)[:, 0]
    opposed = np.stack([left, -0.99 * left], axis=1)
    assert mono(opposed) == pytest.approx(0.995 * left, abs=1e-4)
    assert mono(np.asfortranarray(opposed)) == pytest.approx(0.995 * left, abs=1e-4)
    assert mono(np.stack([left, 0 * left], axis=1)) == pytest.approx(left / 2)
    assert not mono(np.zeros((5, 2), np.float32)).any()


def test_sound_in_the_effects_channel_alone_is_not_lost() -> None:
    samples = np.zeros((100, 6), np.float32)
    samples[:, 3] = 0.5
    assert mono(samples, SURROUND) == pytest.approx(0.5)


def test_loudspeakers_of_files() -> None:
    assert speakers_of_mask(0x3F) == SURROUND
    assert speakers_of_mask(0x63F) == ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR")
    assert (speakers_of_flac(6), speakers_of_flac(2)) == (SURROUND, ())


def _film() -> NDArray[np.float32]:
    """Speech (440 Hz) in the centre, as loud a rumble (1320 Hz) in the effects channel."""
    samples = np.zeros((48_000, 6), np.float32)
    samples[:, 2:3], samples[:, 3:4] = tone(48_000, 1.0), tone(48_000, 1.0, hertz=1_320.0)
    return samples


FILES = {
    "flac": (by_soundfile(_film(), 48_000, "FLAC", "PCM_16"), True),
    "wav with a mask": (by_av(_film(), 48_000, "wav", "pcm_s16le"), True),
    "mov": (by_av(_film(), 48_000, "mov", "pcm_s16le"), True),
    "wav of a recorder": (by_soundfile(_film(), 48_000, "WAV", "PCM_16"), False),
}


@pytest.mark.parametrize("name", FILES)
def test_files_tell_their_loudspeakers(name: str) -> None:
    data, known = FILES[name]
    _, samples = read(data)
    levels = np.abs(np.fft.rfft(samples[:16_000]))[[440, 1_320]] / 8_000
    assert levels[0] == pytest.approx(0.5 / (1 + 2 * 0.7071 + 2 * 0.5) if known else 0.5 / 6, abs=0.005)
    assert levels[1] == pytest.approx(0.0 if known else 0.5 / 6, abs=0.005)


def test_a_file_of_opposed_channels_is_audible() -> None:
    left = tone(16_000, 1.0)
    for data in (by_soundfile(np.hstack([left, -left]), 16_000, *kind) for kind in (("FLAC", None), ("OGG", "VORBIS"))):
        assert np.abs(read(data)[1]).max() > 0.4
