"""The pool over a cluster: queue, prices and refusals here, the models in replicas elsewhere.

Jobs wait in the gateway because a replica that starts later could not take over what waits in another one. Owns joining
the cluster and the exchange with its replicas. Knows `Calls`, and no Ray.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import cast

import structlog

from app.cluster.calls import CallFailed, Calls, Report
from app.cluster.supervisor import ClusterRequirements, ReplicaSupervisor
from app.config.deployments import Deployment
from app.config.settings import Settings
from app.errors import UnsupportedValue
from app.metrics import Metrics
from app.serving.dispatch import Dispatcher
from app.serving.interfaces import DeploymentStatus, DeviceStatus
from app.serving.loading import PoolServices
from app.serving.policy import Policy
from app.serving.pool import WorkerPool
from app.serving.requirements import ModelRequirements
from app.serving.status import deployment_status
from app.serving.supervisor import ModelSupervisor
from backends.devices import DeviceManager

_log = structlog.get_logger("cluster")

Join = Callable[[], Awaitable[Mapping[str, Calls]]]
EXCHANGE_SECONDS = 1.0  # between two exchanges with the replicas
_DEAF_ROUNDS = 10  # exchanges without an answer, after which the replicas count as gone


def on_cluster(deployments: Mapping[str, Deployment]) -> list[str]:
    """Names of the deployments that get replicas: those that the user configured, and those that they refer to."""
    names = [name for name, deployment in deployments.items() if not deployment.builtin]
    for name in names:  # grows as it is walked
        linked = (deployments[name].fallback, deployments[name].audio_deployment)
        names += [other for other in linked if other and other not in names]
    return names


class ClusterPool(WorkerPool):
    """Implements `app.serving.interfaces.Pool` with replicas on other machines."""

    def __init__(
        self,
        settings: Settings,
        deployments: Mapping[str, Deployment],
        metrics: Metrics,
        *,
        join: Join,
        policy: Policy | None = None,
    ) -> None:
        """join: connects to the cluster and returns the calls of each deployment on it. Raises CallFailed."""
        super().__init__(settings, deployments, metrics, policy=policy, devices=DeviceManager("auto"))
        self._join = join
        self._names = on_cluster(deployments)
        self.gateway = uuid.uuid4().hex[:12]

    def _requirements_of(self, deployment: Deployment) -> ModelRequirements:
        clock = asyncio.get_running_loop().time
        return ClusterRequirements(deployment, self._settings.models_dir, clock, deployment.name in self._names)

    def _supervisor_of(
        self, deployment: Deployment, requirements: ModelRequirements, services: PoolServices
    ) -> ModelSupervisor:
        supervisor = ReplicaSupervisor(deployment, requirements, services)
        supervisor.loader.gateway = self.gateway
        supervisor.loader.start_seconds = self._settings.cluster.start_seconds
        return supervisor

    def _supervisor(self, dispatcher: Dispatcher) -> ReplicaSupervisor:
        return cast(ReplicaSupervisor, dispatcher.supervisor)

    # --- Joining -----------------------------------------------------------------------------------------------------

    def _prepare_models(self) -> None:
        self._tasks.start(self._join_cluster(), "joining the cluster")

    async def _join_cluster(self) -> None:
        try:
            calls = await self._join()
        except CallFailed as error:
            _log.error("cluster.not_joined", error=str(error))
            for name in self._names:
                self._supervisor(self.dispatchers[name]).loader.not_joined(str(error))
            return
        _log.info("cluster.joined", gateway=self.gateway, deployments=sorted(calls))
        for name in self._names:
            self._supervisor(self.dispatchers[name]).loader.joined(calls[name])
            self._tasks.start(self._exchange(name, calls[name]), f"exchange with {name}")
            if self._deployments[name].cluster.least:
                self._tasks.start(self._preload(name), f"preload of {name}")

    async def _exchange(self, name: str, calls: Calls) -> None:
        """Tell the replicas of one deployment what waits here, and hear of them, for as long as the pool runs."""
        dispatcher, silent = self.dispatchers[name], 0
        while True:
            await asyncio.sleep(EXCHANGE_SECONDS)
            try:
                reports = await calls.exchange(self.gateway, dispatcher.queued_seconds)
            except CallFailed as error:
                silent += 1
                _log.debug("cluster.exchange_failed", deployment=name, error=str(error))
                if silent < _DEAF_ROUNDS:  # one replica that ends silences all: what was heard last stays
                    continue
                reports = []
            silent = 0 if reports else silent
            self._supervisor(dispatcher).update(reports)
            dispatcher.slots_changed()

    # --- State -------------------------------------------------------------------------------------------------------

    async def unload(self, name: str) -> bool:
        """Refused: how many replicas run is up to Serve. Raises UnsupportedValue, KeyError."""
        text = (
            f"The replicas of {self._deployments[name].name} are started and ended by Ray Serve, within their bounds."
        )
        raise UnsupportedValue(text)

    def status(self) -> dict[str, DeploymentStatus]:
        """With the replicas of those that have them."""
        return super().status() | {name: self._with_replicas(name) for name in self._names}

    def _with_replicas(self, name: str) -> DeploymentStatus:
        dispatcher = self.dispatchers[name]
        row, reports = deployment_status(dispatcher, self._requirements[name]), self._supervisor(dispatcher).reports
        replicas = {report.replica: _row(report) for report in reports}
        return replace(row, detail={**row.detail, "replicas": replicas, "nodes": sorted({r.node for r in reports})})

    def devices(self) -> list[DeviceStatus]:
        """Those of all machines, under the machine's name."""
        rows: dict[str, DeviceStatus] = {}
        for dispatcher in self.dispatchers.values():
            for report in self._supervisor(dispatcher).reports:
                for device in report.devices:
                    row = DeviceStatus(**{**device, "id": f"{report.node}/{device['id']}"})
                    before = rows.get(row.id)
                    used = row.memory_used_bytes + (before.memory_used_bytes if before else 0)
                    rows[row.id] = replace(row, memory_used_bytes=used)
        return list(rows.values())


def _row(report: Report) -> dict[str, object]:
    return {
        "node": report.node,
        "pid": report.pid,
        "state": report.state,
        "slots": report.slots,
        "running": sum(report.running.values()),
        "real_time_factor": report.factor,
        "memory_bytes": report.memory_bytes,
    }
