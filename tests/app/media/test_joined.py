"""Files of different kinds that are joined: all of their sound is read, or the rest is told."""

from __future__ import annotations

from itertools import permutations

import pytest

from app.media.joined import files
from app.media.sniff import sniff
from tests.app.media.reading import read
from tests.support.audio import by_av, by_soundfile, patched_flac, tone
from tests.support.odd_files import HIGH, LOW, film, hertz_at

RATE = 48_000
KINDS = {
    "wav": lambda sound: by_soundfile(sound, RATE, "WAV", "PCM_16"),
    "rf64": lambda sound: by_soundfile(sound, RATE, "RF64", "PCM_16"),
    "w64": lambda sound: by_soundfile(sound, RATE, "W64", "PCM_16"),
    "aiff": lambda sound: by_soundfile(sound, RATE, "AIFF", "PCM_16"),
    "au": lambda sound: by_soundfile(sound, RATE, "AU", "PCM_16"),
    "caf": lambda sound: by_soundfile(sound, RATE, "CAF", "PCM_16"),
    "flac": lambda sound: by_soundfile(sound, RATE, "FLAC", "PCM_16"),
    "ogg": lambda sound: by_av(sound, RATE, "ogg", "libopus"),
    "ogg flac": lambda sound: film(sound, "ogg", "flac"),
    "mp3": lambda sound: by_av(sound, RATE, "mp3", "libmp3lame"),
    "mp4": lambda sound: by_av(sound, RATE, "mp4", "aac"),
    "webm": lambda sound: film(sound, "webm", "libopus"),
    "asf": lambda sound: film(sound, "asf", "wmav2"),
    "avi": lambda sound: film(sound, "avi", "libmp3lame"),
    "flv": lambda sound: film(sound, "flv", "libmp3lame", rate=44_100),
}
SOUNDS = [
    [make(tone(44_100 if name == "flv" else RATE, 2.0, hertz=hertz)) for name, make in KINDS.items()]
    for hertz in (LOW, HIGH)
]
FIRST, SECOND = (dict(zip(KINDS, made, strict=True)) for made in SOUNDS)


@pytest.mark.parametrize("first", KINDS)
def test_what_is_joined_is_read_to_the_end(first: str) -> None:
    for second in KINDS:
        source, samples = read(FIRST[first] + SECOND[second])
        assert source.seconds == pytest.approx(4.0, abs=0.2), second
        assert hertz_at(samples, 0.5) == pytest.approx(LOW, abs=5), second
        assert hertz_at(samples, 3.5) == pytest.approx(HIGH, abs=5), second
        assert source.note == "", second


def test_three_files_of_three_kinds() -> None:
    for names in permutations(("wav", "flac", "mp3")):
        source, _ = read(b"".join(FIRST[name] for name in names))
        assert source.seconds == pytest.approx(6.0, abs=0.2), names


@pytest.mark.parametrize(("container", "codec"), [("adts", "aac"), ("mp3", "mp2"), ("ac3", "ac3"), ("mpegts", "aac")])
def test_frames_without_a_head_behind_a_file_that_knows_its_end(container: str, codec: str) -> None:
    frames = by_av(tone(RATE, 2.0, hertz=HIGH), RATE, "mp2" if codec == "mp2" else container, codec)
    for name in ("wav", "aiff", "mp4", "webm", "ogg", "caf"):
        source, samples = read(FIRST[name] + frames)
        assert source.seconds == pytest.approx(4.0, abs=0.2), name
        assert hertz_at(samples, 3.5) == pytest.approx(HIGH, abs=5), name


def test_frames_without_a_head_behind_frames_are_told() -> None:
    adts = by_av(tone(RATE, 2.0), RATE, "adts", "aac")
    assert "damaged" in read(FIRST["mp3"] + adts)[0].note
    assert "damaged" in read(FIRST["flac"] + adts)[0].note


def test_a_flac_of_unknown_length_ends_at_the_next_head() -> None:
    assert read(patched_flac(FIRST["flac"], frames=0) + SECOND["wav"])[0].seconds == pytest.approx(4.0, abs=0.2)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_alone_is_one_file(name: str) -> None:
    found = sniff(memoryview(FIRST[name]))
    assert found is not None
    assert list(files(FIRST[name], found[0])) == [(FIRST[name], found[0])]
