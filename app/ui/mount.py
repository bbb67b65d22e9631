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
    "Add it with <code>make serve EXTRAS=ui</code> (Windows: <code>setup.ps1 -Extras ui</code>) "
    "and open this address again."
)


_OPENING = (
    "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=1><title>Speech gateway</title>"
    "<body style='font-family: system-ui, sans-serif; text-align: center; padding-top: 20vh; color-scheme: light dark'>"
    "<p>Opening the page. The first visit after a start takes some seconds."
)
_PATIENCE = 1.0  # seconds that a visitor sees nothing


class LazyPage:
    """ASGI app that builds the page when it is first asked for and keeps it until `close`.

    patience: seconds that a browser waits for the page before it is told that the page is being opened.
    """

    def __init__(self, build: Callable[[], FastAPI], patience: float = _PATIENCE) -> None:
        self._build, self._patience = build, patience
        self._opening: asyncio.Task[ASGIApp] | None = None
        self._running = contextlib.AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if importlib.util.find_spec("gradio") is None:
            await HTMLResponse(_MISSING, status_code=501)(scope, receive, send)
            return
        opening = self._opened()
        if scope["type"] == "http" and scope["path"].rstrip("/") == PATH:
            await asyncio.wait([opening], timeout=self._patience)
            if not opening.done():
                await HTMLResponse(_OPENING, headers={"cache-control": "no-store"})(scope, receive, send)
                return
        page = await asyncio.shield(opening)
        await page(scope, receive, send)

    def _opened(self) -> asyncio.Task[ASGIApp]:
        """Return the page or the task that builds it; a failed build is tried again by the next visitor."""
        task = self._opening
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._opening = asyncio.create_task(self._open())
        return task

    async def _open(self) -> ASGIApp:
        page = await asyncio.to_thread(self._build)
        await self._running.enter_async_context(page.router.lifespan_context(page))
        return page

    async def close(self) -> None:
        """Stop what the page runs in the background."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
        await self._running.aclose()
        self._opening = None
