"""A load without progress is ended, one with progress is not; a worker that died idle costs no request."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from app.config.loading import load_settings
from app.errors import ModelUnavailable, WorkerLost
from app.serving.policy import Policy
from app.serving.worker import ProcessWorker
from backends import messages
from tests.support.pools import QUICK, audio, fake, pool_of, text_of
from tests.support.waiting import until


async def test_a_load_without_progress_is_ended_and_the_error_names_the_limit() -> None:
    d = fake(load_seconds=600)
    policy = Policy(load_stall=1.0, watch=0.1, first_back_off=0.1)
    async with pool_of(d, policy=policy) as pool:
        with pytest.raises(ModelUnavailable, match=r"no progress for 1 s, .*limits\.load_timeout"):
            await text_of(pool, d, audio(1))
        assert "no progress" in (pool.status()["fake"].error or "")


async def test_progress_resets_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's messages of a step, or of a changed detail, are progress; its mere heartbeat is none."""
    told, take = list[messages.Report](), ProcessWorker._take

    def note(self: ProcessWorker, report: messages.Report) -> None:
        loading, before = not self._loaded.done(), self.progress_at
        if loading and not isinstance(report, messages.Loaded):
            for changed in (messages.Heartbeat(1, True, 0, 0, 0, 0), messages.DetailChanged({})):
                self.progress_at = 0.0
                take(self, changed)
                assert self.progress_at > 0.0
            self.progress_at = 0.0
            take(self, messages.Heartbeat(1, True, 0, 5, 5, 5))
            assert self.progress_at == 0.0
            self.progress_at = before
            told.append(report)
        take(self, report)

    monkeypatch.setattr(ProcessWorker, "_take", note)
    d = fake(load_seconds=0.5)
    async with pool_of(d) as pool:
        assert await text_of(pool, d, audio(1)) == "one two"
    assert told


def test_the_limit_is_a_setting() -> None:
    assert load_settings(limits={"load_timeout": 7}).limits.load_timeout == 7


async def test_a_worker_that_was_killed_while_idle_costs_nobody_a_request() -> None:
    d = fake()
    async with pool_of(d) as pool:
        await text_of(pool, d, audio(1))
        worker = pool.dispatchers["fake"].supervisor.worker
        assert worker is not None
        psutil.Process(worker.pid).kill()
        assert not worker.lost  # nobody has noticed yet
        assert await text_of(pool, d, audio(1)) == "one two"


async def test_a_request_that_kills_its_worker_at_the_start_is_sent_again_only_once() -> None:
    d = fake(crash_at="start")
    async with pool_of(d, policy=QUICK) as pool:
        with pytest.raises(WorkerLost):
            await text_of(pool, d, audio(1))
        assert pool.snapshot()["deployments"]["fake"]["failures"] == 2


async def test_a_worker_that_dies_at_work_costs_the_request() -> None:
    d = fake(delay=0.1, steps=1000)
    async with pool_of(d) as pool:
        job = asyncio.create_task(text_of(pool, d, audio(1)))
        dispatcher = pool.dispatchers["fake"]
        await until(lambda: dispatcher.snapshot()["accepted"] > 0)
        worker = dispatcher.supervisor.worker
        assert worker is not None
        psutil.Process(worker.pid).kill()
        with pytest.raises(WorkerLost, match="in the middle"):
            await job
