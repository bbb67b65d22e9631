"""The decoder itself, in this process: what it reads, how it reads damaged and lying files, and its caps."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from app.media.resample import BLOCK_FRAMES
from app.media.source import Caps, Unreadable
from tests.app.media.reading import read
from tests.support.audio import by_av, by_soundfile, patched_flac, patched_wav_sizes, silent_film, tone


def loudest_hertz(samples: NDArray[np.float32], rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


SOUNDFILE_FORMATS = [
    ("WAV", "PCM_16", 44_100, 2),
    ("WAV", "PCM_U8", 8_000, 1),
    ("WAV", "PCM_24", 48_000, 8),
    ("WAV", "FLOAT", 16_000, 1),
    ("WAV", "ULAW", 8_000, 1),
    ("WAV", "ALAW", 8_000, 1),
    ("WAV", "IMA_ADPCM", 22_050, 1),
    ("WAV", "MS_ADPCM", 22_050, 2),
    ("WAVEX", "PCM_16", 48_000, 6),
    ("RF64", "PCM_16", 48_000, 1),
    ("FLAC", "PCM_24", 96_000, 2),
    ("OGG", "VORBIS", 44_100, 2),
    ("OGG", "OPUS", 48_000, 1),
    ("MP3", "MPEG_LAYER_III", 44_100, 2),
    ("AIFF", "PCM_16", 44_100, 1),
    ("CAF", "ALAC_16", 44_100, 1),
    ("AU", "PCM_16", 8_000, 1),
]


@pytest.mark.parametrize(("container", "codec", "rate", "channels"), SOUNDFILE_FORMATS)
def test_formats_of_libsndfile(container: str, codec: str, rate: int, channels: int) -> None:
    source, samples = read(by_soundfile(tone(rate, 2.0, channels), rate, container, codec))
    assert source.seconds == pytest.approx(2.0, abs=0.05)
    assert (source.rate, source.channels) == (rate, channels)
    assert len(samples) == pytest.approx(source.seconds * 16_000, abs=2)
    assert source.note == ""
    assert loudest_hertz(samples, 16_000) == pytest.approx(440, abs=1)
    assert 0.3 < np.abs(samples).max() <= 1.0


AV_FORMATS = [
    ("mp4", "aac", 44_100, "mp4"),
    ("ipod", "alac", 44_100, "mp4"),
    ("mov", "pcm_s16be", 44_100, "mp4"),
    ("webm", "libopus", 48_000, "webm"),
    ("ogg", "libopus", 48_000, "ogg"),
    ("matroska", "aac", 44_100, "webm"),
    ("adts", "aac", 44_100, "aac"),
    ("mpegts", "aac", 44_100, "mpeg"),
    ("mpeg", "mp2", 44_100, "mpeg"),
    ("mp2", "mp2", 44_100, "mp3"),
    ("wav", "libmp3lame", 44_100, "wav"),
]


@pytest.mark.parametrize(("container", "codec", "rate", "name"), AV_FORMATS)
def test_formats_of_ffmpeg(container: str, codec: str, rate: int, name: str) -> None:
    source, samples = read(by_av(tone(rate, 2.0, 2), rate, container, codec))
    assert source.container == name
    assert source.note == ""
    assert source.seconds == pytest.approx(2.0, abs=0.06)
    assert (source.rate, source.channels) == (rate, 2)
    assert loudest_hertz(samples, 16_000) == pytest.approx(440, abs=1)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("mov", "pcm_s16le")])
@pytest.mark.parametrize("channels", [6, 8])
def test_the_channels_of_a_cinema_are_read(container: str, codec: str, channels: int) -> None:
    """Eight planes fill FFmpeg's list of them, whose end PyAV then does not see."""
    source, samples = read(by_av(tone(48_000, 1.0, channels), 48_000, container, codec))
    assert source.channels == channels
    assert source.seconds == pytest.approx(1.0, abs=0.06)
    assert loudest_hertz(samples, 16_000) == pytest.approx(440, abs=1)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_only_the_sound_of_a_film_is_read(container: str) -> None:
    source, _ = read(by_av(tone(44_100, 1.0), 44_100, container, "aac", video=True))
    assert source.seconds == pytest.approx(1.0, abs=0.06)


