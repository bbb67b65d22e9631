"""The pool under memory pressure: eviction, waiting for room, running out at work, devices and fallbacks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from app.config.deployments import Deployment
from app.errors import Draining, ModelUnavailable, OutOfMemory
from app.serving.pool import WorkerPool
from app.serving.reservation import PoolReservation
from app.serving.worker import WorkerJob
from backends.registry import backend_info, check_options
from tests.support.pools import MIB, QUICK, ask, audio, chat, fake, machine, pool_of, text_of
from tests.support.waiting import LIMIT, until

GPU = ("cuda", "cpu")


def states(pool: WorkerPool) -> dict[str, str]:
    return {name: row.state for name, row in pool.status().items()}


async def test_the_model_that_idles_longest_goes_first_and_its_process_ends() -> None:
    a, b, c = (fake(name, device_preference=GPU, memory=400 * MIB) for name in "abc")
    async with pool_of(a, b, c, devices=machine({"cuda:0": 1000 * MIB}, gpu=True)) as pool:
        await text_of(pool, a, audio(1))
        await asyncio.sleep(0.05)
        await text_of(pool, b, audio(1))
        evicted = pool.dispatchers["a"].supervisor.worker
        assert evicted is not None
        await text_of(pool, c, audio(1))
        assert states(pool) == {"a": "unloaded", "b": "ready", "c": "ready"}
        assert not psutil.pid_exists(evicted.pid)
        assert pool.devices()[0].memory_used_bytes == 2 * QUICK.with_slack(
            400 * MIB
        )  # their size was known from the first
        await text_of(pool, a, audio(1))  # and comes back, at the cost of the next one
        assert states(pool) == {"a": "ready", "b": "unloaded", "c": "ready"}


async def test_cost_counts_too_a_model_that_loads_slowly_stays_longer() -> None:
    slow, quick, new = (fake(name, device_preference=GPU, memory=400 * MIB) for name in ("slow", "quick", "new"))
    async with pool_of(slow, quick, new, devices=machine({"cuda:0": 1000 * MIB}, gpu=True)) as pool:
        await text_of(pool, slow, audio(1))
        await text_of(pool, quick, audio(1))
        now = asyncio.get_running_loop().time()
        for name, idle, load in (("slow", 200.0, 1000.0), ("quick", 100.0, 10.0)):
            supervisor = pool.dispatchers[name].supervisor
            supervisor.idle_since, supervisor.load_seconds = now - idle, load
        await text_of(pool, new, audio(1))
        assert states(pool) == {"slow": "ready", "quick": "unloaded", "new": "ready"}


async def test_memory_of_a_cpu_worker_is_what_its_process_really_holds() -> None:
    d = fake(memory=80 * MIB, allocate=True)
    async with pool_of(d) as pool:
        await text_of(pool, d, audio(1))
        assert pool.status()["fake"].footprint_bytes > 95 * MIB  # the array and the interpreter
        assert pool.devices()[0].memory_used_bytes == pool.status()["fake"].footprint_bytes


async def test_models_that_grow_over_the_budget_push_out_idle_ones_and_no_running_job() -> None:
    """What a job makes a worker allocate counts at once, and is asked for at the next load."""
    idle, grower = fake("idle", memory=80 * MIB, allocate=True), fake("grower", growth=150 * MIB, delay=0.05, steps=20)
    async with pool_of(idle, grower, devices=machine({"cpu": 270 * MIB}), policy=QUICK) as pool:
        await text_of(pool, idle, audio(1))
        await pool.load("grower")
        assert states(pool) == {"idle": "ready", "grower": "ready"}
        assert await text_of(pool, grower, audio(1)) == "one two"
        await until(lambda: states(pool)["idle"] == "unloaded")
        assert pool.status()["grower"].footprint_bytes > 150 * MIB
        assert pool.devices()[-1].memory_used_bytes <= 270 * MIB
        assert await pool.unload("grower")
        await pool.load("grower")  # it takes little now, but what it will need is kept for it
        assert pool.status()["grower"].footprint_bytes < 100 * MIB
        assert pool.devices()[-1].memory_used_bytes > 150 * MIB


async def test_a_newcomer_that_is_larger_than_expected_waits_until_there_is_room_for_it() -> None:
    """Not even by a little does it push the device over its budget while the others work."""
    busy = fake(
        "busy", device_preference=GPU, memory=700 * MIB, delay=0.05, steps=200
    )  # longer than a load takes on a busy machine
    new = fake("new", device_preference=GPU, memory=310 * MIB)  # as nobody knows before its first life
    async with pool_of(busy, new, devices=machine({"cuda": 1000 * MIB}, gpu=True)) as pool:
        long = asyncio.create_task(text_of(pool, busy, audio(1)), name="test")
        await until(lambda: pool.status()["busy"].jobs_active == 1)
        short = asyncio.create_task(text_of(pool, new, audio(1)), name="test")
        await until(lambda: pool.dispatchers["busy"].supervisor.draining or long.done())
        assert not long.done()
        assert states(pool) == {"busy": "busy", "new": "loading"}
        assert await asyncio.gather(long, short) == ["one two"] * 2
        assert states(pool) == {"busy": "unloaded", "new": "ready"}


async def test_a_model_that_grows_a_little_beyond_its_last_life_is_within_what_is_kept_for_it() -> None:
    devices = machine({"cpu": 270 * MIB})
    d = fake("grower", growth=100 * MIB, delay=0.05, steps=5)
    async with pool_of(d, devices=devices, policy=QUICK) as pool:
        assert await text_of(pool, d, audio(1)) == "one two"
        assert await pool.unload("grower")
        await pool.load("grower")
        kept = pool.devices()[-1].memory_used_bytes
        worker = pool.dispatchers["grower"].supervisor
        worker.loader.measure(int(kept / (1 + QUICK.slack) * 1.04))
        assert pool.devices()[-1].memory_used_bytes == kept


async def test_models_that_grew_while_all_are_busy_end_their_jobs_first() -> None:
    one, two = (fake(name, growth=150 * MIB, delay=0.05, steps=30) for name in ("one", "two"))
    async with pool_of(one, two, devices=machine({"cpu": 270 * MIB}), policy=QUICK) as pool:
        await pool.load("one")
        await pool.load("two")
        assert await asyncio.gather(text_of(pool, one, audio(1)), text_of(pool, two, audio(1))) == ["one two"] * 2
        await until(lambda: sorted(states(pool).values()) == ["ready", "unloaded"])
        assert pool.devices()[-1].memory_used_bytes <= 270 * MIB


async def test_a_lone_model_over_the_budget_goes_when_its_job_is_done() -> None:
    d = fake(growth=200 * MIB, delay=0.05, steps=10)
    async with pool_of(d, devices=machine({"cpu": 150 * MIB}), policy=QUICK) as pool:
        assert await text_of(pool, d, audio(1)) == "one two"
        await until(lambda: pool.devices()[-1].memory_used_bytes == 0)


async def test_a_job_that_is_over_before_anyone_looks_keeps_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker idles by then, and may have been evicted."""
    d, accepted = fake(), PoolReservation._accepted

    async with pool_of(d) as pool:

        async def late(self: PoolReservation) -> WorkerJob:
            job = await accepted(self)
            await job.ended.wait()
            assert await pool.unload("fake")
            return job

        monkeypatch.setattr(PoolReservation, "_accepted", late)
        assert await text_of(pool, d, audio(1)) == "one two"
        assert states(pool)["fake"] == "unloaded"


