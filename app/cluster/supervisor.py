"""The replicas of one deployment as the pool's supervisor: waiting for a first one, and noticing that there is none.

Serve starts and ends the replicas, within the bounds of the configuration; nothing here loads a model or takes memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from app.cluster.calls import CallFailed, Calls, Report
from app.cluster.worker import ReplicasWorker
from app.config.deployments import Deployment
from app.serving.interfaces import DeploymentState
from app.serving.loading import Loader, PoolServices
from app.serving.recovery import Recovery
from app.serving.requirements import ModelRequirements
from app.serving.supervisor import ModelSupervisor
from app.serving.worker import LoadError, Worker
from backends.interface import Failed


class ClusterRequirements(ModelRequirements):
    """Libraries and weights are the machines' business; here it counts whether the deployment is on the cluster."""

    def __init__(self, deployment: Deployment, models_dir: Path, clock: Callable[[], float], on_cluster: bool) -> None:
        super().__init__(deployment, models_dir, clock, valid_seconds=1e9)
        self.on_cluster = on_cluster

    def missing_libraries(self) -> list[str]:
        return []

    def weight_problems(self, *, fresh: bool = False) -> list[str]:
        return []

    @property
    def state(self) -> DeploymentState:
        return "unloaded" if self.on_cluster else "absent"

    def problem(self) -> str:
        if self.on_cluster:
            return ""
        name = self.deployment.name
        return f'{name} is not on the cluster; a table [deployments."{name}"] in the configuration puts it there.'


class ReplicaLoader(Loader):
    """Waits for a replica instead of loading. calls: set once the gateway has joined the cluster; gateway: our name at
    the replicas; failure: why it could not join."""

    gateway = ""
    start_seconds = 600.0

    def __init__(
        self, deployment: Deployment, holder: ModelSupervisor, services: PoolServices, requirements: ModelRequirements
    ) -> None:
        super().__init__(deployment, holder, requirements, services)
        self._calls: asyncio.Future[Calls] = asyncio.get_running_loop().create_future()

    def joined(self, calls: Calls) -> None:
        if not self._calls.done():
            self._calls.set_result(calls)

    def not_joined(self, why: str) -> None:
        if not self._calls.done():
            self._calls.set_exception(CallFailed(why))
            self._calls.exception()  # those who wait for it get it; nobody may

    async def load(self, on_lost: Callable[[Worker], None]) -> Worker:
        """Wait until a replica runs; without any, Serve starts one for this call. Raises LoadError."""
        clock = self._services.clock
        began = clock()
        try:
            async with asyncio.timeout(self.start_seconds):
                calls = await asyncio.shield(self._calls)
            left = max(1.0, began + self.start_seconds - clock())
            first = await calls.first(left)
            worker = ReplicasWorker(self._deployment.name, calls, self.gateway, first, clock)
        except (CallFailed, TimeoutError) as error:
            why = str(error) or f"none started within {self.start_seconds:g} s (cluster.start_seconds)"
            text = f"No replica of {self._deployment.name} runs: {why}."
            raise LoadError(Failed("model_unavailable", text)) from error
        worker.load_seconds = clock() - began
        return worker

    def move_to_cpu(self, cause: str) -> bool:
        return False  # a replica does that itself


class ReplicaRecovery(Recovery):
    """A replica has done what it can before it reports that it ran out of memory; another one may have more."""

    async def recover(self, attempt: int) -> bool:
        return attempt == 1


class ReplicaSupervisor(ModelSupervisor):
    """Serve decides how long idle replicas stay; here a worker is there while any replica is."""

    loader: ReplicaLoader

    def __init__(self, deployment: Deployment, requirements: ModelRequirements, services: PoolServices) -> None:
        super().__init__(deployment, requirements, services)
        self.loader = ReplicaLoader(deployment, self, services, requirements)
        self.recovery = ReplicaRecovery(self, self.loader, services)
        self._idle_timer.seconds = -1.0  # idle replicas are ended by Serve, after keep_alive if none need stay
        self.reports: list[Report] = []

    def update(self, reports: Sequence[Report]) -> None:
        """Take what all replicas report. Without any, waiting jobs ask for a first one."""
        self.reports = list(reports)
        self._services.metrics.replicas.labels(self.name).set(len(reports))
        worker = self.worker
        if isinstance(worker, ReplicasWorker) and reports:
            worker.update(reports)
            self.capabilities = worker.capabilities
        elif worker is not None and not self.active:
            self.ask_to_drain(True)  # also with jobs in the queue, which then wait for the first replica
            self._services.background(self.unload("no replica runs"), f"unload of {self.name}")
        elif worker is None and reports and self.error is None and not self._changes.locked():
            self._services.background(self._replace(), f"replicas of {self.name}")
