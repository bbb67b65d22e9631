"""Audio files whose true length and loss are known: whole, joined, with holes, cut, with bytes zeroed or left out.

Owns the rule that every answer is held to: the length is right, or the loss is told; what must have been lost is told,
and of a whole file no loss is. How bytes are damaged at random, without a truth, is in `containers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

from scripts.fixtures.audio_files import by_av, by_soundfile, tone
from scripts.stress.fuzzing.exchange import Case, Check, request

SECONDS = 4.0
_TOLERANCE = 0.25  # seconds; encoders add some tenths of their own
_NOTE = "x-gateway-note"


@dataclass(frozen=True)
class Kind:
    """A kind of file. raw: its samples are no packets, so that zeros may be silence; endless: nothing in it says how
    long it is, so that a file without its end is a shorter one; uncounted: nor where anything is missing."""

    make: Callable[[], bytes]
    raw: bool = False
    endless: bool = False
    uncounted: bool = False


def _soundfile(container: str, codec: str, rate: int = 16_000) -> Callable[[], bytes]:
    return lambda: by_soundfile(tone(rate, SECONDS), rate, container, codec)


def _av(container: str, codec: str, rate: int = 48_000, **options: object) -> Callable[[], bytes]:
    return lambda: by_av(tone(rate, SECONDS), rate, container, codec, **options)


KINDS = {
    "wav": Kind(_soundfile("WAV", "PCM_16"), raw=True),
    "wav mulaw": Kind(_soundfile("WAV", "ULAW", 8_000), raw=True),
    "wav adpcm": Kind(_soundfile("WAV", "MS_ADPCM"), raw=True),
    "rf64": Kind(_soundfile("RF64", "PCM_16"), raw=True),
    "w64": Kind(_soundfile("W64", "PCM_16"), raw=True),
    "aiff": Kind(_soundfile("AIFF", "PCM_16"), raw=True),
    "au": Kind(_soundfile("AU", "PCM_16"), raw=True),
    "caf": Kind(_soundfile("CAF", "PCM_16"), raw=True),
    "flac": Kind(_soundfile("FLAC", "PCM_16")),
    "flac 24": Kind(_soundfile("FLAC", "PCM_24", 48_000)),
    "ogg vorbis": Kind(_soundfile("OGG", "VORBIS", 48_000)),
    "ogg opus": Kind(_av("ogg", "libopus", page_duration=200_000)),
    "mp3": Kind(_av("mp3", "libmp3lame", 44_100)),
    "mp3 of a stream": Kind(_av("mp3", "libmp3lame", 44_100, write_xing=0), endless=True, uncounted=True),
    "aac": Kind(_av("adts", "aac"), endless=True, uncounted=True),
    "ac3": Kind(_av("ac3", "ac3"), endless=True, uncounted=True),
    "m4a": Kind(_av("ipod", "aac")),
    "mov": Kind(_av("mov", "pcm_s16le"), raw=True),
    "webm opus": Kind(_av("webm", "libopus")),
    "mkv aac": Kind(_av("matroska", "aac")),
    "mpegts aac": Kind(_av("mpegts", "aac"), endless=True),
    "mpeg mp2": Kind(_av("mpeg", "mp2"), endless=True, uncounted=True),
    "avi mp3": Kind(_av("avi", "libmp3lame", 44_100)),
    "wma": Kind(_av("asf", "wmav2", 44_100, b=64_000)),
    "flv aac": Kind(_av("flv", "aac", 44_100), endless=True),
}  # fmt: skip
_HEADS = 8_192  # bytes at either end that are left alone, or a fifth of the file


@dataclass(frozen=True)
class Known:
    """seconds: that the answer must last, unless it tells of a loss; told: a loss must be told (True), must not
    (False), or may."""

    note: str
    data: bytes
    seconds: float
    told: bool | None = None

    def finding(self, seconds: float, told: str) -> str:
        """What is wrong with an answer, "" = nothing."""
        if abs(seconds - self.seconds) > _TOLERANCE and not told:
            return f"{seconds:.2f} s of {self.seconds:.2f} s were read, and nothing is told"
        if self.told and not told:
            return "sound was lost, and nothing is told"
        return f"nothing was lost, yet it is told: {told}" if self.told is False and told else ""


@cache
def recording(name: str) -> bytes:
    return KINDS[name].make()


def known(chance: Random) -> Iterator[Known]:
    """Files without end."""
    while True:
        yield chance.choice((_whole, _joined, _cut, _zeroed, _shortened))(chance)


def _whole(chance: Random) -> Known:
    name = chance.choice(sorted(KINDS))
    return Known(name, recording(name), SECONDS, told=False)


def _joined(chance: Random) -> Known:
    names = [chance.choice(sorted(KINDS)) for _ in range(chance.choice((2, 2, 3)))]
    return Known(" + ".join(names), b"".join(map(recording, names)), SECONDS * len(names))


def _place(data: bytes, chance: Random) -> tuple[int, int]:
    """Where some of the sound lies: at least an eighth of it."""
    edge = min(_HEADS, len(data) // 5)
    size = chance.randrange(len(data) // 8, len(data) // 4)
    start = chance.randrange(edge, len(data) - edge - size)
    return start, start + size


def _cut(chance: Random) -> Known:
    name = chance.choice(sorted(KINDS))
    data = recording(name)
    end = chance.randrange(len(data) // 4, len(data) * 3 // 4)
    if KINDS[name].endless:
        return Known(f"{name} without its end", data[:end], SECONDS * end / len(data))
    return Known(f"{name} without its end", data[:end], SECONDS, told=True)


def _zeroed(chance: Random) -> Known:
    name = chance.choice(sorted(KINDS))
    data = recording(name)
    start, end = _place(data, chance)
    changed = data[:start] + bytes(end - start) + data[end:]
    return Known(f"{name}, zeros {start} to {end}", changed, SECONDS, told=None if KINDS[name].raw else True)


def _shortened(chance: Random) -> Known:
    name = chance.choice(sorted(name for name, kind in KINDS.items() if not kind.uncounted))
    data = recording(name)
    start, end = _place(data, chance)
    changed = data[:start] + data[end:]
    return Known(f"{name} without {start} to {end}", changed, SECONDS, told=True)


def cases(chance: Random) -> Iterator[Case]:
    """Uploads of them, and what their answers must say."""
    head = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % field
        for field in ((b"model", b"hear"), (b"response_format", b"verbose_json"))
    )
    head += b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for one in known(chance):
        body = head + one.data + b"\r\n--edge--\r\n"
        raw = request(b"/v1/audio/transcriptions", body, b"multipart/form-data; boundary=edge")
        yield Case(one.note, raw, check=_checked(one))


def _checked(one: Known) -> Check:
    def check(status: int, headers: Mapping[str, str], body: bytes) -> str:
        if status != 200:
            return f"status {status} for a whole file" if one.told is False else ""
        return one.finding(json.loads(body)["duration"], headers.get(_NOTE, ""))

    return check