async def test_a_running_job_is_never_evicted_and_the_newcomer_waits() -> None:
    busy, new = (
        fake("busy", device_preference=GPU, memory=800 * MIB, delay=0.05, steps=20),
        fake("new", device_preference=GPU, memory=800 * MIB),
    )
    async with pool_of(busy, new, devices=machine({"cuda": 1000 * MIB}, gpu=True)) as pool:
        long = asyncio.create_task(text_of(pool, busy, audio(1)), name="test")
        await until(lambda: pool.status()["busy"].jobs_active == 1)
        short = asyncio.create_task(text_of(pool, new, audio(1)), name="test")
        assert await long == "one two"
        assert await short == "one two"
        assert states(pool) == {"busy": "unloaded", "new": "ready"}


async def test_a_model_under_constant_load_yields_so_that_others_get_their_turn() -> None:
    hog, other = (
        fake(name, device_preference=GPU, memory=800 * MIB, delay=0.02, steps=5, max_batch=2)
        for name in ("hog", "other")
    )
    async with pool_of(hog, other, devices=machine({"cuda:0": 1000 * MIB}, gpu=True)) as pool:
        await text_of(pool, hog, audio(1))
        stop = asyncio.Event()

        async def keep_busy() -> int:
            served = 0
            while not stop.is_set():
                assert await text_of(pool, hog, audio(1)) == "one two"
                served += 1
            return served

        load = [asyncio.create_task(keep_busy(), name="test") for _ in range(4)]
        await until(lambda: pool.status()["hog"].jobs_active == 2)
        async with asyncio.timeout(LIMIT):
            assert await text_of(pool, other, audio(1)) == "one two"
        stop.set()
        assert sum(await asyncio.gather(*load)) > 0


