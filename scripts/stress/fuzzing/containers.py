"""Damaged audio files: every container the server reads, made by real encoders, then injured.

Owns the recordings and the transport that carries them. How bytes are injured is shared (`exchange.damaged`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random

from scripts.fixtures.audio_files import by_av, by_soundfile, tone
from scripts.stress.fuzzing.exchange import Case, damaged, request

RATE = 16_000
BY_SOUNDFILE = (
    ("wav 16", "WAV", "PCM_16"), ("wav 24", "WAV", "PCM_24"), ("wav float", "WAV", "FLOAT"), ("wav mulaw", "WAV",
    "ULAW"), ("wav adpcm", "WAV", "MS_ADPCM"), ("wavex", "WAVEX", "PCM_16"), ("rf64", "RF64", "PCM_16"), ("w64", "W64",
    "PCM_16"),
    ("flac", "FLAC", "PCM_16"), ("flac 24", "FLAC", "PCM_24"), ("ogg vorbis", "OGG", "VORBIS"), ("ogg opus", "OGG",
    "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"), ("aiff", "AIFF", "PCM_16"), ("au", "AU", "PCM_16"), ("caf", "CAF",
    "PCM_16"),
)  # fmt: skip
BY_AV = (
    ("m4a", "ipod", "aac", RATE), ("mp4 alac", "mp4", "alac", RATE), ("mov", "mov", "pcm_s16le", RATE),
    ("aac", "adts", "aac", RATE), ("webm opus", "webm", "libopus", 48_000), ("mkv pcm", "matroska", "pcm_s16le", RATE),
    ("mpegts", "mpegts", "aac", RATE), ("mpeg", "mpeg", "mp2", 48_000),
)  # fmt: skip


@cache
def recordings() -> dict[str, bytes]:
    """A second of noisy tone in every container."""
    made = {name: by_soundfile(tone(RATE, 1.0), RATE, container, codec) for name, container, codec in BY_SOUNDFILE}
    for name, container, codec, rate in BY_AV:
        made[name] = by_av(tone(rate, 1.0), rate, container, codec)
    return made


def mutants(chance: Random) -> Iterator[tuple[str, bytes]]:
    """Damaged files without end, each with a name that says what it was."""
    files = recordings()
    names = sorted(files)
    while True:
        name = chance.choice(names)
        roll = chance.random()
        if roll < 0.8:
            yield name, damaged(files[name], chance, chance.choice((1, 3, 20)))
        elif roll < 0.9:
            other = chance.choice(names)
            yield f"{name} + {other}", _spliced(files[name], files[other], chance)
        else:
            yield (
                f"head of {name} + noise",
                files[name][: chance.randint(4, 200)] + chance.randbytes(chance.choice((0, 20, 5000))),
            )


def _spliced(first: bytes, second: bytes, chance: Random) -> bytes:
    return first[: chance.randrange(len(first))] + second[chance.randrange(len(second)) :]


def cases(chance: Random) -> Iterator[Case]:
    """Uploads of mutants without end."""
    head = b'--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\nhear\r\n'
    head += b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for name, data in mutants(chance):
        body = head + data + b"\r\n--edge--\r\n"
        yield Case(name, request(b"/v1/audio/transcriptions", body, b"multipart/form-data; boundary=edge"))
