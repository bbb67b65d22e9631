"""Replicas in the test's own process, behind the calls that a gateway makes: a cluster without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from app.cluster.calls import CallFailed, Report
from app.cluster.pool import ClusterPool, on_cluster
from app.cluster.replica import ModelReplica
from app.cluster.settings import settings_of_replica
from app.cluster.wire import Arrays
from app.config.deployments import Deployments
from app.config.settings import Settings
from app.metrics import Metrics
from app.serving.policy import Policy
from tests.support.pools import QUICK
from tests.support.server import fake_settings


class LocalCalls:
    """The replicas of one deployment. wanted: how many are started for the first call; silent: calls fail."""

    def __init__(self, settings: Mapping[str, Any], name: str, wanted: int = 1) -> None:
        self.settings, self.name, self.wanted = settings, name, wanted
        self.replicas: list[ModelReplica] = []
        self.silent = False
        self.request_ids: list[str] = []
        self.lost: dict[ModelReplica, asyncio.Event] = {}
        self._lock = asyncio.Lock()

    async def scale(self, count: int) -> None:
        while len(self.replicas) < count:
            replica = ModelReplica(self.settings, self.name, f"{self.name}-{len(self.lost)}")
            await replica.start()
            self.lost[replica] = asyncio.Event()
            self.replicas.append(replica)
        while len(self.replicas) > count:
            await self.replicas.pop().close()

    async def lose(self, replica: ModelReplica) -> None:
        """End a replica as the loss of its machine does: its streams break."""
        self.replicas.remove(replica)
        self.lost[replica].set()
        await replica.close()

    async def first(self, seconds: float) -> Report:
        async with self._lock:
            if not self.replicas and not self.wanted:
                raise CallFailed("no machine has room for it")
            if not self.replicas:
                await self.scale(self.wanted)
        return await self.replicas[0].report()

    async def exchange(self, gateway: str, queued_seconds: float) -> list[Report]:
        if self.silent:
            raise CallFailed("a replica is ending")
        return [await replica.exchange(gateway, queued_seconds) for replica in self.replicas]

    async def run(self, gateway: str, request_id: str, frame: bytes, arrays: Arrays) -> AsyncIterator[bytes]:
        self.request_ids.append(request_id)
        if not self.replicas:
            raise CallFailed("no replica runs")
        replica = min(self.replicas, key=lambda one: one._running.total())
        stream = replica.run(gateway, request_id, frame, *arrays)
        gone = asyncio.ensure_future(self.lost[replica].wait())
        try:
            while True:
                step = asyncio.ensure_future(anext(stream))
                try:
                    await asyncio.wait({step, gone}, return_when=asyncio.FIRST_COMPLETED)
                    if gone.done():
                        raise CallFailed("the machine is gone")
                    yield step.result()
                except StopAsyncIteration:
                    return
                finally:
                    step.cancel()
                    await asyncio.wait({step})
        finally:
            gone.cancel()
            await stream.aclose()


class LocalPool(ClusterPool):
    """A pool whose replicas run in this process and end with it."""

    calls: Mapping[str, LocalCalls]

    async def drain(self, seconds: float) -> None:
        await super().drain(seconds)
        for one in self.calls.values():
            await one.scale(0)


def local_pool(
    settings: Settings, deployments: Deployments, metrics: Metrics, *, replicas: int = 1, policy: Policy | None = None
) -> LocalPool:
    """A pool over local replicas of the user's deployments."""
    names = on_cluster(deployments)
    calls = {name: LocalCalls(settings_of_replica(settings, deployments[name]), name, replicas) for name in names}

    async def join() -> Mapping[str, LocalCalls]:
        return calls

    pool = LocalPool(settings, deployments, metrics, join=join, policy=policy)
    pool.calls = calls
    return pool


@asynccontextmanager
async def cluster_of(
    deployments: Mapping[str, Mapping[str, Any]], *, replicas: int = 1, **tables: Any
) -> AsyncIterator[tuple[ClusterPool, dict[str, LocalCalls]]]:
    """A started pool over local replicas of the user's deployments, and the calls by name."""
    settings = fake_settings(deployments=dict(deployments), **tables)
    pool = local_pool(settings, Deployments.from_settings(settings), Metrics(), replicas=replicas, policy=QUICK)
    await pool.start()
    try:
        yield pool, dict(pool.calls)
    finally:
        await pool.drain(0)
