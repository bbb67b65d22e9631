"""The time of an AVI's sound: empty chunks, pictures that go on without sound, places that are no chunks."""

from __future__ import annotations

import pytest

from tests.app.media.reading import read
from tests.support.odd_files import HIGH, LOW, film, hertz_at, spans, two_tones

CODECS = [("libmp3lame", 44_100), ("aac", 48_000), ("ac3", 48_000)]


@pytest.mark.parametrize(("codec", "rate"), CODECS)
@pytest.mark.parametrize("pictures", [0, 18])
def test_a_hole_of_empty_chunks_stays_a_hole(codec: str, rate: int, pictures: int) -> None:
    source, samples = read(film(two_tones(rate, 8.0), "avi", codec, rate=rate, hole=(1.0, 9.0), pictures=pictures))
    assert source.seconds == pytest.approx(16.0, abs=0.1)
    assert [pytest.approx(span, abs=0.15) for span in spans(samples)] == [(0.0, 1.0), (9.0, 16.0)]
    assert (hertz_at(samples, 0.5), hertz_at(samples, 12)) == (pytest.approx(LOW, abs=5), pytest.approx(HIGH, abs=5))
    assert source.note == ""


def test_samples_that_are_missing_beside_pictures_are_silence_and_told() -> None:
    """Nothing else in the file tells of them."""
    source, samples = read(film(two_tones(48_000, 8.0), "avi", "pcm_s16le", hole=(3.0, 11.0), pictures=18))
    assert [pytest.approx(span, abs=0.15) for span in spans(samples)] == [(0.0, 3.0), (11.0, 16.0)]
    assert "8.0 s were lost and are silence" in source.note


@pytest.mark.parametrize(("codec", "rate"), [("libmp3lame", 44_100), ("pcm_s16le", 48_000)])
def test_a_track_that_begins_late_is_late(codec: str, rate: int) -> None:
    source, samples = read(film(two_tones(rate), "avi", codec, rate=rate, delay=5.0, pictures=8))
    assert spans(samples)[-1] == (pytest.approx(5.0, abs=0.1), pytest.approx(7.0, abs=0.15))
    assert source.note == ""


@pytest.mark.parametrize("pictures", [0, 18])
@pytest.mark.parametrize("damage", ["zeros", "less"])
def test_what_a_damaged_place_held_is_silence_and_told(pictures: int, damage: str) -> None:
    data = film(two_tones(44_100, 8.0), "avi", "libmp3lame", rate=44_100, pictures=pictures)
    at, size = len(data) // 4, len(data) // 16
    source, samples = read(data[:at] + (bytes(size) if damage == "zeros" else b"") + data[at + size :])
    assert "damaged" in source.note
    assert hertz_at(samples, 1.0) == pytest.approx(LOW, abs=5)
    if damage == "zeros":
        assert source.seconds == pytest.approx(16.0, abs=0.4)
        assert "were lost and are silence" in source.note


@pytest.mark.parametrize(("codec", "rate"), [*CODECS, ("pcm_s16le", 48_000), ("adpcm_ima_wav", 44_100)])
def test_a_whole_file_has_no_pauses(codec: str, rate: int) -> None:
    """FFmpeg's head of the last one tells of hours."""
    source, samples = read(film(two_tones(rate), "avi", codec, rate=rate, pictures=3))
    assert source.seconds == pytest.approx(2.0, abs=0.15)
    assert len(spans(samples)) == 1
    assert source.note == ""