async def test_a_pinned_model_is_never_evicted_and_the_refusal_names_it() -> None:
    pinned, new = (
        fake("pinned", device_preference=GPU, memory=800 * MIB, keep_alive=-1),
        fake("new", device_preference=GPU, memory=800 * MIB),
    )
    async with pool_of(pinned, new, devices=machine({"cuda:0": 1000 * MIB}, gpu=True)) as pool:
        await text_of(pool, pinned, audio(1))
        with pytest.raises(OutOfMemory, match="pinned") as refused:
            await ask(pool, new, audio(1))
        assert refused.value.retry_after
        assert states(pool)["pinned"] == "ready"


async def test_a_model_that_does_not_fit_at_all_says_so_and_leaves_nothing() -> None:
    d = fake(memory=2000 * MIB, device_preference=GPU, device="cuda:0")
    before = {child.pid for child in psutil.Process().children()}  # of tests that ran in this process earlier
    async with pool_of(d, devices=machine({"cuda:0": 1000 * MIB}, gpu=True)) as pool:
        with pytest.raises(OutOfMemory, match="more than the budget"):
            await ask(pool, d, audio(1))
        assert pool.devices()[0].memory_used_bytes == 0
        assert {child.pid for child in psutil.Process().children()} <= before


async def test_clients_that_leave_while_memory_is_awaited_withdraw_the_request() -> None:
    busy = fake("busy", device_preference=GPU, memory=800 * MIB, delay=0.05, steps=60, max_batch=1)
    new = fake("new", device_preference=GPU, memory=800 * MIB)
    async with pool_of(busy, new, devices=machine({"cuda:0": 1000 * MIB}, gpu=True)) as pool:
        long = asyncio.create_task(text_of(pool, busy, audio(1)), name="test")
        await until(lambda: pool.status()["busy"].jobs_active == 1)
        waiting = asyncio.create_task(ask(pool, new, audio(1)), name="test")
        await until(lambda: pool.dispatchers["busy"].supervisor.draining)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: not pool.dispatchers["busy"].supervisor.draining)
        second = asyncio.create_task(text_of(pool, busy, audio(1)), name="test")
        assert await asyncio.gather(long, second) == ["one two"] * 2
        assert states(pool) == {"busy": "ready", "new": "unloaded"}


# --- Out of memory at work --------------------------------------------------------------------------------------------


async def test_out_of_memory_at_load_is_tried_again_alone(tmp_path: Path) -> None:
    other = fake("other", device_preference=GPU, memory=10 * MIB)
    d = fake(oom_at="load", fault_times=1, counter_file=str(tmp_path / "n"), device_preference=GPU)
    async with pool_of(other, d, devices=machine(gpu=True)) as pool:
        await text_of(pool, other, audio(1))
        assert await text_of(pool, d, audio(1)) == "one two"
        assert states(pool) == {"other": "unloaded", "fake": "ready"}
        assert pool.status()["fake"].device == "cuda:0"


async def test_out_of_memory_at_load_moves_to_the_cpu_and_says_why() -> None:
    d = fake(oom_at="load", oom_device="cuda", device_preference=GPU)
    async with pool_of(d, devices=machine(gpu=True)) as pool:
        assert await text_of(pool, d, audio(1)) == "one two"
        row = pool.status()["fake"]
        assert row.device == "cpu"
        assert "cuda:0 is out of memory" in row.reason


