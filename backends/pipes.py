"""The worker's ends of its two pipes: commands come in on stdin, reports go out on stdout.

Moves the real descriptors away before any library can print on them, reads commands in a thread, and ends the process
when the gateway is gone. Knows the frames and nothing of jobs or models.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from typing import BinaryIO

from backends import frames, messages
from backends.interface import Failed

GRACE_SECONDS = 3.0  # from the gateway's end to ours, when the main thread hangs in a library


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Private copies of stdin and stdout; from now on a print, from Python or C, goes to stderr and stdin is empty."""
    commands, reports = os.dup(0), os.dup(1)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(commands, os.O_BINARY)
        msvcrt.setmode(reports, os.O_BINARY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(commands, "rb"), os.fdopen(reports, "wb")


class Outbox:
    """Sends reports whole, from any thread. A gateway that no longer reads ends the process."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, report: messages.Report) -> None:
        frame = frames.encode(report)
        try:
            with self._lock:
                self._stream.write(frame)
                self._stream.flush()
        except OSError:
            os._exit(1)


class Inbox(threading.Thread):
    """Reads commands into a queue; None at the end of the stream. A job that cannot be read fails at once."""

    def __init__(self, stream: BinaryIO, outbox: Outbox) -> None:
        super().__init__(name="inbox", daemon=True)
        self._stream, self._outbox = stream, outbox
        self.queue: queue.SimpleQueue[messages.Message | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Ends the process itself if the main thread does not within the grace period."""
        try:
            while (command := self._next()) is not None:
                self.queue.put(command)
                del command  # its samples map a file
        except (frames.FrameError, OSError) as error:
            print(f"the command stream is broken: {error}", file=sys.stderr)
        self.queue.put(None)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    def _next(self) -> messages.Message | None:
        while True:
            try:
                return frames.read_frame(self._stream)
            except frames.JobBroken as error:
                self._outbox.send(messages.JobEvent(error.job, Failed("internal", str(error))))
                self._outbox.send(messages.JobEnded(error.job))
