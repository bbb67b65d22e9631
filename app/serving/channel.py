"""One model worker process and the pipes to it: the gateway's asynchronous side of `backends.frames`.

Owns starting the process with the right interpreter, environment and thread counts, sending and receiving frames, the
worker's stderr in our log, and its certain end. Knows no job and no model.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress

import structlog

from backends import children, frames, messages

_READ_AHEAD = 1 << 20  # bytes buffered from the worker before its pipe is left to fill
_STDERR_LINE = 1000  # characters of one line of a worker that are logged

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
)  # ECMA-48 CSI (colours) and OSC sequences
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # all but the tab

_log = structlog.get_logger("worker")


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker. Offline: weights are fetched by `backends.weights` and nobody else."""
    extra = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    return children.environment(threads=threads, offline=True, extra=extra)


class Channel:
    """A started worker process. Iterating gives its reports until the process or its pipe ends."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self._name, self._process = name, process
        self._stderr = asyncio.create_task(self._log_stderr(), name=f"stderr of {name}")

    @classmethod
    async def open(cls, name: str, *, python: str = "", threads: int = 1) -> Channel:
        """Start `python -m backends.worker`. Raises OSError if the interpreter cannot be started."""
        pipe = asyncio.subprocess.PIPE
        process = await children.start(
            children.command("backends.worker", python=python),
            worker_environment(threads),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            limit=_READ_AHEAD,
        )
        return cls(name, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def send(self, frame: bytes) -> None:
        """Send an encoded command. Raises ConnectionError, or RuntimeError for a closed pipe, if the worker is gone."""
        assert self._process.stdin is not None  # noqa: S101 # opened with a pipe
        self._process.stdin.write(frame)
        await self._process.stdin.drain()

    async def reports(self) -> AsyncIterator[messages.Report]:
        """Yield reports until the process ends. A corrupted stream ends it too: nothing after it could be trusted."""
        assert self._process.stdout is not None  # noqa: S101 # opened with a pipe
        stdout = self._process.stdout
        try:
            while True:
                head = await stdout.readexactly(frames.HEAD_BYTES)
                message = frames.decode(await stdout.readexactly(frames.body_length(head)))
                yield message  # type: ignore[misc]  # a worker sends reports only
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        except frames.FrameError as error:
            _log.error("worker.corrupted_stream", deployment=self._name, pid=self.pid, error=str(error))

    async def close(self, grace_seconds: float) -> None:
        """Let the process end by itself, kill it after the grace period, and wait until it is gone."""
        assert self._process.stdin is not None  # noqa: S101 # opened with a pipe
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), grace_seconds)
        except TimeoutError:
            self.kill()
        await self._process.wait()
        await self._stderr
        with suppress(ConnectionError):
            await self._process.stdin.wait_closed()

    def kill(self) -> None:
        """Kill the process; `close` must still be awaited."""
        children.kill(self._process)

    async def _log_stderr(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 # opened with a pipe
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # a line over the limit of the stream; its rest comes with the next reads
                continue
            if not line:
                return
            if text := _readable(line):
                _log.info("worker.stderr", deployment=self._name, pid=self.pid, text=text)


def _readable(line: bytes) -> str:
    """Decode a line of stderr, without colours and control characters.

    On Windows onnxruntime writes UTF-16 there, of which a line that was split off at a newline's byte begins or ends in
    the middle of a character; the rest of a worker writes UTF-8.
    """
    if b"\0" in line:
        # Letters of a program's messages are mostly ASCII, whose second byte is zero: that tells where characters
        # begin.
        start = int(line[::2].count(0) > line[1::2].count(0))
        line = line[start:]
        text = (line + b"\0" if len(line) % 2 else line).decode("utf-16-le", "replace")
    else:
        text = line.decode("utf-8", "replace")
    return _CONTROL.sub("", _ESCAPES.sub("", text)).strip()[:_STDERR_LINE]