async def test_a_deployment_that_insists_on_its_device_gets_a_503() -> None:
    d = fake(oom_at="load", oom_device="cuda", device_preference=GPU, device="cuda:0")
    async with pool_of(d, devices=machine(gpu=True)) as pool:
        with pytest.raises(OutOfMemory) as refused:
            await ask(pool, d, audio(1))
        assert refused.value.status == 503
        assert refused.value.retry_after


@pytest.mark.parametrize("place", ["start", "step"])
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_out_of_memory_at_work_is_retried_and_the_client_sees_nothing(place: str, times: int) -> None:
    """Once is cured inside the worker, the second and third time by the pool."""
    d = fake(oom_at=place, fault_times=times, task="chat")
    async with pool_of(d) as pool:
        assert await text_of(pool, d, chat("a")) == "You said: a"
        assert states(pool)["fake"] == "ready"


@pytest.mark.parametrize("place", ["start", "step"])
async def test_out_of_memory_at_work_moves_to_the_cpu_in_the_end(place: str) -> None:
    d = fake(oom_at=place, oom_device="cuda", device_preference=GPU, task="chat")
    async with pool_of(d, devices=machine(gpu=True)) as pool:
        assert await text_of(pool, d, chat("a")) == "You said: a"
        assert pool.status()["fake"].device == "cpu"


@pytest.mark.parametrize("place", ["start", "step"])
async def test_out_of_memory_at_work_on_the_last_device_is_a_503_and_the_worker_lives(place: str) -> None:
    d = fake(oom_at=place, fault_times=5, task="chat")
    async with pool_of(d) as pool:
        with pytest.raises(OutOfMemory) as refused:
            await ask(pool, d, chat("a"))
        assert refused.value.retry_after
        assert states(pool)["fake"] == "ready"
        assert await text_of(pool, d, chat("a")) == "You said: a"


async def test_out_of_memory_with_output_already_sent_is_not_retried() -> None:
    d = fake(oom_at="step", fault_step=3, fault_times=4, task="chat")
    async with pool_of(d) as pool:
        with pytest.raises(OutOfMemory):
            await ask(pool, d, chat("a b c d e"))


async def test_too_large_a_batch_is_halved_and_nobody_fails() -> None:
    d = fake(oom_batch=1, delay=0.02, steps=4, max_batch=4)
    async with pool_of(d) as pool:
        assert await asyncio.gather(*(text_of(pool, d, audio(1)) for _ in range(4))) == ["one two"] * 4


# --- Where a model runs, and who answers when it cannot ---------------------------------------------------------------


async def test_the_reason_for_the_device_is_told() -> None:
    on_gpu, on_cpu = fake("gpu", device_preference=GPU), fake("cpu")
    async with pool_of(on_gpu, on_cpu, devices=machine(gpu=True)) as pool:
        await asyncio.gather(text_of(pool, on_gpu, audio(1)), text_of(pool, on_cpu, audio(1)))
        assert pool.status()["gpu"].device == "cuda:0"
        assert "best device" in pool.status()["gpu"].reason
        assert "wants no other device" in pool.status()["cpu"].reason


async def test_a_device_that_is_not_there_is_an_error_that_lists_what_is() -> None:
    d = fake(device="cuda:1", device_preference=GPU)
    async with pool_of(d, devices=machine(gpu=True)) as pool:
        with pytest.raises(ModelUnavailable, match=r"cuda:0 \(invented GPU\)"):
            await ask(pool, d, audio(1))


async def test_threads_are_set_before_libraries_load() -> None:
    d = fake()
    async with pool_of(d) as pool, pool.admit(d, owner="me", request_id="r") as reservation:
        await reservation.run(audio(1))
        assert reservation.capabilities is not None
        assert reservation.capabilities.detail == {"threads": 1, "omp_num_threads": "1"}


async def test_a_model_whose_weights_are_absent_takes_no_threads_from_the_one_that_is_here() -> None:
    def whisper(name: str, model: str) -> Deployment:
        info = backend_info("whisper")
        return Deployment(name=name, info=info, model=model, auto_pull=False, options=check_options(info, {}))

    here = str(Path(__file__).parents[2] / "data" / "whisper_tiny")
    async with pool_of(whisper("here", here), whisper("absent", "nobody/nothing")) as pool:
        assert pool._one_heavy()
    async with pool_of(whisper("here", here), whisper("too", here)) as pool:
        assert not pool._one_heavy()