def test_an_audio_codec_off_the_list_is_refused() -> None:
    with pytest.raises(Unreadable, match="codec"):
        read(by_av(tone(48_000, 1.0), 48_000, "matroska", "wavpack"))


def test_a_film_without_sound_is_refused() -> None:
    with pytest.raises(Unreadable, match="no audio track"):
        read(silent_film())


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0])
def test_a_streamed_wav_is_read_to_its_end(size: int) -> None:
    wav = by_soundfile(tone(24_000, 1.5), 24_000, "WAV", "PCM_16")
    source, samples = read(patched_wav_sizes(wav, size, size), rate=24_000)
    assert source.seconds == 1.5
    assert len(samples) == 36_000


def test_a_wav_cut_in_the_middle_of_a_sample_gives_what_is_there() -> None:
    source, _ = read(by_soundfile(tone(24_000, 1.5), 24_000, "WAV", "PCM_16")[: 44 + 24_000 + 1])
    assert source.seconds == 0.5


def test_a_wav_that_holds_nothing_lasts_no_time() -> None:
    source, samples = read(by_soundfile(tone(24_000, 0.0), 24_000, "WAV", "PCM_16"))
    assert source.seconds == 0.0
    assert not len(samples)


@pytest.mark.parametrize("frames", [0, (1 << 36) - 1])
def test_a_flac_with_a_wrong_length_is_read_to_its_end(frames: int) -> None:
    flac = by_soundfile(tone(44_100, 4.0, 2), 44_100, "FLAC", "PCM_16")
    source, _ = read(patched_flac(flac, frames=frames))
    assert source.seconds == 4.0


