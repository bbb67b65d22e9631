"""Every format of the speech route: decodable by other code, right in length, whole to the last sample, cancellable."""

from __future__ import annotations

import asyncio
import io
import math
import threading
from collections.abc import AsyncIterator

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.writers import encoders as audio_encoders
from app.writers.audio import encode
from app.writers.encoders import Encoder, quantise, wav_header
from app.writers.formats import MEDIA_TYPES, OUTPUT_RATE
from backends.audio.tempo import tempo_chain
from backends.interface import AudioChunk
from tests.support.waiting import LIMIT

SECONDS = 2.0
END_HERTZ = 2_000  # of the last tenth of a second, so that a lost tail is heard
DELAY = {"mp3": 0.08, "aac": 0.1}  # seconds of codec delay and padding that a stream without length cannot declare


def speech(rate: int = 22_050) -> NDArray[np.float32]:
    time = np.arange(int(rate * SECONDS)) / rate
    samples = 0.5 * np.sin(2 * np.pi * 440 * time)
    samples[-rate // 10 :] = 0.5 * np.sin(2 * np.pi * END_HERTZ * time[-rate // 10 :])
    return samples.astype(np.float32)


async def chunks(samples: NDArray[np.float32], rate: int, size: int = 1_777) -> AsyncIterator[AudioChunk]:
    for start in range(0, len(samples), size):
        yield AudioChunk(samples[start : start + size], rate)


async def encoded(format: str, *, streaming: bool = True, speed: float = 1.0, rate: int = 22_050) -> bytes:  # noqa: A002
    pieces = [piece async for piece in encode(chunks(speech(rate), rate), format, streaming=streaming, speed=speed)]
    assert all(pieces)
    return b"".join(pieces)


def decoded(data: bytes, format: str) -> NDArray[np.float64]:  # noqa: A002
    """Mono samples at OUTPUT_RATE, by libsndfile where it can (it wants to know the length of a FLAC), else by
    FFmpeg."""
    if format == "pcm":
        return np.frombuffer(data, "<i2") / 32_768
    if format in {"wav", "mp3"} or (format == "flac" and data[21] & 15 | int.from_bytes(data[22:26], "big")):
        samples, rate = soundfile.read(io.BytesIO(data))
        assert (rate, samples.ndim) == (OUTPUT_RATE, 1)
        return np.asarray(samples)
    with av.open(io.BytesIO(data)) as file:
        resampler = av.AudioResampler("flt", "mono", OUTPUT_RATE)
        frames = [piece for frame in [*file.decode(audio=0), None] for piece in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float64)


def end_hertz(samples: NDArray[np.float64]) -> float:
    loud = np.flatnonzero(np.abs(samples) > 0.05)
    end = samples[loud[-1] - OUTPUT_RATE // 50 : loud[-1]]
    return float(np.abs(np.fft.rfft(end)).argmax() * OUTPUT_RATE / len(end))


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("format", list(MEDIA_TYPES))
async def test_the_whole_sound_comes_back(format: str, streaming: bool) -> None:  # noqa: A002
    samples = decoded(await encoded(format, streaming=streaming), format)
    length = len(samples) / OUTPUT_RATE
    assert -0.002 <= length - SECONDS <= DELAY.get(format, 0.002)
    assert end_hertz(samples) == pytest.approx(END_HERTZ, abs=60)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("speed", [0.25, 0.7, 1.5, 4.0])
async def test_speed_changes_the_length_and_not_the_pitch(speed: float) -> None:
    samples = decoded(await encoded("pcm", speed=speed), "pcm")
    assert len(samples) == round(SECONDS * OUTPUT_RATE / speed)
    middle = samples[len(samples) // 4 : len(samples) // 2]
    assert np.abs(np.fft.rfft(middle)).argmax() * OUTPUT_RATE / len(middle) == pytest.approx(440, abs=15)
    assert end_hertz(samples) == pytest.approx(END_HERTZ, rel=0.1)


@given(st.floats(0.25, 4.0))
def test_the_tempo_chain_is_the_speed(speed: float) -> None:
    chain = tempo_chain(speed)
    assert math.prod(chain) == pytest.approx(speed)
    assert all(0.5 - 1e-9 <= factor <= 2 + 1e-9 for factor in chain)


async def test_a_streamed_wav_leaves_its_length_open() -> None:
    data = await encoded("wav", streaming=True)
    assert data[4:8] == data[40:44] == b"\xff\xff\xff\xff"
    assert len(data) == 44 + int(SECONDS * OUTPUT_RATE) * 2


async def test_a_whole_wav_tells_its_length() -> None:
    data = await encoded("wav", streaming=False)
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert int.from_bytes(data[40:44], "little") == len(data) - 44


async def test_streamed_and_whole_pcm_are_the_same_samples() -> None:
    assert (await encoded("wav", streaming=True))[44:] == (await encoded("wav", streaming=False))[44:]


async def test_a_whole_flac_tells_its_length() -> None:
    assert soundfile.info(io.BytesIO(await encoded("flac", streaming=False))).frames == SECONDS * OUTPUT_RATE


def test_the_header_of_a_wav_is_what_libsndfile_writes() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(100), OUTPUT_RATE, format="WAV", subtype="PCM_16")
    assert buffer.getvalue()[:44] == wav_header(200)


@pytest.mark.parametrize("format", list(MEDIA_TYPES))
async def test_the_first_chunk_gives_the_first_bytes(format: str) -> None:  # noqa: A002
    """Nothing waits for the second chunk, which never comes."""
    never = asyncio.Event()

    async def one_chunk() -> AsyncIterator[AudioChunk]:
        yield AudioChunk(speech(24_000)[:12_000], 24_000)
        await never.wait()

    pieces = encode(one_chunk(), format, streaming=True)
    assert await asyncio.wait_for(anext(pieces), LIMIT)
    await pieces.aclose()


async def test_a_chunk_of_a_minute_is_sent_in_pieces() -> None:
    minute = np.zeros(60 * 24_000, np.float32)
    pieces = [piece async for piece in encode(chunks(minute, 24_000, size=len(minute)), "mp3", streaming=True)]
    assert len(pieces) >= 60


async def test_cancelling_waits_for_the_thread_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave, log = threading.Event(), threading.Event(), list[str]()

    class Slow(Encoder):
        def push(self, samples: NDArray[np.float32], rate: int) -> bytes:
            entered.set()
            leave.wait(LIMIT)
            log.append("pushed")
            return super().push(samples, rate)

        def close(self) -> None:
            log.append("closed")
            super().close()

    monkeypatch.setattr(audio_encoders, "Encoder", Slow)

    async def consume() -> None:
        async for _ in encode(chunks(speech(), 22_050), "mp3", streaming=True):
            pass

    task = asyncio.create_task(consume())
    await asyncio.to_thread(entered.wait, LIMIT)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["pushed", "closed"]


@settings(max_examples=50)
@given(st.lists(st.floats(width=32), max_size=50))
def test_quantising_never_wraps(values: list[float]) -> None:
    samples = np.array(values, np.float32)
    pcm = quantise(samples).astype(np.int64)
    known = ~np.isnan(samples)
    assert (np.abs(pcm[known] - np.clip(samples[known].astype(np.float64), -1, 1) * 32_767) <= 0.51).all()
    assert not pcm[~known].any()


@pytest.mark.parametrize("format", list(MEDIA_TYPES))
def test_no_samples_at_all_still_end_cleanly(format: str) -> None:  # noqa: A002
    encoder = Encoder(format, streaming=True)
    assert isinstance(encoder.finish(), bytes)
    encoder.close()
