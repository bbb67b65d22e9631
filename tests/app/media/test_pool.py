"""The media pool with real worker processes: answers, refusals, kills, limits, clean-up."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from structlog.testing import capture_logs

from app.config.settings import LimitSettings
from app.errors import ApiError, InvalidRequest, Overloaded, ServiceUnavailable
from app.media import files as media_files
from app.media.files import SampleFile, SampleFiles
from app.media.pool import MediaPool
from backends import frames
from tests.support.audio import by_av, by_soundfile, tone

LIMITS = LimitSettings.model_validate({"audio_seconds": 3600, "decoded_bytes": 1 << 30})
WAV = by_soundfile(tone(24_000, 1.0), 24_000, "WAV", "PCM_16")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="open files without a name, reached through /proc")
# Eight minutes: long enough to be caught in the middle.
SLOW = by_soundfile(np.tile(tone(48_000, 10.0), (48, 1)), 48_000, "FLAC", "PCM_16")


NAMELESS = [pytest.param(False, id="named"), pytest.param(True, id="nameless", marks=ON_LINUX)]


@pytest.fixture(params=NAMELESS)
async def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MediaPool]:
    """With files as Linux has them, and as every other system has them."""
    monkeypatch.setattr(media_files, "_can_be_nameless", lambda: request.param)
    pool = MediaPool(LIMITS, workers=1, queue=2, wall_seconds=60)
    await pool.start()
    yield pool
    await pool.close()


def recorded_files(pool: MediaPool, monkeypatch: pytest.MonkeyPatch) -> list[SampleFile]:
    """Every file that the pool makes from now on."""
    files = pool._files
    assert files is not None
    made: list[SampleFile] = []
    monkeypatch.setattr(files, "new", lambda: made.append(SampleFiles.new(files)) or made[-1])  # type: ignore[func-returns-value]
    return made


async def started_slow(pool: MediaPool) -> asyncio.Task[object]:
    """A decoding that is under way: its worker has begun to write samples."""
    await pool.decode(WAV, rate=16_000)
    with pytest.MonkeyPatch.context() as patch:
        made = recorded_files(pool, patch)
        task: asyncio.Task[object] = asyncio.create_task(pool.decode(SLOW, rate=16_000))
        while not (made and size(made[0].path)):
            await asyncio.sleep(0.01)
            assert not task.done()
    return task


def size(path: Path) -> int:
    """Bytes, 0 for no file. Works for a descriptor's path as well."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def open_samples() -> list[Path]:
    """The decoded audio without a name that this process has open."""
    targets = {link: str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    return [link for link, target in targets.items() if "speech-gateway-media-" in target and "(deleted)" in target]


async def test_short_audio_comes_back_without_a_file(pool: MediaPool) -> None:
    with await pool.decode(WAV, rate=16_000) as decoded:
        assert decoded.samples.dtype == np.float32
        assert decoded.samples.shape == (16_000,)
        assert (decoded.duration, decoded.source_rate, decoded.channels, decoded.container) == (1.0, 24_000, 1, "wav")
        assert decoded.file is None


async def test_long_audio_is_a_map_of_a_file_that_goes_with_it(pool: MediaPool) -> None:
    mp4 = by_av(tone(44_100, 60.0), 44_100, "mp4", "aac")
    with await pool.decode(mp4, rate=16_000) as decoded:
        assert decoded.file is not None
        path = decoded.file.path
        assert path.stat().st_size == 4 * len(decoded.samples)
        assert isinstance(decoded.samples, np.memmap)
        assert not decoded.samples.flags.writeable
        assert len(decoded.samples) == pytest.approx(60 * 16_000, rel=0.001)
    assert not path.exists()


@pytest.mark.parametrize(("data", "code"), [(b"", "audio_too_short"), (b"just text" * 50, "invalid_value")])
async def test_bad_data_names_the_parameter(pool: MediaPool, data: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        await pool.decode(data, rate=16_000, param="messages")
    assert (error.value.param, error.value.code) == ("messages", code)


async def test_the_refusal_lists_what_is_supported(pool: MediaPool) -> None:
    with pytest.raises(InvalidRequest, match="flac, m4a, mp3, mp4, mpeg, mpga, oga, ogg, wav, webm"):
        await pool.decode(b"just text" * 50, rate=16_000)


async def test_a_tighter_cap_for_one_call(pool: MediaPool) -> None:
    with pytest.raises(InvalidRequest, match=r"limit of 0\.5 seconds"):
        await pool.decode(WAV, rate=16_000, max_seconds=0.5)


async def test_a_refused_long_file_leaves_nothing_behind(pool: MediaPool) -> None:
    with pytest.raises(InvalidRequest, match="longer"):
        await pool.decode(SLOW, rate=16_000, max_seconds=100)
    assert pool.folder is not None
    assert not list(pool.folder.iterdir())


async def test_a_killed_worker_costs_one_request(pool: MediaPool) -> None:
    task = await started_slow(pool)
    os.kill(pool.pids[0], 9)
    with pytest.raises(ServiceUnavailable) as error:
        await task
    assert error.value.retry_after
    assert (await pool.decode(WAV, rate=16_000)).duration == 1.0
    assert pool.folder is not None
    assert not list(pool.folder.iterdir())


async def test_a_worker_killed_between_requests_costs_nothing(pool: MediaPool) -> None:
    await pool.decode(WAV, rate=16_000)
    os.kill(pool.pids[0], 9)
    await asyncio.sleep(0.2)
    assert not pool.pids
    assert (await pool.decode(WAV, rate=16_000)).duration == 1.0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_a_crashing_decoder_is_the_files_fault(pool: MediaPool) -> None:
    task = await started_slow(pool)
    os.kill(pool.pids[0], 11)
    with capture_logs() as lines, pytest.raises(InvalidRequest, match="could not be decoded"):
        await task
    assert lines == [{"event": "media.worker_ended", "log_level": "warning", "returncode": -11}]
    assert (await pool.decode(WAV, rate=16_000)).duration == 1.0


_DEFECT = """
from app.media import worker as media_worker

def decode(data, *_):
    raise ZeroDivisionError(data)

media_worker.decode = decode
media_worker.main()
"""


async def test_what_no_decoder_foresaw_is_logged_without_the_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = await _pool_of(monkeypatch, _DEFECT)
    with capture_logs() as lines, pytest.raises(InvalidRequest, match="could not be decoded"):
        await pool.decode(WAV, rate=16_000)
    await pool.close()
    (line,) = lines
    assert (line["event"], line["log_level"], line["bytes"]) == ("media.unexpected", "warning", len(WAV))
    assert line["error"].startswith("builtins.ZeroDivisionError at worker.py:")
    assert line["error"].endswith("> <string>:5 decode")
    assert "RIFF" not in line["error"]


async def test_a_damaged_file_is_nothing_to_log(pool: MediaPool) -> None:
    for data in (WAV[:30], b"OggS" + bytes(100), b"just text" * 50):
        with capture_logs() as lines, pytest.raises(InvalidRequest):
            await pool.decode(data, rate=16_000)
        assert not lines


async def test_why_a_worker_cannot_start_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = await _pool_of(monkeypatch, "raise OSError('no sound library here')")
    with capture_logs() as lines, pytest.raises(ServiceUnavailable, match="log has the details"):
        await pool.decode(WAV, rate=16_000)
    await pool.close()
    assert [line["event"] for line in lines] == ["media.cannot_start"]
    assert "no sound library here" in lines[0]["error"]


async def _pool_of(monkeypatch: pytest.MonkeyPatch, program: str) -> MediaPool:
    """A pool whose one worker runs a program of the test's."""
    monkeypatch.setattr("app.media.pool._COMMAND", (sys.executable, "-c", program))
    pool = MediaPool(LIMITS, workers=1)
    await pool.start()
    return pool


async def test_cancelling_ends_the_decoder(pool: MediaPool) -> None:
    task = await started_slow(pool)
    (pid,) = pool.pids
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pool.decode(WAV, rate=16_000)).duration == 1.0  # the place was given back
    assert pid not in pool.pids
    assert not psutil.pid_exists(pid)


async def test_a_decoding_that_takes_too_long_is_ended() -> None:
    pool = MediaPool(LIMITS, workers=1, wall_seconds=0.05)
    await pool.start()
    with pytest.raises(InvalidRequest, match="too long to decode"):
        await pool.decode(SLOW, rate=16_000)
    await pool.close()


def address_space_limit(pid: int) -> int:
    """Bytes; raises where there is none."""
    limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
    return int(next(line for line in limits if line.startswith("Max address space")).split()[3])


async def test_only_so_many_may_wait(pool: MediaPool) -> None:
    tasks = [asyncio.create_task(pool.decode(WAV, rate=16_000)) for _ in range(6)]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert refused
    assert all(error.retry_after for error in refused)
    assert len(refused) + sum(not isinstance(answer, ApiError) for answer in answers) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited on Linux only")
async def test_memory_is_limited(pool: MediaPool) -> None:
    await pool.decode(WAV, rate=16_000)
    (pid,) = pool.pids
    assert address_space_limit(pid) < 8 << 30


@ON_LINUX
async def test_on_linux_long_audio_has_no_name_yet_another_process_can_map_it() -> None:
    """So nothing is left, however this process ends."""
    before = set(open_samples())  # other tests of this process may still hold theirs
    pool = MediaPool(LIMITS, workers=1)
    await pool.start()
    with await pool.decode(SLOW, rate=8_000) as decoded:
        assert pool.folder is not None
        assert not list(pool.folder.iterdir())
        wire = frames._pack_array(decoded.samples[8_000:16_000])
        code = (
            "import sys, numpy as np; print(np.memmap(sys.argv[1], np.float32, 'r', int(sys.argv[2]), (8000,)).sum())"
        )
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, wire["path"], str(wire["offset"]), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await child.communicate()
        assert float(said) == pytest.approx(float(decoded.samples[8_000:16_000].sum()), abs=1e-3)
        assert len(set(open_samples()) - before) == 2, "ours, and the map's own"
    assert not set(open_samples()) - before
    await pool.close()


@ON_LINUX
async def test_a_late_reader_does_not_meet_another_jobs_audio() -> None:
    """A worker may open a path just after its job was cancelled."""
    pool = MediaPool(LIMITS, workers=1)
    await pool.start()
    paths = set()
    for _ in range(3):
        with await pool.decode(SLOW, rate=8_000) as decoded:
            assert decoded.file is not None
            paths.add(decoded.file.path)
    await pool.close()
    assert len(paths) == 3


async def test_a_disk_without_room_is_not_the_files_fault(pool: MediaPool, tmp_path: Path) -> None:
    assert pool._files is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool._files._owned, "path", tmp_path / "gone")
        with pytest.raises(ServiceUnavailable):
            await pool.decode(SLOW, rate=16_000)
    assert (await pool.decode(WAV, rate=16_000)).duration == 1.0


async def test_closing_ends_processes_and_deletes_files(pool: MediaPool) -> None:
    decoded = await pool.decode(SLOW, rate=8_000)
    folder, pids = pool.folder, pool.pids
    assert folder is not None
    assert decoded.file is not None
    assert size(decoded.file.path)
    await pool.close()
    assert not folder.parent.exists()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(ServiceUnavailable):
        await pool.decode(WAV, rate=16_000)
