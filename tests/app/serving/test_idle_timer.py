"""The idle timer, without a model."""

from __future__ import annotations

import asyncio

import pytest

from app.serving.idle_timer import IdleTimer
from tests.support.waiting import until


class Model:
    """What a timer asks and tells. expired: how often it was told."""

    def __init__(self, seconds: float, *, idle: bool = True) -> None:
        self.idle, self.expired = idle, 0
        self.timer = IdleTimer(seconds, lambda: self.idle, self._expire)

    def _expire(self) -> None:
        self.expired += 1


async def _later_timers_have_run() -> None:
    """A timer set now for the same time runs after those that were set before."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, over.set)
    await over.wait()


async def test_an_idle_model_expires_once() -> None:
    model = Model(0.0)
    model.timer.restart()
    await until(lambda: model.expired == 1)
    await _later_timers_have_run()
    assert model.expired == 1


@pytest.mark.parametrize(("seconds", "idle"), [(-1.0, True), (0.0, False)])
async def test_a_pinned_or_busy_model_does_not_expire(seconds: float, idle: bool) -> None:
    model = Model(seconds, idle=idle)
    model.timer.restart()
    await _later_timers_have_run()
    assert model.expired == 0


async def test_work_that_came_meanwhile_counts() -> None:
    model = Model(0.0)
    model.timer.restart()
    model.idle = False
    await _later_timers_have_run()
    assert model.expired == 0


async def test_a_stopped_or_restarted_timer_does_not_expire_twice() -> None:
    model, stopped = Model(0.0), Model(0.0)
    for _ in range(3):
        model.timer.restart()
        stopped.timer.restart()
    stopped.timer.stop()
    await _later_timers_have_run()
    assert (model.expired, stopped.expired) == (1, 0)
