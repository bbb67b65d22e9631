"""Damaged, joined and wrongly headed files: all of their sound is read, and what is not is told."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.app.media.reading import read
from tests.support.audio import by_av, by_soundfile, patched_flac, tone
from tests.support.odd_files import HIGH, LOW, chunk, film, form, hertz_at, pcm, riff, spans, two_tones

RATE = 16_000
FIRST, SECOND = (tone(RATE, 1.0, hertz=hertz) for hertz in (LOW, HIGH))
ONE, TWO = (riff(form(RATE), chunk(b"data", pcm(half))) for half in (FIRST, SECOND))
OPEN = 0xFFFF_FFFF
BOTH = pcm(FIRST) + pcm(SECOND)
LIST = chunk(b"LIST", b"INFOISFT" + bytes(5))

WAVS = {
    "one behind the other": ONE + TWO,
    "with something between": riff(form(RATE), chunk(b"data", pcm(FIRST)), LIST) + TWO,
    "streamed ones joined": b"".join(
        riff(form(RATE), chunk(b"data", pcm(half), OPEN), size=OPEN) for half in (FIRST, SECOND)
    ),
    "with zeros between": ONE + bytes(1000) + TWO,
    "with a word between": ONE + b"hello\r\n" + TWO,
    "of two rates": ONE + riff(form(48_000), chunk(b"data", pcm(tone(48_000, 1.0, hertz=HIGH)))),
    "two data chunks": riff(form(RATE), chunk(b"data", pcm(FIRST)), LIST, chunk(b"data", pcm(SECOND))),
    "the first part's header": riff(form(RATE), chunk(b"data", BOTH, len(BOTH) // 2), size=36 + len(BOTH) // 2),
    "a header of nothing": riff(form(RATE), chunk(b"data", BOTH, 0), size=36),
    "an odd chunk without its pad": riff(form(RATE), chunk(b"note", b"abc", pad=False), chunk(b"data", BOTH)),
    "RF64 never filled in": riff(chunk(b"ds64", bytes(28)), form(RATE), chunk(b"data", BOTH, OPEN), magic=b"RF64"),
    "RF64 with the highest numbers": riff(
        chunk(b"ds64", b"\xff" * 28), form(RATE), chunk(b"data", BOTH, OPEN), magic=b"RF64", size=OPEN
    ),
    "BW64": riff(
        chunk(b"ds64", (len(BOTH) + 72).to_bytes(8, "little") + len(BOTH).to_bytes(8, "little") + bytes(12)),
        form(RATE),
        chunk(b"data", BOTH, OPEN),
        LIST,
        magic=b"BW64",
        size=OPEN,
    ),
}


@pytest.mark.parametrize("name", WAVS)
def test_all_of_a_wav_is_read(name: str) -> None:
    source, samples = read(WAVS[name])
    assert source.seconds == pytest.approx(2.0, abs=0.001)
    assert (hertz_at(samples, 0.5), hertz_at(samples, 1.5)) == (pytest.approx(LOW, abs=3), pytest.approx(HIGH, abs=3))
    assert source.note == ""


@pytest.mark.parametrize(
    "tail",
    [LIST, b"TAG" + bytes(range(125)), bytes(20_000), b"ID3\x04\0\0\0\0\x30\0" + bytes(range(256)) * 40],
    ids=["chunk", "ID3v1", "zeros", "ID3v2"],
)
def test_what_stands_behind_the_sound_is_not_sound(tail: bytes) -> None:
    assert read(ONE + tail)[0].seconds == 1.0


@pytest.mark.parametrize("frames", [None, 0])
def test_joined_flacs_are_read_to_the_end(frames: int | None) -> None:
    one, two = (by_soundfile(half, RATE, "FLAC", "PCM_16") for half in (FIRST, SECOND))
    source, samples = read((one if frames is None else patched_flac(one, frames=frames)) + two)
    assert source.seconds == pytest.approx(2.0, abs=0.01)
    assert hertz_at(samples, 1.5) == pytest.approx(HIGH, abs=3)


def test_a_flac_that_is_longer_than_its_head_says_is_read_to_the_end() -> None:
    flac = by_soundfile(two_tones(RATE, 10.0), RATE, "FLAC", "PCM_16")
    assert read(patched_flac(flac, frames=RATE))[0].seconds == pytest.approx(20.0, abs=0.01)


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_damaged_byte_costs_a_flac_one_frame(place: float) -> None:
    flac = bytearray(by_soundfile(two_tones(RATE, 4.0), RATE, "FLAC", "PCM_16"))
    flac[int(len(flac) * place)] ^= 0xFF
    source, samples = read(bytes(flac))
    assert source.seconds == pytest.approx(8.0, abs=0.01)
    assert (hertz_at(samples, 0.5), hertz_at(samples, 7.5)) == (pytest.approx(LOW, abs=3), pytest.approx(HIGH, abs=3))
    assert "damaged" in source.note


@pytest.mark.parametrize("place", [0.15, 0.5, 0.8])
def test_what_was_lost_of_a_flac_is_silence(place: float) -> None:
    flac = bytearray(by_soundfile(two_tones(RATE, 4.0), RATE, "FLAC", "PCM_16"))
    at = int(len(flac) * place)
    flac[at : at + 10_000] = bytes(10_000)
    source, samples = read(bytes(flac))
    assert source.seconds == pytest.approx(8.0, abs=0.01)
    assert (hertz_at(samples, 3.5), hertz_at(samples, 4.5)) == (pytest.approx(LOW, abs=3), pytest.approx(HIGH, abs=3))
    assert len(spans(samples)) == 2
    assert "were lost and are silence" in source.note


def test_noise_in_place_of_a_flac_frame_is_silence() -> None:
    flac = bytearray(by_soundfile(np.zeros((8 * RATE, 1), np.float32) + 0.01, RATE, "FLAC", "PCM_16"))
    speech = bytearray(by_soundfile(0.1 * two_tones(RATE, 4.0), RATE, "FLAC", "PCM_16"))
    for at in range(len(speech) // 4, len(speech) - 100, 9_000):
        speech[at] ^= 0x10
    assert np.abs(read(bytes(speech))[1]).max() < 0.2
    assert read(bytes(flac))[0].note == ""


def test_a_flac_whose_head_tells_of_impossible_blocks_is_no_noise() -> None:
    flac = bytearray(by_soundfile(two_tones(RATE, 4.0), RATE, "FLAC", "PCM_16"))
    flac[8:12] = b"\xff" * 4
    source, samples = read(bytes(flac))
    assert source.seconds == pytest.approx(8.0, abs=0.01)
    assert (hertz_at(samples, 1), hertz_at(samples, 7)) == (pytest.approx(LOW, abs=3), pytest.approx(HIGH, abs=3))


@pytest.mark.parametrize(("container", "codec"), [("mp3", "libmp3lame"), ("adts", "aac")])
def test_bytes_lost_between_frames_are_silence(container: str, codec: str) -> None:
    data = bytearray(by_av(two_tones(48_000, 4.0), 48_000, container, codec))
    at = len(data) // 4
    data[at : at + len(data) // 8] = bytes(len(data) // 8)
    source, samples = read(bytes(data))
    assert source.seconds == pytest.approx(8.0, abs=0.2)
    assert spans(samples)[-1][0] == pytest.approx(3.0, abs=0.2)
    assert "1.0 s were lost and are silence" in source.note


@pytest.mark.parametrize("codec", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("damage", ["one byte", "a page less", "no last page"])
def test_pages_lost_of_an_ogg_are_silence_and_told(codec: str, damage: str) -> None:
    rate = 48_000
    ogg = by_soundfile(two_tones(rate, 6.0), rate, "OGG", codec)
    pages = [at for at in range(len(ogg)) if ogg.startswith(b"OggS", at)]
    lost = pages[len(pages) // 3]
    changed = {
        "one byte": ogg[: lost + 100] + bytes([ogg[lost + 100] ^ 0xFF]) + ogg[lost + 101 :],
        "a page less": ogg[:lost] + ogg[pages[pages.index(lost) + 1] :],
        "no last page": ogg[: pages[-1]],
    }[damage]
    source, samples = read(changed)
    assert hertz_at(samples, 9.5) == pytest.approx(HIGH, abs=5)
    assert spans(samples)[0][0] == pytest.approx(0.0, abs=0.05)
    if damage == "no last page":
        assert "its end is missing" in source.note
    else:
        assert "damaged or missing pages: 1" in source.note
        assert source.seconds == pytest.approx(12.0, abs=0.05)
        assert [hertz_at(samples, at) for at in (5.5, 6.5)] == [
            pytest.approx(LOW, abs=5), pytest.approx(HIGH, abs=5)
        ]  # fmt: skip
    assert read(ogg)[0].note == ""


@pytest.mark.parametrize("container", ["matroska", "flv"])
def test_a_place_that_the_container_lost_is_told(container: str) -> None:
    codec, rate = ("libmp3lame", 44_100) if container == "flv" else ("aac", 48_000)
    data = film(two_tones(rate, 6.0), container, codec, rate=rate)
    at = len(data) // 2
    assert read(data)[0].note == ""
    assert "damaged" in read(data[:at] + data[at + 2_000 :])[0].note


def test_mp3_in_a_wav_is_read_over_damage() -> None:
    data = bytearray(film(two_tones(44_100, 4.0), "wav", "libmp3lame", rate=44_100))
    at = len(data) // 3
    data[at : at + 500] = bytes(range(250)) * 2
    source, samples = read(bytes(data))
    assert source.seconds == pytest.approx(8.0, abs=0.2)
    assert hertz_at(samples, 7.5) == pytest.approx(HIGH, abs=5)
    assert "damaged" in source.note


def test_a_cut_mp3_whose_encoder_knew_its_length_is_told() -> None:
    mp3 = by_av(two_tones(48_000, 4.0), 48_000, "mp3", "libmp3lame")
    assert "the file says 8.0 s" in read(mp3[: len(mp3) // 2])[0].note
    assert read(mp3)[0].note == ""


@pytest.mark.parametrize("dtx", [0, 1])
def test_amr_with_silence_frames_is_read_to_the_end(dtx: int) -> None:
    speech, nothing = b"\x04" + bytes(12), b"\x7c"  # 4.75 kbit/s, and NO_DATA; 20 ms each
    source, _ = read(b"#!AMR\n" + speech * 50 + nothing * (250 if dtx else 0) + speech * 100)
    assert source.seconds == pytest.approx(8.0 if dtx else 3.0)
    assert source.note == ""


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_links_of_an_ogg_may_differ_in_rate(codec: str) -> None:
    rates = (16_000, 44_100) if codec == "VORBIS" else (48_000, 48_000)
    links = [
        by_soundfile(tone(rate, 1.0, hertz=hertz), rate, "OGG", codec)
        for rate, hertz in zip(rates, (LOW, HIGH), strict=True)
    ]
    source, samples = read(b"".join(links))
    assert source.seconds == pytest.approx(2.0, abs=0.03)
    assert (hertz_at(samples, 0.5), hertz_at(samples, 1.5)) == (pytest.approx(LOW, abs=3), pytest.approx(HIGH, abs=3))
    assert source.note == ""


def test_many_damaged_packets_cost_only_themselves() -> None:
    aac, dice = bytearray(by_av(two_tones(48_000, 8.0), 48_000, "adts", "aac")), random.Random(3)
    for number, (at, size) in enumerate(_adts_frames(bytes(aac))):
        if number % 3 == 2:
            aac[at + 7 : at + size] = dice.randbytes(size - 7)
    source, samples = read(bytes(aac))
    assert source.seconds == pytest.approx(16.0, abs=0.2)
    assert (hertz_at(samples, 1), hertz_at(samples, 15)) == (pytest.approx(LOW, abs=15), pytest.approx(HIGH, abs=15))
    assert source.damage.packets > 200
    assert f"damaged packets: {source.damage.packets}" in source.note


def test_endless_damage_is_given_up_and_told() -> None:
    aac, dice = by_av(tone(48_000, 1.0), 48_000, "adts", "aac"), random.Random(4)
    at, size = _adts_frames(aac)[20]
    noise = b"".join(aac[at : at + 7] + dice.randbytes(size - 7) for _ in range(1_500))
    source, _ = read(aac + noise)
    assert "reading ended before the end of the file" in source.note


def test_packets_that_hold_nothing_are_told() -> None:
    aac = by_av(tone(48_000, 1.0), 48_000, "adts", "aac")
    at, size = _adts_frames(aac)[20]
    nothing = b"\xe0"  # the end of a frame, and no more of it
    source, _ = read(aac + (aac[at : at + 7] + nothing * (size - 7)) * 300)
    assert "1.0 s were read, the file says 7.4 s" in source.note


def test_a_cut_film_says_what_is_missing() -> None:
    data = film(two_tones(48_000, 4.0), "matroska", "aac")
    source, _ = read(data[: len(data) // 2])
    assert 2.0 < source.seconds < 6.0
    assert "the file says 8.0 s" in source.note


def test_a_cut_wav_says_what_is_missing() -> None:
    assert "0.5 s were read, the file says 2.0 s" in read(riff(form(RATE), chunk(b"data", BOTH))[: 44 + RATE])[0].note


def _adts_frames(data: bytes) -> list[tuple[int, int]]:
    """Place and size of each frame."""
    frames, at = [], 0
    while at + 7 <= len(data):
        size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        frames.append((at, size))
        at += size
    return frames


@pytest.mark.parametrize("container", ["AIFF", "AU", "W64", "CAF"])
def test_a_cut_file_of_samples_says_that_its_end_is_missing(container: str) -> None:
    data = by_soundfile(two_tones(RATE), RATE, container, "PCM_16")
    source, samples = read(data[: len(data) * 4 // 5])
    assert hertz_at(samples, 0.5) == pytest.approx(LOW, abs=3)
    assert "its end is missing" in source.note
    assert read(data)[0].note == ""


def test_the_last_tenths_of_a_cut_wav_are_missed() -> None:
    assert "1.8 s were read, the file says 2.0 s" in read(riff(form(RATE), chunk(b"data", BOTH))[:-6_400])[0].note
