"""Temporary folders of this program, which do not outlive it for long.

Owns their names, the lock by which a living owner is known, and the sweep of what dead owners left. A folder is
`<temp>/speech-gateway-<kind>-<random>` with two entries: `owner.lock`, locked as long as its process lives, and
`files`, which belongs to the caller. The system drops a lock with its process, however that ends, so neither a reused
process id nor another container that shares the temp folder can be taken for the owner. Knows nothing of what is kept
in the files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

PREFIX = "speech-gateway-"
KINDS = ("media", "page", "mark")  # the words that may follow; only such folders are swept
_NAMES = tuple(f"{PREFIX}{kind}-" for kind in KINDS)
_LOCK, _FILES = "owner.lock", "files"
# A folder without a lock is being made right now, or its owner died while making it or comes from a version without
# locks.
_UNLOCKED_SECONDS = 24 * 3600.0
_REMOVE_SECONDS = 2.0  # how long `close` waits for what Windows still holds open
_RETRY_SECONDS = 0.1


class TempFolder:
    """A folder of this process. kind: one of KINDS; path: where the caller's files go.

    Raises OSError where the system's temporary folder cannot be written or a lock cannot be had.
    """

    def __init__(self, kind: str) -> None:
        self._outer = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-"))
        self._lock: int | None = _locked(self._outer / _LOCK, create=True)
        self.path = self._outer / _FILES
        self.path.mkdir()

    def close(self, seconds: float = _REMOVE_SECONDS) -> None:
        """Delete everything. Files that are open elsewhere are tried for `seconds`; what remains is for the next
        sweep."""
        ends = time.monotonic() + seconds
        while not _removed(self.path) and time.monotonic() < ends:
            time.sleep(_RETRY_SECONDS)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        if not self.path.exists():  # else the lock file stays: with it the next sweep need not wait for a day
            shutil.rmtree(self._outer, ignore_errors=True)

    def __enter__(self) -> TempFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sweep() -> list[Path]:
    """Delete the folders of ended processes and return them. Leaves alone what is not ours or still in use."""
    try:
        folders = [entry for entry in Path(tempfile.gettempdir()).iterdir() if entry.name.startswith(_NAMES)]
    except OSError:
        return []
    return [folder for folder in folders if _is_ours(folder) and _swept(folder)]


def _is_ours(folder: Path) -> bool:
    """Whether it is a real folder of this user: in a shared folder anybody may make a link with such a name."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    mine = True if sys.platform == "win32" else status.st_uid == os.geteuid()
    return mine and stat.S_ISDIR(status.st_mode)


def _swept(folder: Path) -> bool:
    try:
        lock = _locked(folder / _LOCK, create=False)
    except FileNotFoundError:
        return _is_old(folder) and _removed(folder)
    except OSError:  # its owner lives, or it cannot be asked
        return False
    _removed(folder / _FILES)
    os.close(lock)  # before the file itself goes, which Windows keeps as long as it is open
    return not (folder / _FILES).exists() and _removed(folder)


def _is_old(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime < time.time() - _UNLOCKED_SECONDS
    return False


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _locked(path: Path, *, create: bool) -> int:
    """Open a file, locked for this process. Raises OSError if it is locked, or missing and not to be created."""
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
    try:
        _lock(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
