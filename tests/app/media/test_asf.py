"""What is missing of an ASF's sound is told, by its own counts."""

from __future__ import annotations

import random

import pytest

from app.media.asf import Losses, losses
from tests.app.media.reading import read
from tests.support.odd_files import HIGH, LOW, film, hertz_at, two_tones

DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
PACKET = 3_200  # bytes, as FFmpeg writes them
CODECS = ["wmav2", "libmp3lame", "pcm_s16le"]


def _damaged(data: bytes, damage: str) -> bytes:
    packets = data.index(DATA) + 50
    at = packets + (len(data) - packets) // PACKET // 3 * PACKET
    end = at + 4 * PACKET
    return {
        "lost": data[:at] + data[end:],
        "zeros": data[:at] + bytes(end - at) + data[end:],
        "noise": data[:at] + random.Random(1).randbytes(end - at) + data[end:],
        "parts": data[: at + PACKET // 2] + bytes(PACKET) + data[at + PACKET // 2 + PACKET :],
    }[damage]


@pytest.mark.parametrize("damage", ["lost", "zeros", "noise", "parts"])
@pytest.mark.parametrize("codec", CODECS)
def test_packets_that_are_missing_are_told(codec: str, damage: str) -> None:
    data = film(two_tones(44_100, 4.0), "asf", codec, rate=44_100)
    source, samples = read(_damaged(data, damage))
    assert "pieces of sound that are missing or not whole" in source.note
    assert hertz_at(samples, 7.5) == pytest.approx(HIGH, abs=5)
    assert source.seconds == pytest.approx(8.0, abs=0.15)


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_without_its_end_is_told(codec: str) -> None:
    data = film(two_tones(44_100, 4.0), "asf", codec, rate=44_100)
    source, samples = read(data[: len(data) // 2])
    assert "its end is missing" in source.note
    assert hertz_at(samples, 0.5) == pytest.approx(LOW, abs=5)


def test_nothing_is_missing_of_a_whole_file() -> None:
    assert losses(film(two_tones(48_000, 4.0), "asf", "wmav2", pictures=9)) == Losses()
    assert losses(film(two_tones(44_100, 4.0), "asf", "pcm_s16le", rate=44_100)) == Losses()
    assert losses(b"\x30\x26\xb2\x75" + bytes(100)) == Losses()


def test_several_objects_in_one_payload_count_one_by_one() -> None:
    """As encoders for telephones write them; FFmpeg's does not."""
    file = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
    stream = bytes.fromhex("9107dcb7b7a9cf118ee600c00c205365")
    audio = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
    head = b"".join(
        name + (24 + len(body)).to_bytes(8, "little") + body
        for name, body in (
            (file, bytes(16) + bytes(8) + bytes(8) + (2).to_bytes(8, "little") + bytes(24) + bytes(4)
             + (28).to_bytes(4, "little") * 2 + bytes(4)),
            (stream, audio + bytes(32) + b"\x01\x00" + bytes(4)),
        )
    )  # fmt: skip

    def packet(number: int) -> bytes:
        payload = bytes([0x81, number]) + bytes(4) + b"\x01\x14" + 2 * (b"\x05" + b"sound")
        return b"\x00\x5d" + bytes(6) + payload

    def whole(*numbers: int) -> bytes:
        sound = b"".join(packet(number) for number in numbers)
        return bytes(30) + head + DATA + bytes(34) + sound

    assert losses(whole(0, 2)) == Losses()
    assert losses(whole(0, 5)) == Losses(objects=3)
    assert losses(whole(0)) == Losses(cut=True)
