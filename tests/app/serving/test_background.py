"""Background tasks: their names, their errors, their end."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from app.serving.background import BackgroundTasks


async def _raise() -> None:
    raise ValueError("broken")


async def test_tasks_are_known_until_they_have_ended() -> None:
    tasks, go = BackgroundTasks(), asyncio.Event()
    tasks.start(go.wait(), "b")
    tasks.start(go.wait(), "a")
    assert tasks.names == ["a", "b"]
    go.set()
    await tasks.ended()
    assert tasks.names == []


async def test_an_error_is_logged_with_the_name_of_its_task() -> None:
    tasks = BackgroundTasks()
    with structlog.testing.capture_logs() as logs:
        tasks.start(_raise(), "pull of x")
        await tasks.ended()
    assert [(line["event"], line["task"]) for line in logs] == [("pool.background_failed", "pull of x")]


async def test_some_are_spared_when_the_rest_is_cancelled() -> None:
    tasks, go = BackgroundTasks(), asyncio.Event()
    ended, watch = tasks.start(go.wait(), "end of x"), tasks.start(go.wait(), "watch")
    tasks.cancel(but="end of ")
    go.set()
    await tasks.ended()
    assert (ended.result(), watch.cancelled()) == (True, True)
    with pytest.raises(asyncio.CancelledError):
        watch.result()
