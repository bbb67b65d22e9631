"""The folder of the page's files: what visitors upload and record, and what they may save. Old files are deleted.

Owns the folder's life and its size. Gradio would leave such files on the disk for good, and take any number of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

from app.errors import ApiError
from app.temp_folders import TempFolder

KEPT_SECONDS = 3600.0  # a page that is left open longer has to upload again
MOST_BYTES = 1 << 30  # of all files
_LOOK_SECONDS = 300.0
_VARIABLE = "GRADIO_TEMP_DIR"  # where Gradio looks, each time it is asked for a folder


class PageFull(ApiError):
    """The page's files fill their share of the disk; the rest is for the API."""

    status = 507
    code = "insufficient_storage"


class NotOwnFile(Exception):
    """A path that is no file of the page's folder; the same whether anything lies there or not."""

    def __init__(self) -> None:
        super().__init__("This file was not uploaded to this page, or has gone. Upload it again.")


class TempFiles:
    """A temporary folder that Gradio uses from now on.

    upload_bytes: largest upload; one visitor may always keep one of that size if the whole folder may.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, upload_bytes: int = 0) -> None:
        self._owned = TempFolder("page")
        self.folder = self._owned.path.resolve()
        self._most_bytes, self._upload_bytes = most_bytes, upload_bytes
        self._uploads: deque[tuple[float, str, int]] = deque()  # when, whose, bytes; oldest first
        self._coming = 0  # bytes of uploads that are under way
        os.environ[_VARIABLE] = str(self.folder)

    def own_file(self, path: str) -> Path:
        """Return the file at `path` with links resolved. Raises NotOwnFile unless it lies in the folder."""
        try:
            # Not resolve(), which would already ask the machine that a path names.
            plain = Path(os.path.abspath(path))  # noqa: PTH100
            path_inside = plain.resolve() if plain.is_relative_to(self.folder) else None
        except (OSError, ValueError, RuntimeError):
            raise NotOwnFile from None
        if path_inside is None or not path_inside.is_relative_to(self.folder) or not path_inside.is_file():
            raise NotOwnFile
        return path_inside

    @contextlib.asynccontextmanager
    async def room_for(self, size: int, visitor: str = "") -> AsyncIterator[None]:
        """Reserve `size` bytes while the context lasts. visitor: who brings them, "" for the server's own answers.

        Raises PageFull.
        """
        used, free = await asyncio.to_thread(self._measure)
        most = min(self._most_bytes, (free + used) // 2)  # half of what there is: the API needs the temporary disk, too
        if used + self._coming + size > most:
            raise PageFull(f"The web page's folder is full ({most >> 20} MB); its files go within the hour.")
        if visitor and self._brought(visitor) + size > max(most // 2, min(most, self._upload_bytes)):
            raise PageFull("Your uploads to the web page fill your half of its folder; they go within the hour.")
        self._coming += size
        self._uploads.append((time.time(), visitor, size))
        try:
            yield
        finally:
            self._coming -= size

    def _brought(self, visitor: str) -> int:
        """Bytes of a visitor's files that are not deleted yet."""
        while self._uploads and self._uploads[0][0] < time.time() - KEPT_SECONDS - _LOOK_SECONDS:
            self._uploads.popleft()
        return sum(size for _, whose, size in self._uploads if whose == visitor)

    def _measure(self) -> tuple[int, int]:
        """Bytes of the folder's files, and bytes free on its disk."""
        used = 0
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):  # it may go at any moment
                used += path.stat().st_size if path.is_file() else 0
        return used, shutil.disk_usage(self.folder).free

    @contextlib.asynccontextmanager
    async def tended(self) -> AsyncIterator[None]:
        """Delete old files while the context lasts, and the folder when it ends."""
        task = asyncio.create_task(self._tend())
        try:
            yield
        finally:
            task.cancel()
            os.environ.pop(_VARIABLE, None)
            await asyncio.to_thread(self._owned.close)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self.sweep)

    def sweep(self, seconds: float = KEPT_SECONDS) -> None:
        """Delete files that are too old. What Windows still holds open is deleted next time."""
        limit = time.time() - seconds
        for path in [path for path in self.folder.rglob("*") if path.is_file()]:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < limit:
                    path.unlink()
