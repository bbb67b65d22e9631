"""What a file says about time holds: late tracks, holes, lost packets, clocks that jump."""

from __future__ import annotations

import pytest

from app.media.source import Caps
from tests.app.media.reading import CAPS, read
from tests.support.audio import by_av, tone
from tests.support.odd_files import HIGH, LOW, film, hertz_at, spans, two_tones

FILMS = [("mp4", "aac"), ("mov", "pcm_s16le"), ("matroska", "aac"), ("matroska", "libopus"), ("mpegts", "aac")]


@pytest.mark.parametrize(("container", "codec"), FILMS)
def test_a_track_that_begins_late_is_late(container: str, codec: str) -> None:
    source, samples = read(film(two_tones(48_000), container, codec, delay=5.0, pictures=8))
    assert spans(samples) == [(pytest.approx(5.0, abs=0.1), pytest.approx(7.0, abs=0.15))]
    assert source.seconds == pytest.approx(7.0, abs=0.1)
    assert hertz_at(samples, 6.5) == pytest.approx(HIGH, abs=5)
    assert source.note == ""


@pytest.mark.parametrize(("container", "codec"), FILMS)
def test_a_track_alone_begins_at_once(container: str, codec: str) -> None:
    source, samples = read(film(two_tones(48_000), container, codec, delay=5.0))
    assert spans(samples)[0][0] == pytest.approx(0.0, abs=0.1)
    assert source.seconds == pytest.approx(2.0, abs=0.1)


HOLED = [("mp4", "aac"), ("matroska", "aac"), ("webm", "libopus"), ("mpegts", "aac"), ("flv", "aac"), ("asf", "wmav2")]


@pytest.mark.parametrize(("container", "codec"), HOLED)
def test_a_hole_stays_a_hole(container: str, codec: str) -> None:
    rate = 44_100 if container == "flv" else 48_000
    sound = two_tones(rate, 8.0)
    source, samples = read(film(sound, container, codec, rate=rate, hole=(1.0, 9.0)))
    (begin, pause), (again, end) = spans(samples)
    assert (begin, pause) == (pytest.approx(0.0, abs=0.1), pytest.approx(1.0, abs=0.15))
    assert (again, end) == (pytest.approx(9.0, abs=0.15), pytest.approx(16.0, abs=0.15))
    assert (hertz_at(samples, 0.5), hertz_at(samples, 12)) == (pytest.approx(LOW, abs=5), pytest.approx(HIGH, abs=5))
    assert source.note == ""


def test_what_a_damaged_page_held_is_silence_and_told() -> None:
    ogg = bytearray(by_av(two_tones(48_000, 4.0), 48_000, "ogg", "libopus", page_duration=500_000))
    ogg[len(ogg) // 4] ^= 0xFF
    source, samples = read(bytes(ogg))
    assert source.seconds == pytest.approx(8.0, abs=0.05)
    assert hertz_at(samples, 7.5) == pytest.approx(HIGH, abs=5)
    assert spans(samples)[-1][1] == pytest.approx(8.0, abs=0.05)
    assert "were lost and are silence" in source.note


def test_a_hole_that_does_not_fit_is_closed_and_told() -> None:
    data = film(two_tones(48_000, 10.0), "matroska", "aac", hole=(1.0, 19.0))
    source, _ = read(data, caps=Caps(CAPS.seconds, 2_000_000))
    assert source.seconds == pytest.approx(2.0, abs=0.15)
    assert "clock jumps by 18 s" in source.note


@pytest.mark.parametrize("first_delay", [0.0, 300.0])
def test_a_broadcast_whose_clock_is_set_anew_goes_on(first_delay: float) -> None:
    parts = [film(tone(48_000, 2.0), "mpegts", "aac", delay=delay) for delay in (first_delay, 100.0)]
    source, samples = read(b"".join(parts), caps=Caps(3600.0, 1 << 30))
    assert source.seconds == pytest.approx(4.0, abs=0.2)
    assert len(spans(samples)) <= 2


@pytest.mark.parametrize(("container", "codec"), [("matroska", "flac"), ("asf", "wmav2"), ("matroska", "libopus")])
def test_a_film_that_outlasts_its_sound_is_not_damaged(container: str, codec: str) -> None:
    source, _ = read(film(two_tones(48_000), container, codec, pictures=8))
    assert source.seconds == pytest.approx(2.0, abs=0.1)
    assert source.note == ""


@pytest.mark.parametrize(("container", "codec"), [("matroska", "libopus"), ("asf", "wmav2"), ("mp4", "aac")])
def test_a_lone_track_with_an_offset_is_not_damaged(container: str, codec: str) -> None:
    assert read(film(two_tones(48_000), container, codec, delay=5.0))[0].note == ""


def test_the_start_of_a_track_of_an_avi_holds() -> None:
    data = bytearray(film(two_tones(48_000), "avi", "pcm_s16le", pictures=8))
    head = data.index(b"auds")  # of its stream's header; its start stands 28 bytes on
    data[head + 28 : head + 32] = (5 * 48_000).to_bytes(4, "little")
    assert spans(read(bytes(data))[1])[0][0] == pytest.approx(5.0, abs=0.1)
