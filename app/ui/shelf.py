"""The folder of the page's files: what visitors upload and record, and what they may save. Nothing in it grows old.

Owns the folder's life. Gradio would leave such files on the disk for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

KEPT_SECONDS = 3600.0  # a page that is left open longer has to upload again
_LOOK_SECONDS = 300.0
_VARIABLE = "GRADIO_TEMP_DIR"  # where Gradio looks, each time it is asked for a folder


class Shelf:
    """A temporary folder that Gradio uses from now on."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="speech-gateway-page-"))
        os.environ[_VARIABLE] = str(self.folder)

    @contextlib.asynccontextmanager
    async def tended(self) -> AsyncIterator[None]:
        """Old files go while this lasts, the folder when it ends."""
        task = asyncio.create_task(self._tend())
        try:
            yield
        finally:
            task.cancel()
            os.environ.pop(_VARIABLE, None)
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self.sweep)

    def sweep(self, seconds: float = KEPT_SECONDS) -> None:
        """Delete what is older. What Windows still holds open goes next time."""
        limit = time.time() - seconds
        for path in [path for path in self.folder.rglob("*") if path.is_file()]:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < limit:
                    path.unlink()
