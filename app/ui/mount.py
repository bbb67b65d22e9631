"""The web page at /ui, built on its first visit.

Gradio takes seconds and a hundred megabytes to import, so nothing of it is touched until somebody opens the page. Owns
that moment and nothing else: what the page shows lies in page.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from fastapi import FastAPI

PATH = "/ui"
_MISSING = (
    "<!doctype html><meta charset=utf-8><title>Speech gateway</title><p>The web page is not installed. "
    "Add it with <code>make serve EXTRAS=ui</code> (Windows: <code>setup.ps1 -Extras ui</code>) and open this address again."
)


class LazyPage:
    """ASGI app that builds the page when it is first asked for and keeps it until `close`."""

    def __init__(self, build: Callable[[], FastAPI]) -> None:
        self._build = build
        self._lock = asyncio.Lock()
        self._page: ASGIApp | None = None
        self._running = contextlib.AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if importlib.util.find_spec("gradio") is None:
            await HTMLResponse(_MISSING, status_code=501)(scope, receive, send)
            return
        page = self._page or await self._open()
        await page(scope, receive, send)

    async def _open(self) -> ASGIApp:
        async with self._lock:
            if self._page is None:
                page = await asyncio.to_thread(self._build)
                await self._running.enter_async_context(page.router.lifespan_context(page))
                self._page = page
        return self._page

    async def close(self) -> None:
        """Stop what the page runs in the background."""
        await self._running.aclose()
        self._page = None
