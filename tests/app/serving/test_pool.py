"""The pool with real worker processes: jobs, cancels, crashes, hangs, drain."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from app.errors import ApiError, Draining, InvalidRequest, ModelUnavailable, Overloaded, ServiceUnavailable, WorkerLost
from app.metrics import Metrics
from app.serving.pool import WorkerPool
from app.serving.worker import ProcessWorker
from backends import frames, messages
from backends.interface import (
    AudioChunk,
    ChatRequest,
    Done,
    InvalidInput,
    Progress,
    Request,
    Segment,
    TextDelta,
    TranscriptionRequest,
)
from tests.support.pools import HANGING, QUICK, ask, audio, chat, fake, pool_of, speech, text_of
from tests.support.waiting import LIMIT, until


def workers(pool: WorkerPool) -> list[int]:
    return [d.supervisor.worker.pid for d in pool.dispatchers.values() if d.supervisor.worker]


def count(metrics: Metrics, name: str) -> float:
    """The sum of one metric over its labels."""
    lines = metrics.render().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))


def at_once(asked: Coroutine[Any, Any, Any]) -> None:
    """Run a request up to its first wait, where it must be over: what is refused fast waits for nothing."""
    try:
        asked.send(None)
    finally:
        asked.close()
    pytest.fail("it waited for something")


async def test_the_three_tasks_answer_deterministically() -> None:
    listen, say, answer = fake("listen"), fake("say", task="speech"), fake("answer", task="chat")
    async with pool_of(listen, say, answer) as pool:
        assert await text_of(pool, listen, audio(1.5)) == "one two three"
        events = await ask(pool, say, speech("hello"))
        chunks = [e for e in events if isinstance(e, AudioChunk)]
        assert sum(len(c.samples) for c in chunks) == 5 * 1440
        assert {c.rate for c in chunks} == {24_000}
        assert await text_of(pool, answer, chat("good day")) == "You said: good day"
        assert {row.state for row in pool.status().values()} == {"ready"}
        assert all(row.footprint_bytes > 10_000_000 for row in pool.status().values())


async def test_events_come_in_order_and_end_with_done() -> None:
    d = fake()
    async with pool_of(d) as pool:
        events = await ask(pool, d, TranscriptionRequest(np.zeros(16_000 * 25, np.float32), words=True))
        assert [type(e) for e in events] == [TextDelta, Segment, Progress] * 3 + [Done]
        segments = [e for e in events if isinstance(e, Segment)]
        assert [w.start for w in segments[2].words] == [20.0, 20.5, 21.0, 21.5, 22.0, 22.5, 23.0, 23.5, 24.0, 24.5]


async def test_a_run_tells_capabilities_and_queue_time() -> None:
    d = fake(load_seconds=0.2)
    async with pool_of(d) as pool, pool.admit(d, owner="me", request_id="r") as reservation:
        await reservation.run(audio(1))
        assert reservation.capabilities is not None
        assert (reservation.capabilities.engine, reservation.capabilities.device) == ("fake", "cpu")
        assert reservation.queue_seconds >= 0.2
        assert (reservation.deployment, reservation.fallback_from) == (d, None)


async def test_a_detail_that_changes_while_it_works_is_shown() -> None:
    d = fake(growth=1000)
    async with pool_of(d) as pool:
        await text_of(pool, d, audio(1))
        before = {"threads", "omp_num_threads"}
        await until(lambda: set(pool.status()[d.name].detail) == before | {"grown"})


async def test_mapped_samples_do_not_cross_the_pipe(tmp_path: Path) -> None:
    np.zeros(16_000 * 600, np.float32).tofile(tmp_path / "samples")
    samples = np.memmap(tmp_path / "samples", np.float32, mode="r")
    d = fake(max_batch=1)
    async with pool_of(d) as pool:
        assert len((await text_of(pool, d, TranscriptionRequest(samples[: 16_000 * 300]))).split()) == 600


async def test_jobs_share_the_steps_of_one_worker() -> None:
    d = fake(delay=0.05, steps=6, max_batch=4)
    async with pool_of(d) as pool:
        await text_of(pool, d, audio(1))
        jobs = [asyncio.create_task(text_of(pool, d, audio(1)), name="test") for _ in range(4)]
        await until(lambda: pool.status()["fake"].jobs_active == 4)
        assert not any(job.done() for job in jobs)  # each takes six steps: had they been in turn, three would be over
        assert await asyncio.gather(*jobs) == ["one two"] * 4
        assert len(workers(pool)) == 1


async def test_two_requests_for_one_cold_model_load_it_once() -> None:
    d, metrics = fake(load_seconds=0.3), Metrics()
    async with pool_of(d, metrics=metrics) as pool:
        before = {c.pid for c in psutil.Process().children()}
        jobs = [asyncio.create_task(text_of(pool, d, audio(1)), name="test") for _ in range(5)]
        await until(lambda: len({c.pid for c in psutil.Process().children()} - before) > 0)
        assert pool.status()["fake"].state == "loading"
        assert await asyncio.gather(*jobs) == ["one two"] * 5
        assert len({c.pid for c in psutil.Process().children()} - before) == 1


async def test_a_client_that_leaves_frees_its_slot_at_the_next_step() -> None:
    d, metrics = fake(delay=0.05, steps=10_000, max_batch=1), Metrics()
    async with pool_of(d, metrics=metrics) as pool:
        async with pool.admit(d, owner="me", request_id="r") as reservation:
            async for _ in await reservation.run(audio(1)):
                break
            assert pool.status()["fake"].jobs_active == 1
        await until(lambda: pool.status()["fake"].jobs_active == 0)
        worker = pool.dispatchers["fake"].supervisor.worker
        assert worker is not None
        before = worker.heartbeat
        await until(lambda: worker.heartbeat is not before)
        after = worker.heartbeat
        await until(lambda: worker.heartbeat is not after)
        assert (worker.heartbeat.active, worker.heartbeat.steps) == (
            0,
            after.steps,
        )  # it does no more work for that client


async def test_a_client_that_leaves_the_queue_never_reaches_the_worker() -> None:
    d = fake(delay=0.05, steps=10_000, max_batch=1)
    async with pool_of(d) as pool:
        running = asyncio.create_task(ask(pool, d, audio(1)), name="test running")
        await until(lambda: pool.status()["fake"].jobs_active == 1)
        waiting = asyncio.create_task(ask(pool, d, audio(1)), name="test waiting")
        await until(lambda: pool.status()["fake"].queue_depth == 1)
        waiting.cancel()
        running.cancel()
        await asyncio.gather(waiting, running, return_exceptions=True)
        assert pool.status()["fake"].queue_depth == 0
        await until(lambda: pool.status()["fake"].jobs_active == 0)
        assert pool.dispatchers["fake"].reserved_slots.held == 0


async def test_leaving_while_a_cold_model_loads_is_clean() -> None:
    d = fake(load_seconds=0.3)
    async with pool_of(d) as pool:
        job = asyncio.create_task(ask(pool, d, audio(1)), name="test")
        await until(lambda: pool.status()["fake"].state == "loading")
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        assert await text_of(pool, d, audio(1)) == "one two"


def begun(pool: WorkerPool) -> int:
    """Jobs that the worker has taken up."""
    return int(pool.snapshot()["deployments"]["fake"]["accepted"])


async def test_a_killed_worker_costs_its_jobs_a_503_and_the_next_request_works() -> None:
    d, metrics = fake(delay=0.05, steps=40), Metrics()
    async with pool_of(d, metrics=metrics) as pool:
        jobs = [asyncio.create_task(ask(pool, d, audio(1)), name="test") for _ in range(2)]
        await until(lambda: begun(pool) == 2)  # what its worker never took up is sent to the next one
        psutil.Process(workers(pool)[0]).kill()
        for outcome in await asyncio.gather(*jobs, return_exceptions=True):
            assert isinstance(outcome, WorkerLost)
            assert outcome.status == 503
            assert outcome.retry_after
        assert pool.status()["fake"].state == "failed"
        assert await text_of(pool, d, audio(1)) == "one two"
        assert pool.status()["fake"].state == "ready"
        assert count(metrics, "gateway_worker_restarts_total") == 1
        assert count(metrics, "gateway_jobs_active") == 0


async def test_jobs_that_wait_survive_the_crash_of_the_worker() -> None:
    d = fake(delay=0.05, steps=20, max_batch=1)
    async with pool_of(d) as pool:
        first = asyncio.create_task(ask(pool, d, audio(1)), name="test first")
        await until(lambda: pool.status()["fake"].jobs_active == 1)
        second = asyncio.create_task(text_of(pool, d, audio(1)), name="test second")
        await until(lambda: pool.status()["fake"].queue_depth == 1 and begun(pool) == 1)
        psutil.Process(workers(pool)[0]).kill()
        with pytest.raises(WorkerLost):
            await first
        assert await second == "one two"


async def test_a_model_that_always_crashes_is_refused_after_a_few_tries() -> None:
    d = fake(crash_at="step", max_batch=1)
    async with pool_of(d, policy=QUICK) as pool:
        for _ in range(3):
            with pytest.raises(ApiError) as refused:
                await ask(pool, d, audio(1))
        assert refused.value.status == 503
        with pytest.raises(ModelUnavailable, match="cannot run now"):
            await asyncio.gather(*(ask(pool, d, audio(1)) for _ in range(3)))


async def test_a_hung_worker_turns_red_and_is_replaced(tmp_path: Path) -> None:
    d = fake(hang_at="step", fault_step=2, steps=3, fault_times=1, counter_file=str(tmp_path / "count"))
    async with pool_of(d, policy=HANGING) as pool:
        red = asyncio.Event()

        async def watch() -> None:
            await until(lambda: pool.status()["fake"].state == "failed")
            assert "no progress" in (pool.status()["fake"].error or "")
            red.set()

        watcher = asyncio.create_task(watch(), name="test watcher")
        with pytest.raises(WorkerLost):
            await ask(pool, d, audio(1))
        await watcher
        assert red.is_set()
        await until(lambda: pool.status()["fake"].state == "ready")  # rebuilt without being asked
        assert await text_of(pool, d, audio(1)) == "one two"


@pytest.mark.skipif(os.name == "nt", reason="stops a process with a POSIX signal")
async def test_a_worker_that_says_nothing_at_all_counts_as_hung() -> None:
    d = fake()
    async with pool_of(d, policy=HANGING) as pool:
        await text_of(pool, d, audio(1))
        frozen = workers(pool)[0]
        os.kill(frozen, signal.SIGSTOP)
        await until(lambda: workers(pool) not in ([], [frozen]))
        assert await text_of(pool, d, audio(1)) == "one two"


async def test_a_failing_job_does_not_touch_the_others() -> None:
    d = fake(task="chat", delay=0.02)
    async with pool_of(d) as pool:
        good = [asyncio.create_task(text_of(pool, d, chat("a b c d")), name="test") for _ in range(2)]
        with pytest.raises(InvalidRequest, match="does chat"):
            await ask(pool, d, audio(1))
        assert await asyncio.gather(*good) == ["You said: a b c d"] * 2


async def test_a_request_that_cannot_travel_is_refused_and_those_behind_it_are_served() -> None:
    d = fake(task="chat", max_batch=1, delay=0.05)
    async with pool_of(d) as pool:
        assert await text_of(pool, d, chat("a")) == "You said: a"
        queued = [ask(pool, d, chat("a b", options=options)) for options in ({}, {"top_k": 2**70}, {})]
        first, refused, last = await asyncio.gather(*queued, return_exceptions=True)
        assert isinstance(refused, InvalidRequest)
        assert "64 bits" in refused.message
        assert isinstance(first, list)
        assert isinstance(last, list)
        worker = pool.dispatchers[d.name].supervisor.worker
        assert isinstance(worker, ProcessWorker)
        assert not worker._jobs


async def test_a_defect_while_handing_a_request_over_costs_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    d = fake(task="chat", max_batch=1, delay=0.05)
    encode = frames.encode

    def defective(message: messages.Message) -> bytes:
        if (
            isinstance(message, messages.StartJob)
            and isinstance(message.request, ChatRequest)
            and message.request.seed == 13
        ):
            raise RuntimeError("a defect of ours")
        return encode(message)

    async with pool_of(d) as pool:
        assert await text_of(pool, d, chat("a")) == "You said: a"
        monkeypatch.setattr(frames, "encode", defective)
        queued = [ask(pool, d, chat("a b", seed=seed)) for seed in (1, 13, 2)]
        first, failed, last = await asyncio.gather(*queued, return_exceptions=True)
        assert isinstance(failed, ApiError)
        assert (failed.status, "defect" in failed.message) == (500, False)
        assert isinstance(first, list)
        assert isinstance(last, list)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"fail_start": "invalid_input"}, 400),
        ({"fail_step": "invalid_input", "fault_step": 2, "steps": 3}, 400),
        ({"fail_step": "model_unavailable"}, 503),
        ({"fail_step": "error"}, 500),
        ({"fail_start": "error"}, 500),
    ],
)
async def test_errors_of_a_job_have_their_status_and_leave_the_worker_alive(
    options: dict[str, object], status: int
) -> None:
    d = fake(fault_times=1, **options)
    async with pool_of(d) as pool:
        with pytest.raises(ApiError) as failed:
            await ask(pool, d, audio(1))
        assert failed.value.status == status
        assert (status == 500) == ("nobody planned" not in failed.value.message and "told" not in failed.value.message)
        alive = workers(pool)
        assert await text_of(pool, d, audio(1)) == "one two"
        assert workers(pool) == alive


def no_tenor(request: Request, options: Mapping[str, object]) -> None:
    """The check of a backend whose requests cannot ask for that."""
    if "tenor" in request.options:
        raise InvalidInput(f"there is no tenor beside {sorted(options)[0]}", param="options.tenor")


async def test_wrong_settings_are_refused_at_once_and_load_nothing() -> None:
    cold, busy = (fake(name, task="chat", delay=0.05, steps=40, max_batch=1) for name in ("cold", "busy"))
    cold, busy = (d.model_copy(update={"info": replace(d.info, check=f"{__name__}:no_tenor")}) for d in (cold, busy))
    weight_problems = chat("sing", options={"tenor": True})
    async with pool_of(cold, busy) as pool:
        with pytest.raises(InvalidRequest, match="no tenor") as refused:
            await ask(pool, cold, weight_problems)
        assert refused.value.param == "options.tenor"
        assert pool.status()["cold"].state == "unloaded"
        running = asyncio.create_task(text_of(pool, busy, chat("good day")), name="test")
        await until(lambda: pool.status()["busy"].jobs_active == 1)
        with pytest.raises(InvalidRequest, match="no tenor"):
            await ask(pool, busy, weight_problems)
        assert not running.done()
        assert await running == "You said: good day"


async def test_a_load_that_fails_says_why_and_is_not_repeated_for_every_request() -> None:
    d = fake(fail_load="model_unavailable")
    async with pool_of(d, policy=replace(QUICK, first_back_off=LIMIT, longest_back_off=LIMIT)) as pool:
        with pytest.raises(ModelUnavailable, match="told to fail"):
            await ask(pool, d, audio(1))
        with pytest.raises(ModelUnavailable, match="told to fail") as refused:
            at_once(ask(pool, d, audio(1)))  # no process was started
        assert refused.value.retry_after
        assert pool.status()["fake"].state == "failed"


async def test_a_load_that_never_ends_is_given_up() -> None:
    d = fake(hang_at="load")
    async with pool_of(d, policy=type(QUICK)(load=0.6, first_back_off=0.1)) as pool:
        with pytest.raises(ServiceUnavailable, match="took more than"):
            await ask(pool, d, audio(1))


async def test_noise_of_a_library_cannot_corrupt_the_stream() -> None:
    d = fake(noise=True, task="chat")
    async with pool_of(d) as pool:
        assert await text_of(pool, d, chat("a b c")) == "You said: a b c"


async def test_keep_alive_zero_unloads_at_once_and_the_memory_is_gone() -> None:
    d = fake(keep_alive=0)
    async with pool_of(d) as pool:
        assert await text_of(pool, d, audio(1)) == "one two"
        pid = workers(pool)
        await until(lambda: pool.status()["fake"].state == "unloaded")
        assert not pid or not psutil.pid_exists(pid[0])
        assert pool.status()["fake"].footprint_bytes == 0
        assert pool.devices()[0].memory_used_bytes == 0
        assert await text_of(pool, d, audio(1)) == "one two"


async def test_keep_alive_counts_from_the_last_job() -> None:
    d = fake(keep_alive=0.5)
    async with pool_of(d) as pool:
        for _ in range(4):
            await text_of(pool, d, audio(1))
            await asyncio.sleep(0.2)
        assert pool.status()["fake"].state == "ready"
        await until(lambda: pool.status()["fake"].state == "unloaded")


async def test_preload_and_control() -> None:
    d = fake(preload=True)
    async with pool_of(d) as pool:
        await until(lambda: pool.status()["fake"].state == "ready")
        assert await pool.unload("fake")
        assert not await pool.unload("fake")
        assert pool.status()["fake"].state == "unloaded"
        await pool.load("fake")
        assert pool.status()["fake"].state == "ready"


async def test_a_busy_model_is_not_unloaded_by_control() -> None:
    d = fake(delay=0.05, steps=20)
    async with pool_of(d) as pool:
        job = asyncio.create_task(text_of(pool, d, audio(1)), name="test")
        await until(lambda: pool.status()["fake"].jobs_active == 1)
        assert not await pool.unload("fake")
        assert await job == "one two"


async def test_the_canary_passes_fails_and_times_out() -> None:
    good = fake("good")
    slow = fake("slow", hang_at="step", task="chat")
    broken = fake("broken", fail_step="model_unavailable", task="speech")
    async with pool_of(good, slow, broken, policy=type(QUICK)(hang=LIMIT)) as pool:
        await pool.canary(good, LIMIT)
        with pytest.raises(ModelUnavailable):
            await pool.canary(broken, LIMIT)
        await pool.load("slow")
        with pytest.raises(ServiceUnavailable, match="no answer within"):
            await pool.canary(slow, 0.3)


async def test_drain_lets_running_work_end_and_refuses_new_work() -> None:
    d = fake(delay=0.05, steps=10)
    async with pool_of(d) as pool:
        job = asyncio.create_task(text_of(pool, d, audio(1)), name="test")
        await until(lambda: pool.status()["fake"].jobs_active == 1)
        draining = asyncio.create_task(pool.drain(LIMIT), name="test drain")
        await until(lambda: pool.draining)
        with pytest.raises(Draining):
            await ask(pool, d, audio(1))
        assert await job == "one two"
        assert await draining


async def test_drain_cuts_what_takes_too_long_and_says_so() -> None:
    d = fake(delay=0.05, steps=10_000, max_batch=1)
    async with pool_of(d) as pool:
        jobs = [asyncio.create_task(ask(pool, d, audio(1)), name="test") for _ in range(3)]
        await until(lambda: pool.status()["fake"].jobs_active == 1 and pool.status()["fake"].queue_depth == 2)
        assert not await pool.drain(0.2)
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        assert all(isinstance(outcome, Draining) for outcome in outcomes)


async def test_drain_during_a_load_leaves_nothing() -> None:
    d = fake(load_seconds=30)
    async with pool_of(d) as pool:
        job = asyncio.create_task(ask(pool, d, audio(1)), name="test")
        await until(lambda: pool.status()["fake"].state == "loading")
        await asyncio.sleep(0.1)
        assert not await pool.drain(0.1)
        assert isinstance((await asyncio.gather(job, return_exceptions=True))[0], Draining)


async def test_a_full_queue_is_refused_fast_and_the_rest_is_served() -> None:
    d, metrics = fake(delay=0.02, steps=5, max_batch=1), Metrics()
    async with pool_of(d, limits={"queue_jobs": 3}, metrics=metrics) as pool:
        await text_of(pool, d, audio(1))
        jobs = [asyncio.create_task(text_of(pool, d, audio(1)), name="test") for _ in range(4)]
        await asyncio.sleep(0)
        for _ in range(20):
            with pytest.raises(Overloaded) as refused:
                at_once(ask(pool, d, audio(1)))
        assert refused.value.retry_after
        assert refused.value.retry_after >= 1
        assert await asyncio.gather(*jobs) == ["one two"] * 4
        assert count(metrics, "gateway_refused_total") == 20
        assert count(metrics, "gateway_queue_depth") == 0


async def test_the_price_is_learnt_and_refuses_what_would_wait_too_long() -> None:
    d = fake(delay=0.1, steps=5, max_batch=1)
    async with pool_of(d, limits={"queue_seconds": 2}) as pool:
        await text_of(pool, d, audio(1))  # half a second of work per second of audio
        assert pool.status()["fake"].real_time_factor == pytest.approx(0.5, rel=0.8)
        long = asyncio.create_task(ask(pool, d, audio(60)), name="test long")
        await until(lambda: pool.status()["fake"].jobs_active == 1)
        with pytest.raises(Overloaded) as refused:
            await ask(pool, d, audio(1), owner="other")
        assert refused.value.retry_after
        assert refused.value.retry_after > 2
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)


async def test_jobs_that_waited_too_long_are_dropped() -> None:
    d = fake(delay=0.05, steps=10_000, max_batch=1)
    async with pool_of(d, limits={"queue_seconds": 0.3}) as pool:
        long = asyncio.create_task(ask(pool, d, audio(1)), name="test long")
        await until(lambda: pool.status()["fake"].jobs_active == 1)
        with pytest.raises(Overloaded, match="too long"):
            await ask(pool, d, audio(1))
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)


async def test_owners_take_turns() -> None:
    d = fake(delay=0.02, steps=2, max_batch=1)
    async with pool_of(d) as pool:
        await text_of(pool, d, audio(1))
        order: list[str] = []

        async def one(owner: str) -> None:
            await ask(pool, d, audio(1), owner)
            order.append(owner)

        greedy = [asyncio.create_task(one("greedy"), name="test") for _ in range(8)]
        await until(lambda: pool.status()["fake"].queue_depth >= 6)
        modest = [asyncio.create_task(one("modest"), name="test") for _ in range(2)]
        await asyncio.gather(*greedy, *modest)
        assert max(i for i, owner in enumerate(order) if owner == "modest") <= 6
