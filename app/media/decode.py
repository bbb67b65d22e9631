"""Bytes of a known container to mono float32 at a given rate, block by block.

Owns the choice between libsndfile and FFmpeg, and that one goes on where the other stops. Runs only in the media worker
process. Memory does not grow with the length of the audio: each block goes to `write` at once.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator

import numpy as np
import soundfile

from app.media import ffmpeg
from app.media.downmix import Block, Mixer, Speakers, speakers_of_flac
from app.media.flac import is_odd
from app.media.joined import files, is_cut
from app.media.parts import Part, parts
from app.media.resample import BLOCK_FRAMES, Resampler
from app.media.sniff import FLAC, Container, sniff
from app.media.source import UNSUPPORTED, Broken, Caps, Source, Unreadable, check_shape
from backends.interface import Samples

_SMALLEST_AUDIO = 512  # bytes; a file below this that says it is empty is empty
_MISSED_SECONDS = 0.1  # by which a head that counts its samples is short of them before that is told
_UNREAD = 4096  # bytes behind the stated end of a FLAC that are more than a tag of a player


def decode(data: bytes, rate: int, caps: Caps, write: Callable[[Samples], None]) -> Source:
    """Give the mono samples of `data` at `rate` Hz to `write`, piece by piece. Raises Unreadable."""
    found = sniff(memoryview(data))
    if found is None:
        raise Unreadable(UNSUPPORTED)
    container, start = found
    source, mixer, resampler = Source(container.name), Mixer(), Resampler(rate, write)
    failed: Broken | None = None
    joined = files(data[start:] if start else data, container)
    for part in (part for file, kind in joined for part in _parts(file, kind, source)):
        before = source.seconds
        try:
            for block in _blocks(part, source, caps):
                source.count(len(block.samples), block.samples.shape[1], block.rate, caps)
                for samples, hertz in mixer.push(block):
                    resampler.push(samples, hertz)
        except Broken as error:
            failed = error
        _end_part(part, source, source.seconds - before)
    if failed is not None:
        if not source.frames:
            raise failed
        source.damage.ended = True
    for samples, hertz in mixer.flush():
        resampler.push(samples, hertz)
    resampler.flush()
    return source


def _parts(data: bytes, container: Container, source: Source) -> Iterator[Part]:
    source.damage.cut |= is_cut(data, container)
    yield from parts(data, container)


def _end_part(part: Part, source: Source, seconds: float) -> None:
    damage = source.damage
    damage.pages += part.pages
    damage.objects += part.objects
    damage.cut |= part.cut
    missing = seconds / part.share - seconds
    if missing > _MISSED_SECONDS:
        damage.missing += missing
        damage.stated = 0.0
    damage.end_part(seconds)


def _blocks(part: Part, source: Source, caps: Caps) -> Iterator[Block]:
    """libsndfile where it is at least as fast, FFmpeg for the rest, for what libsndfile cannot open, and from where it
    stops."""
    buffer = io.BytesIO(part.data)
    first = part.container.soundfile_first and not (part.container is FLAC and is_odd(part.data))
    file = _open_soundfile(buffer, len(part.data)) if first else None
    if file is None:
        yield from ffmpeg.blocks(part, source, caps)
        return
    with file:
        check_shape(file.samplerate, file.channels)  # before the buffer is made
        flac = part.container is FLAC
        read, damaged = yield from _soundfile_blocks(file, speakers_of_flac(file.channels) if flac else part.speakers)
        stated = file.frames / file.samplerate
        more = flac and (read < file.frames or len(part.data) - buffer.tell() > _UNREAD)
    if flac and stated <= caps.seconds:  # what claims to be longer was written by a stream, which does not know
        source.damage.stated = stated
    source.damage.packets += damaged
    if damaged or more:
        yield from _behind(read, ffmpeg.blocks(part, source, caps))


def _open_soundfile(buffer: io.BytesIO, size: int) -> soundfile.SoundFile | None:
    """None if libsndfile lacks the codec or does not know the length (a streamed FLAC), which it takes for none at
    all."""
    try:
        file = soundfile.SoundFile(buffer)
    except (soundfile.LibsndfileError, RuntimeError):
        buffer.seek(0)
        return None
    if file.frames > 0 or size < _SMALLEST_AUDIO:
        return file
    file.close()
    return None


def _soundfile_blocks(file: soundfile.SoundFile, speakers: Speakers) -> Generator[Block, None, tuple[int, bool]]:
    """Everything up to the first damaged place; at last how many frames that were, and whether there was one.
    libsndfile does not tell how much of a damaged block it has read, so blocks start as NaN and what it has not written
    is cut."""
    read = 0
    while True:
        buffer = np.full((BLOCK_FRAMES, file.channels), np.nan, np.float32)
        try:
            block = file.read(out=buffer)
            damaged = False
        except (soundfile.LibsndfileError, RuntimeError):
            block = buffer[: int(np.isnan(buffer[:, 0]).argmax())]
            damaged = True
        read += len(block)
        if len(block):
            yield Block(block, file.samplerate, speakers)
        if damaged or not len(block):
            return read, damaged


def _behind(frames: int, blocks: Iterator[Block]) -> Iterator[Block]:
    """The blocks without their first `frames`, which another decoder has given already."""
    for block in blocks:
        if frames < len(block.samples):
            yield Block(block.samples[frames:], block.rate, block.speakers)
        frames = max(0, frames - len(block.samples))