async def test_a_fallback_answers_while_a_deployment_cannot_and_says_so() -> None:
    """Also the requests that wait for the very load that fails."""
    broken, good = fake("broken", fail_load="model_unavailable", load_seconds=0.3, fallback="good"), fake("good")
    async with pool_of(broken, good, policy=type(QUICK)(first_back_off=30)) as pool:

        async def names() -> tuple[str, str | None]:
            async with pool.admit(broken, owner="me", request_id="r") as reservation:
                assert [type(e).__name__ async for e in await reservation.run(audio(1))][-1] == "Done"
                return reservation.deployment.name, reservation.fallback_from

        assert await asyncio.gather(names(), names(), names()) == [("good", "broken")] * 3  # they waited for its load
        assert await names() == ("good", "broken")  # it was known
        assert (
            [d.reserved_slots.held for d in pool.dispatchers.values()]
            == [d.waiting for d in pool.dispatchers.values()]
            == [0, 0]
        )


@pytest.mark.parametrize("fault", [{"oom_at": "load"}, {"crash_at": "load"}, {"fail_load": "error"}])
async def test_a_fallback_answers_whatever_the_load_failed_of(fault: dict[str, str]) -> None:
    first, last = fake("first", fallback="second", **fault), fake("last", task="chat")
    second = fake("second", fallback="third", **fault)
    async with (
        pool_of(first, second, fake("third"), last) as pool,
        pool.admit(first, owner="me", request_id="r") as reservation,
    ):
        assert (reservation.deployment.name, reservation.fallback_from) == ("third", "first")
        assert [type(e).__name__ async for e in await reservation.run(audio(1))][-1] == "Done"


async def test_without_a_fallback_that_works_the_last_reason_is_told() -> None:
    one, two = fake("one", fail_load="error", fallback="two"), fake("two", fail_load="model_unavailable")
    async with pool_of(one, two) as pool:
        with pytest.raises(ModelUnavailable, match="told to fail"):
            await ask(pool, one, audio(1))


async def test_what_the_asked_deployment_is_missing_is_told_where_its_fallback_is_not_there_either() -> None:
    info, broken = backend_info("whisper"), {"fail_load": "error"}
    gone = Deployment(name="gone", info=info, model="nobody/gone", auto_pull=False, options=check_options(info, {}))
    asked = Deployment(
        name="asked", info=info, model="nobody/asked", auto_pull=False, fallback="gone", options=check_options(info, {})
    )
    async with pool_of(asked, gone, fake("broken", fallback="gone", **broken)) as pool:
        with pytest.raises(ModelUnavailable, match="weights of asked are missing"):
            await ask(pool, asked, audio(1))
        for _ in range(2):  # its load fails, then it is known to fail
            with pytest.raises(ModelUnavailable, match="broken") as told:
                await ask(pool, fake("broken", fallback="gone", **broken), audio(1))
            assert "gone" not in told.value.message


async def test_a_model_with_a_fallback_is_loaded_once_and_clients_may_leave_meanwhile() -> None:
    d, other = fake("d", load_seconds=0.5, fallback="other"), fake("other")
    async with pool_of(d, other) as pool:
        jobs = [asyncio.create_task(text_of(pool, d, audio(1)), name="test") for _ in range(3)]
        await until(lambda: states(pool)["d"] == "loading")
        jobs[0].cancel()  # who began the load leaves
        assert await asyncio.gather(*jobs[1:]) == ["one two"] * 2
        assert states(pool) == {"d": "ready", "other": "unloaded"}
        assert pool.dispatchers["d"].waiting == 0


async def test_a_drain_ends_a_load_that_requests_wait_for() -> None:
    d, other = fake("d", hang_at="load", fallback="other"), fake("other")
    async with pool_of(d, other) as pool:
        job = asyncio.create_task(ask(pool, d, audio(1)), name="test")
        await until(lambda: states(pool)["d"] == "loading")
        await pool.drain(0)
        with pytest.raises(Draining):
            await job


async def test_another_interpreter_is_used_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = fake("missing", python=str(tmp_path / "python"))
    async with pool_of(missing) as pool:
        with pytest.raises(ModelUnavailable, match="cannot be started"):
            await ask(pool, missing, audio(1))