def test_a_cut_flac_gives_all_whole_frames() -> None:
    flac = by_soundfile(tone(44_100, 4.0), 44_100, "FLAC", "PCM_16")
    source, _ = read(flac[: len(flac) // 2])
    assert source.seconds > BLOCK_FRAMES / 44_100  # the damaged block's good part is kept
    assert source.seconds == pytest.approx(2.0, abs=0.2)


def test_an_impossible_rate_is_refused() -> None:
    flac = by_soundfile(tone(44_100, 1.0), 44_100, "FLAC", "PCM_16")
    with pytest.raises(Unreadable, match="655350 Hz"):
        read(patched_flac(flac, rate=655_350))


def test_an_mp3_without_its_first_frames_is_read() -> None:
    mp3 = by_av(tone(44_100, 3.0, 2), 44_100, "mp3", "libmp3lame", q=4)
    source, _ = read(mp3[1000:])
    assert source.seconds == pytest.approx(3.0, abs=0.1)


def test_an_mp3_after_two_tags_is_read() -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
    source, _ = read(tag + tag + by_soundfile(tone(44_100, 1.0), 44_100, "MP3"))
    assert source.seconds == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("container", "codec"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_joined_files_are_read_to_the_end(container: str, codec: str) -> None:
    one = by_soundfile(tone(48_000, 1.0), 48_000, container, codec)
    assert read(one * 3)[0].seconds == pytest.approx(3.0, abs=0.25)


def test_values_that_are_no_numbers_become_silence() -> None:
    samples = tone(16_000, 1.0)
    samples[100:200] = np.nan
    samples[300:400] = np.inf
    samples[500:600] = 7.0
    _, decoded = read(by_soundfile(samples, 16_000, "WAV", "FLOAT"))
    assert np.isfinite(decoded).all()
    assert not decoded[100:200].any()
    assert np.abs(decoded).max() <= 1.0


def test_length_is_capped_while_decoding() -> None:
    wav = by_soundfile(tone(8_000, 61.0), 8_000, "WAV", "PCM_U8")
    with pytest.raises(Unreadable, match="longer than the limit of 60 seconds"):
        read(wav)


def test_hours_of_opus_are_refused_before_they_are_decoded() -> None:
    opus = by_av(np.zeros((48_000 * 70, 1), np.float32), 48_000, "ogg", "libopus", b=6000)
    assert len(opus) < 100_000
    with pytest.raises(Unreadable, match="longer than the limit"):
        read(opus)


def test_decoded_bytes_are_capped_whatever_the_rate_says() -> None:
    flac = by_soundfile(np.zeros((400_000, 8), np.float32), 384_000, "FLAC", "PCM_16")
    with pytest.raises(Unreadable, match="decodes to more than"):
        read(flac, caps=Caps(seconds=60.0, decoded_bytes=10_000_000))


def test_too_many_channels_are_refused() -> None:
    with pytest.raises(Unreadable, match="40 channels"):
        read(by_soundfile(np.zeros((4_000, 40), np.float32), 8_000, "WAV", "PCM_16"))


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"What is this? It is text.\n" * 100,
        b"<!doctype html><html></html>",
        random.Random(1).randbytes(100_000),
        b"RIFF\x24\x00\x00\x00WAVE",
        b"OggS" + bytes(100),
        b"\xff\xd8\xff\xe0" + bytes(1000),
        b"PK\x03\x04" + bytes(1000),
        "text".encode("utf-16"),
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f",
    ],
)
def test_what_is_no_audio_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        read(data)


def test_what_pyav_does_not_foresee_in_a_file_is_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some damaged streams name tracks that PyAV's list of tracks lacks."""
    data = by_av(tone(44_100, 0.1), 44_100, "mpegts", "aac")

    def fail(*_: object, **__: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr("app.media.ffmpeg.av.open", fail)
    with pytest.raises(Unreadable, match="damaged"):
        read(data)


def test_a_defect_of_ours_is_not_taken_for_a_damaged_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.media.ffmpeg._values", lambda frame: [][0])
    with pytest.raises(IndexError):
        read(by_av(tone(44_100, 0.1), 44_100, "mp4", "aac"))


MUTATED = [
    *[
        by_soundfile(tone(8_000, 0.4), 8_000, *kind)
        for kind in (("WAV", "PCM_16"), ("WAV", "MS_ADPCM"), ("FLAC", "PCM_16"))
    ],
    *[
        by_soundfile(tone(48_000, 0.4), 48_000, *kind)
        for kind in (("OGG", "VORBIS"), ("MP3", None), ("CAF", "ALAC_16"))
    ],
    *[by_av(tone(48_000, 0.4), 48_000, *kind) for kind in (("mp4", "aac"), ("webm", "libopus"), ("ogg", "libopus"))],
    *[by_av(tone(48_000, 0.4), 48_000, *kind) for kind in (("adts", "aac"), ("mpegts", "aac"), ("mpeg", "mp2"))],
    *[by_av(tone(44_100, 0.4), 44_100, *kind, b=64_000) for kind in (("avi", "mp2"), ("asf", "wmav2"), ("flv", "aac"))],
    *[by_av(tone(16_000, 0.4), 16_000, "wav", codec) for codec in ("g722", "aac")],
    by_soundfile(tone(8_000, 0.4), 8_000, "WAV", "PCM_16") * 2,
    by_soundfile(tone(8_000, 0.4), 8_000, "FLAC", "PCM_16") * 2,
    by_soundfile(tone(48_000, 0.4), 48_000, "OGG", "VORBIS") * 2,
]


@pytest.mark.parametrize("number", range(len(MUTATED)))
def test_damaged_files_give_samples_or_one_error(number: int) -> None:
    """Bits flipped, bytes cut, doubled and overwritten: samples in range, or Unreadable, and nothing else."""
    source = random.Random(number)
    for _ in range(40):
        data = bytearray(MUTATED[number])
        for _ in range(source.choice([1, 3, 20])):
            at = source.randrange(min(len(data), source.choice([64, 512, len(data)])))
            change = source.randrange(4)
            if change == 0:
                data[at] ^= 1 << source.randrange(8)
            elif change == 1:
                data[at : at + 4] = source.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
            elif change == 2:
                del data[at : at + source.randrange(1, 40)]
            else:
                data[at:at] = data[at : at + 32]
        try:
            decoded = read(bytes(data), caps=Caps(5.0, 1 << 24))[1]
        except Unreadable:
            continue
        assert np.isfinite(decoded).all()
        assert np.abs(decoded).max(initial=0.0) <= 1.0
