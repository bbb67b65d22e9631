"""Containers and codecs of old cameras, telephones and discs, and what may stand before the first byte of a file."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from app.media.source import Unreadable
from tests.app.media.reading import read
from tests.support.audio import by_av, tone
from tests.support.odd_files import chunk, film, form, hertz_at, pcm, riff

DATA = Path(__file__).parents[2] / "data"
CODECS = [
    ("wav", "g722", 16_000, 1, "wav"),
    ("wav", "g726", 8_000, 1, "wav"),
    ("wav", "g723_1", 8_000, 1, "wav"),
    ("wav", "aac", 44_100, 1, "wav"),
    ("avi", "libmp3lame", 44_100, 2, "avi"),
    ("avi", "pcm_s16le", 44_100, 2, "avi"),
    ("asf", "wmav2", 44_100, 2, "wma"),
    ("asf", "wmav1", 44_100, 2, "wma"),
    ("flv", "aac", 44_100, 2, "flv"),
    ("flv", "nellymoser", 16_000, 1, "flv"),
    ("ac3", "ac3", 48_000, 2, "ac3"),
    ("ac3", "ac3", 44_100, 2, "ac3"),
    ("eac3", "eac3", 48_000, 2, "eac3"),
    ("latm", "aac", 48_000, 2, "aac"),
]


@pytest.mark.parametrize(("container", "codec", "rate", "channels", "name"), CODECS)
def test_codecs(container: str, codec: str, rate: int, channels: int, name: str) -> None:
    bits = {"g723_1": 6_300, "g726": 32_000}.get(codec, 128_000)
    data = by_av(tone(rate, 2.0, channels), rate, container, codec, strict=-2, b=bits)
    source, samples = read(data)
    assert source.container == name
    assert source.seconds == pytest.approx(2.0, abs=0.13)
    assert hertz_at(samples, 1.0) == pytest.approx(440, abs=5)
    assert source.note == ""


def test_more_raw_aac_than_is_decoded_at_once_is_refused() -> None:
    with pytest.raises(Unreadable, match="AAC in wav"):
        read(riff(form(44_100, tag=0xFF), chunk(b"data", bytes(1_100_000))))


@pytest.mark.parametrize("codec", ["dts", "truehd"])
def test_codecs_of_discs(codec: str) -> None:
    """No encoder of theirs comes with PyAV: the beginnings of two files that FFmpeg's tool made."""
    source, samples = read((DATA / f"{codec}.mkv").read_bytes())
    assert 0.3 < source.seconds < 1.0
    assert 0.01 < np.abs(samples).max() < 0.5


def test_adts_in_wav() -> None:
    adts = by_av(tone(44_100, 2.0), 44_100, "adts", "aac")
    source, _ = read(riff(form(44_100, tag=0x1600), chunk(b"data", adts)))
    assert source.seconds == pytest.approx(2.0, abs=0.06)


QUICKTIME = by_av(tone(48_000, 1.0), 48_000, "mp4", "aac")


@pytest.mark.parametrize("name", [b"skip", b"free", b"wide", b"pnot", b"uuid"])
def test_quicktime_without_ftyp(name: bytes) -> None:
    source, _ = read(QUICKTIME[:4] + name + QUICKTIME[8:])
    assert source.container == "mp4"
    assert source.seconds == pytest.approx(1.0, abs=0.06)


def test_a_word_in_the_place_of_an_atom_is_no_film() -> None:
    with pytest.raises(Unreadable, match="not audio"):
        read(b"Be free to write whatever you like here, and then some more.\n" * 40)


MP3 = by_av(tone(44_100, 2.0), 44_100, "mp3", "libmp3lame", write_xing=0)
WEBM = film(tone(48_000, 2.0), "webm", "libopus")
FLAC = by_av(tone(48_000, 2.0), 48_000, "flac", "flac")
WAV = riff(form(48_000), chunk(b"data", pcm(tone(48_000, 2.0))))


@pytest.mark.parametrize("junk", [bytes(70_000), random.Random(5).randbytes(70_000), b"text\r\n" * 30_000])
def test_what_stands_before_an_mp3_is_passed_over(junk: bytes) -> None:
    assert read(junk + MP3)[0].seconds == pytest.approx(2.0, abs=0.1)


def test_a_transport_stream_with_times_between_its_packets() -> None:
    stream = by_av(tone(48_000, 2.0), 48_000, "mpegts", "ac3")
    packets = [stream[at : at + 188] for at in range(0, len(stream), 188)]
    source, samples = read(b"".join(number.to_bytes(4, "big") + packet for number, packet in enumerate(packets)))
    assert source.seconds == pytest.approx(2.0, abs=0.1)
    assert hertz_at(samples, 1.0) == pytest.approx(440, abs=5)


@pytest.mark.parametrize("name", ["flac", "wav"])
def test_zeros_before_a_head_are_passed_over(name: str) -> None:
    assert read(bytes(70_000) + {"flac": FLAC, "wav": WAV}[name])[0].seconds == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("name", ["webm", "flac", "wav"])
def test_stray_bytes_before_a_head_are_passed_over(name: str) -> None:
    data = {"webm": WEBM, "flac": FLAC, "wav": WAV}[name]
    source, samples = read(random.Random(6).randbytes(500) + data)
    assert source.container == name
    assert source.seconds == pytest.approx(2.0, abs=0.1)
    assert hertz_at(samples, 1.0) == pytest.approx(440, abs=5)


def test_the_default_track_is_read() -> None:
    data = film(tone(48_000, 2.0), "matroska", "libopus", silent_first_track=True)
    assert np.abs(read(data)[1]).max() > 0.4


def test_another_track_than_the_default_one_is_told() -> None:
    data = bytearray(film(tone(48_000, 2.0), "matroska", "libopus", silent_first_track=True))
    data[data.rindex(b"A_OPUS") : data.rindex(b"A_OPUS") + 6] = b"A_NONE"
    source, _ = read(bytes(data))
    assert source.seconds == pytest.approx(2.0, abs=0.1)
    assert "Another audio track was read" in source.note


def test_an_empty_fmt_chunk_is_refused() -> None:
    with pytest.raises(Unreadable):
        read(riff(chunk(b"fmt ", b""), chunk(b"data", struct.pack("<8000h", *range(8_000)))))
