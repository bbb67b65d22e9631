"""Untrusted upload bytes to samples, from the gateway's side: a small pool of media worker processes.

Owns the life of those processes, the queue before them, the wall-time limit and the sweep of temporary folders at
start.
Knows no decoder: those run only in `app.media.worker`, so that a crash, a bomb or a kill costs one request. Every
route decodes through here.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import cast

import msgspec
import numpy as np
import structlog

from app.config.settings import LimitSettings
from app.errors import InvalidRequest, Overloaded, ServiceUnavailable
from app.media.files import SampleFile, SampleFiles
from app.media.protocol import HEAD, DecodeJob, Decoding, pack
from app.temp_folders import sweep
from backends import children
from backends.interface import Samples

SUPPORTED_FORMATS = "flac, m4a, mp3, mp4, mpeg, mpga, oga, ogg, wav, webm"
_SLICE = 256 * 1024  # bytes written to the worker at a time, so that an upload is not copied as a whole
_PIPE_BYTES = 1024 * 1024
_JOBS_PER_WORKER = 1000  # a worker is replaced after this many, whatever its libraries leaked
_COMMAND = children.command("app.media.worker")
_KILLED = {-9, -15, 1, 9, 15}  # exit codes of a process that somebody ended: by signal, and as Windows reports it
_LAST_WORDS = 2000  # characters of what a worker said that could not start
_log = structlog.get_logger("media")


@dataclass(slots=True)
class Decoded:
    """Decoded audio. samples: float32 [time], mono, at the wanted rate, read-only (a memory map of `file` for long
    audio); duration: seconds of the source; source_rate, channels, container: what was uploaded; note: what of the
    sound could not be read, "" if nothing. Close it when the job is over."""

    samples: Samples
    duration: float
    source_rate: int
    channels: int
    container: str
    file: SampleFile | None = None
    note: str = ""

    def close(self) -> None:
        """Delete the file. `samples` must not be used after this."""
        self.samples = np.zeros(0, np.float32)  # our map goes before the file, or Windows would keep it
        file, self.file = self.file, None
        if file is not None:
            file.close()

    def __enter__(self) -> Decoded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _WorkerGone(Exception):
    """The process ended. returncode None: it never became ready, and `last_words` is what it wrote to stderr."""

    def __init__(self, returncode: int | None, last_words: str = "") -> None:
        super().__init__(f"media worker ended with {returncode}")
        self.returncode, self.last_words = returncode, last_words


class _Worker:
    """One media worker process, which serves one job at a time and is replaced when it is spent."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self._ready = False
        self._jobs = 0

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    @property
    def spent(self) -> bool:
        return self.pid is None or self._jobs >= _JOBS_PER_WORKER

    async def start(self) -> asyncio.subprocess.Process:
        """Return the process, started if there is none, or only a dead one."""
        if self.pid is None:
            await self.stop()
            self._ready, self._jobs = False, 0
            self.process = process = await children.start(
                _COMMAND,
                children.environment(
                    threads=1, offline=True, secrets=False
                ),  # a decoder needs no configuration and no token
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,  # the worker lets go of it when it is ready
                limit=4 * _SLICE,
            )
            _widen_pipe(self.process)
            return process
        return cast(asyncio.subprocess.Process, self.process)

    async def ask(self, job: DecodeJob, data: bytes | memoryview) -> tuple[Decoding, bytes]:
        """Decode in the process; returns the answer and its samples. Raises _WorkerGone if the process ends before."""
        try:
            process = await self.start()
        except OSError as error:
            raise _WorkerGone(None, str(error)) from None
        self._jobs += 1
        if not self._ready:
            await self._receive(process)
            self._ready = True
        try:
            await _send(process, job, data)
        except (BrokenPipeError, ConnectionResetError):
            raise _WorkerGone(await process.wait()) from None
        message, payload = await self._receive(process)
        return msgspec.json.decode(message, type=Decoding), payload

    async def _receive(self, process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
        stream = cast(asyncio.StreamReader, process.stdout)
        try:
            body_length, payload_length = HEAD.unpack(await stream.readexactly(HEAD.size))
            body = await stream.readexactly(body_length)
            return body, await stream.readexactly(payload_length)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            returncode = await process.wait()
            if self._ready:
                raise _WorkerGone(returncode) from None
            raise _WorkerGone(None, await _last_words(process)) from None

    async def stop(self) -> None:
        """End the process now and reap it."""
        process, self.process = self.process, None
        if process is None:
            return
        await children.end(process)
        cast(asyncio.StreamWriter, process.stdin).close()


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """Read the end of what an ended process wrote to stderr."""
    written = await cast(asyncio.StreamReader, process.stderr).read()
    return written.decode("utf-8", "replace")[-_LAST_WORDS:]


async def _send(process: asyncio.subprocess.Process, job: DecodeJob, data: bytes | memoryview) -> None:
    stream = cast(asyncio.StreamWriter, process.stdin)
    stream.write(pack(job, len(data)))
    view = memoryview(data)
    for start in range(0, len(data), _SLICE):
        stream.write(view[start : start + _SLICE])
        await stream.drain()


class MediaPool:
    """Decodes uploads in `workers` child processes; at most `queue` more requests wait.

    limits: audio_seconds and decoded_bytes are the caps of one upload; wall_seconds: longest time one decoding may
    take.
    """

    def __init__(
        self, limits: LimitSettings, *, workers: int = 2, queue: int = 64, wall_seconds: float = 120.0
    ) -> None:
        self._limits, self._queue, self._wall_seconds = limits, queue, wall_seconds
        self._workers = [_Worker() for _ in range(workers)]
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._waiting = 0
        self._background: set[asyncio.Task[None]] = set()
        self._files: SampleFiles | None = None

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def snapshot(self) -> dict[str, int]:
        """What is held now. waiting: uploads that wait for a worker; free: workers without a job."""
        return {"waiting": self._waiting, "free": self._free.qsize()}

    @property
    def folder(self) -> Path | None:
        """Where files with a name lie while they are in use; None before `start` and after `close`."""
        return None if self._files is None else self._files.folder

    async def start(self) -> None:
        """Make the folder for long audio and start the workers in the background; sweep what killed servers left."""
        self._files = SampleFiles()
        self._spawn(_sweep())
        for worker in self._workers:
            self._renew(worker)

    async def close(self) -> None:
        """End all workers, running ones included, and delete every temporary file."""
        files, self._files = self._files, None
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        if files is not None:
            files.close()

    async def decode(
        self, data: bytes | memoryview, *, rate: int, param: str = "file", max_seconds: float | None = None
    ) -> Decoded:
        """Decode `data` to mono float32 at `rate` Hz.

        param: the field that errors name; max_seconds: a cap tighter than the configured one. Raises InvalidRequest for
        what is not supported audio or is over a cap, Overloaded when too many wait, ServiceUnavailable when the worker
        was killed. Cancelling ends the running decoder.
        """
        if not data:
            raise InvalidRequest("The audio is empty.", param=param, code="audio_too_short")
        files = self._files
        if files is None:
            raise ServiceUnavailable("The server is not decoding audio now.", retry_after=5)
        longest = self._limits.audio_seconds if max_seconds is None else min(max_seconds, self._limits.audio_seconds)
        worker = await self._free_worker()
        file = self._new_file(files, worker)
        job = DecodeJob(rate, str(file.path), longest, self._limits.decoded_bytes, int(self._wall_seconds) + 1)
        answer, payload = await self._run(worker, job, data, file, param)
        if answer.note:
            _log.warning("media.damaged", note=answer.note, container=answer.container, bytes=len(data))
        if answer.in_file:
            return _decoded(answer, file.map(answer.count), file)
        file.close()
        if answer.unexpected:
            _log.warning("media.unexpected", error=answer.unexpected, bytes=len(data))
        if answer.problem:
            raise InvalidRequest(answer.problem.replace("{formats}", SUPPORTED_FORMATS), param=param)
        return _decoded(answer, np.frombuffer(payload, np.float32))

    async def _free_worker(self) -> _Worker:
        if self._waiting >= self._queue:
            raise Overloaded("Too many uploads are waiting to be decoded.", retry_after=2)
        self._waiting += 1
        try:
            return await self._free.get()
        finally:
            self._waiting -= 1

    def _new_file(self, files: SampleFiles, worker: _Worker) -> SampleFile:
        try:
            return files.new()
        except OSError as error:
            self._free.put_nowait(worker)
            _log.error("media.no_file", error=str(error))
            raise ServiceUnavailable("There is no room for decoded audio. The server's log has the details.") from None

    async def _run(
        self, worker: _Worker, job: DecodeJob, data: bytes | memoryview, file: SampleFile, param: str
    ) -> tuple[Decoding, bytes]:
        """Let the worker decode. A job that does not end by itself takes its file and the worker's process with it."""
        done = False
        try:
            async with asyncio.timeout(self._wall_seconds):
                result = await worker.ask(job, data)
            done = True
            return result
        except TimeoutError:
            raise InvalidRequest("The audio takes too long to decode.", param=param) from None
        except _WorkerGone as gone:
            raise _lost(gone, param) from None
        finally:
            if done and not worker.spent:
                self._free.put_nowait(worker)
            else:  # a worker whose job did not end by itself may be in any state
                self._renew(worker, None if done else file)

    def _renew(self, worker: _Worker, leftover: SampleFile | None = None) -> None:
        """Replace the process of `worker` in the background, then let the next request have it."""
        self._spawn(self._replace(worker, leftover))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _replace(self, worker: _Worker, leftover: SampleFile | None) -> None:
        try:
            await worker.stop()
        finally:
            if leftover is not None:
                leftover.close()
        if self._files is not None:
            with contextlib.suppress(OSError):  # no process now: the next request tries again and reports it
                await worker.start()
            self._free.put_nowait(worker)


def _decoded(answer: Decoding, samples: Samples, file: SampleFile | None = None) -> Decoded:
    return Decoded(samples, answer.duration, answer.source_rate, answer.channels, answer.container, file, answer.note)


async def _sweep() -> None:
    """Sweep in a thread, because what a killed server left may be gigabytes."""
    if swept := await asyncio.to_thread(sweep):
        _log.info("media.swept", folders=len(swept))


def _lost(gone: _WorkerGone, param: str) -> InvalidRequest | ServiceUnavailable:
    """Return the error for a worker that ended. A decoder that dies on its own was killed by this file."""
    if gone.returncode is None:
        _log.error("media.cannot_start", error=gone.last_words)
        return ServiceUnavailable("The audio decoder cannot start. The server's log has the details.", retry_after=10)
    _log.warning("media.worker_ended", returncode=gone.returncode)
    if gone.returncode in _KILLED:
        return ServiceUnavailable("The audio decoder was stopped while it worked on this file.", retry_after=1)
    return InvalidRequest(f"The audio could not be decoded. Supported formats: {SUPPORTED_FORMATS}.", param=param)


def _widen_pipe(process: asyncio.subprocess.Process) -> None:
    """Make the pipe hold a whole upload: at Linux' usual 64 KiB the event loop wakes 16 times per megabyte."""
    if sys.platform == "linux":
        import fcntl

        pipe = cast(asyncio.StreamWriter, process.stdin).get_extra_info("pipe")
        if pipe is not None:  # uvloop keeps it to itself
            with contextlib.suppress(OSError):  # an unprivileged user's total is limited; the usual size works too
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
