"""A state machine over the life of models: hypothesis looks for an order of events that breaks a promise.

The workers are in memory and obey the test: a load ends when it is told to, a job ends when it is told to, a worker
dies when it is told to, a loaded model grows when it is told to. The states it passes: absent, loading, ready, busy,
failed, unloaded (also by eviction), and a pool that drains. What is checked after every event are the promises: no
device holds more than its budget while anyone idles, a running job is never evicted, there is one worker per deployment
at most, and in the end every request was answered or refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.config.settings import Settings
from app.errors import ApiError
from app.metrics import Metrics
from app.serving.policy import Policy
from app.serving.pool import WorkerPool
from app.serving.worker import LoadError, Worker, WorkerJob, WorkerSpec
from backends import messages
from backends.interface import Capabilities, Done, Failed, OutOfMemory, Request
from tests.support.pools import MIB, ask, audio, fake, machine
from tests.support.waiting import LIMIT

NAMES = ("a", "b", "c", "d")
SIZES = {"a": 400 * MIB, "b": 400 * MIB, "c": 700 * MIB, "d": 100 * MIB}
FALLBACKS = {"a": "b"}
BUDGET = 1000 * MIB
CALM = Policy(
    hang=100,
    watch=3600,
    first_back_off=0.001,
    longest_back_off=0.002,
    residency=0,
    memory_wait=1000,
    availability=0,
    crashes=4,
)


class MemoryWorker:
    """A worker without a process. It holds its memory from its birth to the end of its close."""

    def __init__(self, world: World, spec: WorkerSpec, on_lost: Callable[[Worker], None]) -> None:
        self.world, self.name, self._on_lost = world, spec.deployment, on_lost
        self.device = spec.load.placement.device
        self.capabilities = Capabilities("fake", self.device, "float32", max_batch=2)
        self.load_seconds, self.pid, self.lost = 0.1, id(self), False
        self.size = SIZES[self.name]
        self.jobs: list[WorkerJob] = []
        self.may_be_killed = False  # it hangs
        self._clock = asyncio.get_running_loop().time
        world.alive.append(self)

    @property
    def heartbeat(self) -> messages.Heartbeat:
        return messages.Heartbeat(1, False, 0, 0, self.size, 0)

    @property
    def progress_at(self) -> float:
        return self._clock()

    @property
    def job_count(self) -> int:
        return len(self.jobs)

    def submit(self, request: Request | None, request_id: str = "") -> WorkerJob:
        job = WorkerJob(len(self.jobs), self._clock())
        if self.lost:
            job.end(Failed("worker_lost", "gone"))
        else:
            self.jobs.append(job)
            job.started.set()
        return job

    def end(self, last: Done | Failed) -> None:
        job = self.jobs.pop(0)
        job.take(last)
        job.end(Failed("cancelled", ""))

    def cancel(self, job: WorkerJob) -> None:
        if job in self.jobs:
            self.jobs.remove(job)
            job.end(Failed("cancelled", ""))

    def limit_batch(self, jobs: int) -> None:
        """Nothing to do: the dispatcher sends no more than this."""

    def kill(self) -> None:
        if self.jobs and not (self.may_be_killed or self.world.cutting):
            self.world.broken.append(f"{self.name} was killed with {len(self.jobs)} running jobs")
        self.lose()

    def lose(self) -> None:
        """The process is gone; its memory with it."""
        if not self.lost:
            self.lost = True
            for job in self.jobs:
                job.end(Failed("worker_lost", "gone"))
            self.jobs.clear()
            self._on_lost(self)  # type: ignore[arg-type]

    async def close(self) -> None:
        if self.jobs and not self.world.cutting:
            self.world.broken.append(f"{self.name} was closed with {len(self.jobs)} running jobs")
        for _ in range(3):
            await asyncio.sleep(0)
        self.world.alive.remove(self)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when everyone waits for it, and then at once: the same events give the same story."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        look = selector.select

        def select(timeout: float | None = None) -> Any:
            self._now += timeout or 0.0
            return look(0)

        selector.select = select

    def time(self) -> float:
        return self._now


class World:
    """Everything the machine can touch."""

    def __init__(self) -> None:
        self.alive: list[MemoryWorker] = []
        self.loading: dict[str, asyncio.Future[str]] = {}
        self.broken: list[str] = []
        self.free_run = self.cutting = False

    async def spawn(self, spec: WorkerSpec, on_lost: Callable[[Worker], None]) -> MemoryWorker:
        name = spec.deployment
        if name in self.loading or any(w.name == name for w in self.alive):
            self.broken.append(f"{name} is loaded twice")
        self.loading[name] = asyncio.get_running_loop().create_future()
        try:
            outcome = "good" if self.free_run else await self.loading[name]
        finally:
            del self.loading[name]
        if outcome == "good":
            return MemoryWorker(self, spec, on_lost)
        raise LoadError(
            OutOfMemory("no room").to_event() if outcome == "memory" else Failed("internal", "broken weights")
        )

    def worker(self, name: str) -> MemoryWorker | None:
        return next((w for w in self.alive if w.name == name and not w.lost), None)


class Lives(RuleBasedStateMachine):
    """Events in any order."""

    @initialize(pinned=st.booleans(), keep_alive=st.sampled_from([0, 600]))
    def begin(self, pinned: bool, keep_alive: float) -> None:
        self.loop = VirtualLoop()
        self.world = World()
        self.deployments = {
            name: fake(
                name,
                device_preference=("cuda",),
                device="cuda:0",
                keep_alive=-1 if pinned and name == "d" else keep_alive,
                fallback=FALLBACKS.get(name, ""),
            )
            for name in NAMES
        }
        self.pool = WorkerPool(
            Settings(),
            self.deployments,
            Metrics(),
            policy=CALM,
            devices=machine({"cuda:0": BUDGET}, gpu=True),
            spawn=self.world.spawn,  # type: ignore[arg-type]
        )
        self.asked: list[asyncio.Task[Any]] = []
        self.unloads: list[asyncio.Task[bool]] = []
        self.drains: list[asyncio.Task[bool]] = []
        self.run(self.pool.start())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def and_settle() -> Any:
            result = await work
            for _ in range(40):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(asyncio.wait_for(and_settle(), LIMIT))

    async def nothing(self) -> None:
        """Only let the loop turn."""

    # --- Events -------------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), owner=st.sampled_from(["x", "y"]))
    def a_client_asks(self, name: str, owner: str) -> None:
        self.run(self._ask(name, owner))

    async def _ask(self, name: str, owner: str) -> None:
        self.asked.append(asyncio.create_task(ask(self.pool, self.deployments[name], audio(1), owner), name="test"))

    @precondition(lambda self: not self.pool.draining)
    @rule(name=st.sampled_from(NAMES), grows_to=st.sampled_from([0, 0, 600, 1100]))
    def a_client_is_served(self, name: str, grows_to: int) -> None:
        """Without anything in between, so that models idle, and grow, often enough to see what happens to them."""
        self.run(self._ask(name, "z"))
        if name in self.world.loading:
            self.world.loading[name].set_result("good")
            self.run(self.nothing())
        self.run(self._end_jobs(name))
        if grows_to:
            self.run(self._grow(name, grows_to * MIB))

    async def _end_jobs(self, name: str) -> None:
        worker = self.world.worker(name)
        while worker is not None and worker.jobs:
            worker.end(Done("at once"))
            await asyncio.sleep(0)

    @precondition(lambda self: any(not t.done() for t in self.asked))
    @rule(data=st.data())
    def a_client_leaves(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([t for t in self.asked if not t.done()])).cancel()
        self.run(self.nothing())

    @precondition(lambda self: self.world.loading)
    @rule(data=st.data(), outcome=st.sampled_from(["good", "good", "good", "memory", "broken"]))
    def a_load_ends(self, data: st.DataObject, outcome: str) -> None:
        self.world.loading[data.draw(st.sampled_from(sorted(self.world.loading)))].set_result(outcome)
        self.run(self.nothing())

    @precondition(lambda self: any(w.jobs for w in self.world.alive))
    @rule(
        data=st.data(),
        last=st.sampled_from([Done("one"), Done("two"), Failed("internal", "x"), Failed("out_of_memory", "y")]),
    )
    def a_job_ends(self, data: st.DataObject, last: Done | Failed) -> None:
        busy = sorted({w.name for w in self.world.alive if w.jobs})
        worker = self.world.worker(data.draw(st.sampled_from(busy)))
        assert worker is not None

        async def end() -> None:
            worker.end(last)

        self.run(end())

    @precondition(lambda self: any(not w.lost for w in self.world.alive))
    @rule(data=st.data(), hangs=st.booleans())
    def a_worker_dies_or_hangs(self, data: st.DataObject, hangs: bool) -> None:
        name = data.draw(st.sampled_from(sorted({w.name for w in self.world.alive if not w.lost})))

        async def die() -> None:
            worker = self.world.worker(name)
            assert worker is not None
            if hangs:
                worker.may_be_killed = True
                self.pool.dispatchers[name].supervisor.watch(self.loop.time() + 1000)
            else:
                worker.lose()

        self.run(die())

    @rule(name=st.sampled_from(NAMES))
    def someone_unloads(self, name: str) -> None:
        async def begin() -> None:  # waits for a load in progress
            self.unloads.append(asyncio.create_task(self.pool.unload(name), name="test unload"))

        self.run(begin())

    @precondition(lambda self: any(not w.lost for w in self.world.alive))
    @rule(data=st.data(), size=st.integers(50, 1200))
    def a_model_grows(self, data: st.DataObject, size: int) -> None:
        """And is looked at, as all are every second."""
        name = data.draw(st.sampled_from(sorted({w.name for w in self.world.alive if not w.lost})))
        self.run(self._grow(name, size * MIB))

    async def _grow(self, name: str, size: int) -> None:
        if (worker := self.world.worker(name)) is not None:
            worker.size = size
        for dispatcher in self.pool.dispatchers.values():
            dispatcher.supervisor.watch(self.loop.time())

    @rule(name=st.sampled_from(NAMES), there=st.sampled_from([True, True, False]))
    def libraries_go_or_come(self, name: str, there: bool) -> None:
        requirements: Any = self.pool._requirements[name]
        requirements.missing_libraries = lambda: [] if there else ["module"]
        assert there or self.pool.status()[name].state != "unloaded"

    @precondition(lambda self: not self.pool.draining)
    @rule(seconds=st.sampled_from([0.0, 1000.0]), odds=st.integers(0, 9))
    def the_server_drains(self, seconds: float, odds: int) -> None:
        """Seldom, because not much happens afterwards."""

        async def begin() -> None:
            self.world.cutting = True  # what takes longer than it may is cut
            self.drains.append(asyncio.create_task(self.pool.drain(seconds), name="test drain"))

        if odds == 0:
            self.run(begin())

    @rule()
    def time_passes(self) -> None:
        self.run(asyncio.sleep(0.003))

    # --- Promises -----------------------------------------------------------------------------------------------------

    @invariant()
    def no_promise_was_broken(self) -> None:
        if not hasattr(self, "world"):
            return
        assert self.world.broken == []
        held = sum(w.size for w in self.world.alive)
        booked = next(d.memory_used_bytes for d in self.pool.devices() if d.id == "cuda:0")
        assert held <= booked
        assert booked <= BUDGET or not self.idle()
        for name, row in self.pool.status().items():
            worker = self.world.worker(name)
            assert row.jobs_active == (len(worker.jobs) if worker else 0)
            assert row.jobs_active <= 2
            assert (row.state == "busy") == (row.jobs_active > 0)
            assert row.state != "ready" or worker is not None
        for task in self.asked:
            if task.done() and not task.cancelled() and task.exception() is not None:
                assert isinstance(task.exception(), ApiError)

    def idle(self) -> list[str]:
        """Models that could make room at once: no job, nobody waits, not pinned, not ending already."""
        supervisors = [dispatcher.supervisor for dispatcher in self.pool.dispatchers.values()]
        return [r.name for r in supervisors if r.worker and not r.active and not r.waiting and not r.pinned]

    async def let_everything_end(self) -> None:
        for future in self.world.loading.values():
            if not future.done():
                future.set_result("good")
        for worker in self.world.alive:
            while worker.jobs and not worker.lost:
                worker.end(Done("end"))
        await asyncio.sleep(0.001)

    def teardown(self) -> None:
        """Every request that is left gets its answer, then nothing is left."""
        if not hasattr(self, "loop"):
            return
        try:
            self.world.free_run = True
            for _ in range(300):
                self.run(self.let_everything_end())
                if all(task.done() for task in [*self.asked, *self.unloads, *self.drains]):
                    break
            stuck = [task for task in [*self.asked, *self.unloads, *self.drains] if not task.done()]
            assert stuck == [], self.pool.status()
            self.run(self.pool.drain(0))
            assert self.world.alive == []
            assert self.world.broken == []
            assert sum(d.memory_used_bytes for d in self.pool.devices()) == 0
            assert [t for t in asyncio.all_tasks(self.loop) if not t.done()] == []
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0.01))
            for task in [*self.asked, *self.unloads]:
                if task.done() and not task.cancelled():
                    task.exception()  # looked at: what a failed example left is not another failure
            self.loop.close()


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
