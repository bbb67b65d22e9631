"""Guards the page's files: space for an upload, and the page's own files and no others.

Gradio takes any number of uploads, and takes a path or an address in a request for a file to read or to fetch.
"""

from __future__ import annotations

import errno
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.ui.temp_files import PageFull, TempFiles

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class UploadRoom:
    """ASGI app around the page: an upload begins only while there is room for all of it, else it is answered with
    507."""

    def __init__(self, app: ASGIApp, path: str, temp_files: TempFiles, body_bytes: int) -> None:
        """path: of the page; body_bytes: largest body, which an upload without a length may have."""
        self._page, self._temp_files, self._body_bytes = app, temp_files, body_bytes
        self._routes = (f"{path}/gradio_api/upload", f"{path}/upload")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].rstrip("/") not in self._routes:
            await self._page(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        size = min(int(declared), self._body_bytes) if declared.isdecimal() else self._body_bytes
        visitor = headers.get("api-key") or (scope.get("client") or ("unknown", 0))[0]
        try:
            async with self._temp_files.room_for(size, visitor):
                await self._upload(scope, receive, send)
        except PageFull as full:
            full.headers["connection"] = "close"  # the upload is not read
            await full.response()(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio take it. Raises PageFull where others have filled the disk meanwhile, which Gradio calls an
        internal error."""
        held: list[Message] = []

        async def unless_error(message: Message) -> None:
            if held or (message["type"] == "http.response.start" and message["status"] >= 500):
                held.append(message)
            else:
                await send(message)

        try:
            await self._page(scope, receive, unless_error)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise PageFull("The disk of the web page's temporary files is full; free some space there.") from error
        for message in held:
            await send(message)


def keep_to_own_files(blocks: Any, temp_files: TempFiles) -> None:
    """Let a page of Gradio use only its own temporary files.

    Gradio refuses paths that are no uploads once its page has been launched, which mounting does not set. An address
    that begins with http it would fetch, and any file it would hash and copy on the event loop.
    """
    blocks.has_launched = True
    for block in blocks.blocks.values():
        _keep_block(block, temp_files)


def _keep_block(block: Any, temp_files: TempFiles) -> None:
    async def own_file(path: Any) -> str | None:
        return None if path is None else str(temp_files.own_file(str(path)))

    block.async_move_resource_to_block_cache = own_file
