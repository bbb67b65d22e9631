"""The media worker: a child process that decodes untrusted uploads, run as `python -m app.media.worker`.

Owns the limits of its own process and the loop over jobs on stdin. Everything dangerous happens here, so that a fault
ends this process and nothing else. Knows no HTTP.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from app.media.decode import decode
from app.media.protocol import HEAD, INLINE_BYTES, DecodeJob, Decoding, Ready, pack
from app.media.source import BROKEN, Caps, Source, Unreadable
from backends.interface import Samples

UNEXPECTED_CHARACTERS = 2000  # of a log line
_FRAMES = 6  # frames of a traceback that are reported
ADDRESS_SPACE = 1 << 30  # bytes that a job may map beyond what the libraries take: the upload, decoder scratch, output


class _Sink:
    """Samples of one job: in memory while they are few, in `path` once they are many."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._file: BinaryIO | None = None

    def write(self, samples: Samples) -> None:
        """Keep a piece. A disk without room is not the file's fault: the process ends, which the gateway answers with
        503."""
        try:
            self._keep(np.ascontiguousarray(samples, np.float32).tobytes())
        except OSError:
            sys.exit(1)

    def _keep(self, piece: bytes) -> None:
        self._bytes += len(piece)
        if self._file is None and self._bytes > INLINE_BYTES:
            self._file = self._path.open("wb")
            self._file.writelines(self._pieces)
            self._pieces = []
        if self._file is None:
            self._pieces.append(piece)
        else:
            self._file.write(piece)

    def finish(self) -> tuple[int, bool, bytes]:
        """Sample count, whether they are in the file, and the samples if they are not."""
        if self._file is not None:
            self._file.close()
        return self._bytes // 4, self._file is not None, b"".join(self._pieces)

    def abandon(self) -> None:
        """Write no more. The file belongs to the gateway, which deletes it."""
        if self._file is not None:
            self._file.close()


def main() -> None:
    """Serve jobs until stdin ends."""
    _limit_memory()
    jobs, answers = sys.stdin.buffer, _private_stdout()
    _send(answers, Ready(os.getpid()))
    while (received := _receive(jobs)) is not None:
        _send(answers, *_answer(*received))


def _answer(job: DecodeJob, data: bytes) -> tuple[Decoding, bytes]:
    # Should the gateway die, nobody else would stop a decoder that hangs. The dump goes to stderr, which is discarded
    # by now.
    faulthandler.dump_traceback_later(job.cpu_seconds + 5, exit=True)
    _limit_cpu(job.cpu_seconds)
    sink = _Sink(Path(job.output))
    try:
        source = decode(data, job.rate, Caps(job.max_seconds, job.max_decoded_bytes), sink.write)
    except Unreadable as error:
        sink.abandon()
        return Decoding(problem=str(error)), b""
    except MemoryError:
        sink.abandon()
        return Decoding(problem="The audio needs too much memory to decode."), b""
    except Exception as error:
        # A decoder's wrapper may raise anything on hostile bytes; to the client it is one and the same. The gateway
        # logs it.
        sink.abandon()
        return Decoding(problem=BROKEN, unexpected=_described_error(error)), b""
    finally:
        faulthandler.cancel_dump_traceback_later()
    return _described(source, sink)


def _described(source: Source, sink: _Sink) -> tuple[Decoding, bytes]:
    count, in_file, payload = sink.finish()
    return Decoding(
        "", count, in_file, source.seconds, source.rate, source.channels, source.container, note=source.note
    ), payload


def _described_error(error: BaseException) -> str:
    """Kind of an exception and the last places it came through. Without its message, which may quote the file."""
    frames = list(traceback.walk_tb(error.__traceback__))[-_FRAMES:]
    places = (f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}" for frame, line in frames)
    return f"{type(error).__module__}.{type(error).__qualname__} at {' > '.join(places)}"[:UNEXPECTED_CHARACTERS]


def _private_stdout() -> BinaryIO:
    """The real stdout for answers alone; whatever the libraries print from now on is discarded.

    Until here stderr is the gateway's, which logs why a worker could not start.
    """
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return answers


def _receive(stream: BinaryIO) -> tuple[DecodeJob, bytes] | None:
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    body_length, payload_length = HEAD.unpack(head)
    job = msgspec.json.decode(stream.read(body_length), type=DecodeJob)
    data = stream.read(payload_length)
    return (job, data) if len(data) == payload_length else None


def _send(stream: BinaryIO, message: msgspec.Struct, payload: bytes = b"") -> None:
    stream.write(pack(message, len(payload)))
    stream.write(payload)
    stream.flush()


def _limit_memory() -> None:
    """Cap the address space where the system can; Windows and macOS have the other caps."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(seconds: int) -> None:
    """Let this job use `seconds` more CPU seconds, where the system can count them."""
    if sys.platform != "win32":
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime) + seconds + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
