"""Work in the background, known by name and ended in order. An error in it is logged, not lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

_log = structlog.get_logger("pool")


class BackgroundTasks:
    """Tasks that run until they end or are cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def names(self) -> list[str]:
        """Of the tasks that run, sorted."""
        return sorted(task.get_name() for task in self._tasks)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work`; keeps the task alive until it has ended."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("pool.background_failed", task=task.get_name(), exc_info=error)

    def cancel(self, *, but: str) -> None:
        """Cancel all tasks, without waiting for their end, whose names do not start with `but`."""
        for task in self._tasks:
            if not task.get_name().startswith(but):
                task.cancel()

    async def ended(self) -> None:
        """Wait until the tasks of this moment have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
