"""Several channels to one: the weights of loudspeakers, and channels that cancel each other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from app.media.downmix import Block, Mixer, mono, speakers_of_flac, speakers_of_mask
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


RATE = 16_000


def _spoken(seconds: float, hertz: float) -> NDArray[np.float32]:
    """float32 [frames]: a tone in syllables, as speech rises and falls."""
    time = np.arange(round(RATE * seconds)) / RATE
    return (0.2 * np.sin(2 * np.pi * hertz * time) * (time % 0.3 < 0.15)).astype(np.float32)


def _level(samples: NDArray[np.float32], hertz: int) -> float:
    """Of a frequency, mean over the time."""
    time = np.arange(len(samples)) / RATE
    return float(np.abs(np.mean(samples * np.exp(-2j * np.pi * hertz * time)))) * 2


def _mixed(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """[frames, 6] at 16 kHz by a mixer, in blocks that are no whole seconds."""
    mixer = Mixer()
    blocks = (Block(samples[at : at + 5_000], RATE, SURROUND) for at in range(0, len(samples), 5_000))
    pieces = [piece for block in blocks for piece, _ in mixer.push(block)]
    return np.concatenate([*pieces, *(piece for piece, _ in mixer.flush())])


def _cinema(seconds: float, **speakers: NDArray[np.float32]) -> NDArray[np.float32]:
    samples = np.zeros((round(RATE * seconds), 6), np.float32)
    for name, what in speakers.items():
        samples[: len(what), SURROUND.index(name)] = what
    return samples


@pytest.mark.parametrize("loudness", [0.05, 0.5])
def test_noise_around_a_centre_that_speaks_stands_back(loudness: float) -> None:
    """Else it is heard as words."""
    noise = np.random.default_rng(1).standard_normal((4, 6 * RATE)).astype(np.float32) * loudness
    film = _cinema(6.0, FC=_spoken(6.0, 440), FL=noise[0], FR=noise[1], BL=noise[2], BR=noise[3])
    mixed, alone = _mixed(film), mono(_cinema(6.0, FC=_spoken(6.0, 440)), SURROUND)
    assert len(mixed) == len(alone)
    assert np.std(mixed - alone) < 0.05 * np.std(mono(film, SURROUND))


def test_who_speaks_beside_a_silent_centre_is_as_loud_as_ever() -> None:
    film = _cinema(6.0, FC=np.random.default_rng(2).standard_normal(6 * RATE).astype(np.float32) * 1e-3)
    film[:, 0] = _spoken(6.0, 1_320)
    assert _level(_mixed(film), 1_320) == pytest.approx(_level(mono(film, SURROUND), 1_320), rel=0.01)


def test_who_speaks_after_the_centre_or_meanwhile_stays_audible() -> None:
    film = _cinema(12.0, FC=_spoken(4.0, 440), FL=_spoken(12.0, 1_320))
    mixed, usual = _mixed(film), mono(film, SURROUND)
    meanwhile, after = slice(0, 4 * RATE), slice(8 * RATE, None)
    assert 0.1 < _level(mixed[meanwhile], 1_320) / _level(usual[meanwhile], 1_320) < 0.5
    assert _level(mixed[after], 1_320) == pytest.approx(_level(usual[after], 1_320), rel=0.01)
    assert _level(mixed[meanwhile], 440) == pytest.approx(_level(usual[meanwhile], 440), rel=0.01)
