"""The files through which decoded audio goes from the media worker to the model worker, and their certain end.

On Linux such a file never has a name (on file systems without O_TMPFILE, for a moment only): workers open it through
this process's descriptor, and the system frees it with the last process that has it open, even one that is killed.
Elsewhere it has a name; what Windows refuses to delete, because somebody still maps it, is tried again until it is
gone. Knows no job and no decoder.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from pathlib import Path

import numpy as np

from app.temp_folders import TempFolder
from backends.interface import Samples

_RETRY_SECONDS = 1.0
_LOWEST, _HIGHEST = 512, 4096  # descriptor numbers of files without a name, where the process may have as many


class SampleFile:
    """A file for the samples of one decoding. path: what a worker opens it by, valid until `close`."""

    def __init__(self, files: SampleFiles, path: Path, descriptor: int | None = None) -> None:
        self.path = path
        self._files, self._descriptor = files, descriptor

    def map(self, count: int) -> Samples:
        """The first `count` float32 samples, read-only [time]. Whoever gets the array can send it on as a path."""
        return np.memmap(str(self.path), np.float32, mode="r", shape=(count,))

    def close(self) -> None:
        """Delete the file, once. Its maps stay readable, but on Windows it goes only after the last of them."""
        if not self._files.forget(self):
            return
        if self._descriptor is not None:
            os.close(self._descriptor)
        else:
            self._files.delete(self.path)


class SampleFiles:
    """Makes such files in a temporary folder of its own. Raises OSError where there can be none.

    nameless: None means wherever the system can do it.
    """

    def __init__(self, nameless: bool | None = None) -> None:
        self._owned = TempFolder("media")
        self._nameless = _can_be_nameless() if nameless is None else nameless
        self._names = itertools.count()
        self._open: set[SampleFile] = set()
        self._undeleted: set[Path] = set()
        self._retry: asyncio.TimerHandle | None = None

    @property
    def folder(self) -> Path:
        return self._owned.path

    def new(self) -> SampleFile:
        """An empty file. Raises OSError for a disk or a process that can have no more."""
        path = self.folder / f"{next(self._names)}.f32"
        file = self._without_name(path) if self._nameless else SampleFile(self, path)
        self._open.add(file)
        return file

    def _without_name(self, path: Path) -> SampleFile:
        descriptor = _descriptors.moved(_nameless(path))
        return SampleFile(self, Path("/", "proc", str(os.getpid()), "fd", str(descriptor)), descriptor)

    def forget(self, file: SampleFile) -> bool:
        """The file is being closed. False: it was already."""
        known = file in self._open
        self._open.discard(file)
        return known

    def delete(self, path: Path) -> None:
        """Delete a file with a name, or try again every second until nobody maps it."""
        if not _deleted(path):
            self._undeleted.add(path)
            self._schedule()

    def close(self) -> None:
        """Close all files and delete the folder."""
        for file in list(self._open):
            file.close()
        if self._retry is not None:
            self._retry.cancel()
        self._undeleted.clear()
        self._owned.close()

    def _schedule(self) -> None:
        if self._retry is None:
            with contextlib.suppress(RuntimeError):  # no event loop: the next deletion or `close` tries again
                self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._delete_again)

    def _delete_again(self) -> None:
        self._retry = None
        self._undeleted = {path for path in self._undeleted if not _deleted(path)}
        if self._undeleted:
            self._schedule()


def _deleted(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _nameless(path: Path) -> int:
    """Open a new file in the folder of `path`, which is its name for a moment where the file system wants one."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a file system without them, or a full one, which the next call tells
            return os.open(path.parent, os.O_RDWR | os.O_TMPFILE | os.O_EXCL, 0o600)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    path.unlink()
    return descriptor


def _can_be_nameless() -> bool:
    """Whether children can open our descriptors: not where the system forbids to look into this process, as it does for
    one that got its rights from its program file; there its entries in /proc belong to root."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return Path("/proc/self/fd").stat().st_uid == os.geteuid()
    return False


class _Descriptors:
    """Gives descriptors numbers in turn from a range of their own. A worker may open a path a moment after its job was
    cancelled and the file closed; with the lowest free number, as the system gives it, that could be another job's
    audio."""

    def __init__(self) -> None:
        self._next = 0

    def moved(self, descriptor: int) -> int:
        """The same open file under its new number; the old one is closed."""
        number = descriptor
        if sys.platform == "linux":
            import fcntl
            import resource

            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            highest = _HIGHEST if limit == resource.RLIM_INFINITY else min(limit, _HIGHEST)
            lowest = min(_LOWEST, highest // 2)
            if not lowest <= self._next < highest:
                self._next = lowest
            try:
                number = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, self._next)
            finally:
                os.close(descriptor)
            self._next = number + 1
        return number


_descriptors = _Descriptors()
