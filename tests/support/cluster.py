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
from app.metrics import Metrics
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


@asynccontextmanager
async def cluster_of(
    deployments: Mapping[str, Mapping[str, Any]], *, replicas: int = 1, **tables: Any
) -> AsyncIterator[tuple[ClusterPool, dict[str, LocalCalls]]]:
    """A started pool over local replicas of the user's deployments, and the calls by name."""
    settings = fake_settings(deployments=dict(deployments), **tables)
    known = Deployments.from_settings(settings)
    calls = {name: LocalCalls(settings_of_replica(settings, known[name]), name, replicas) for name in on_cluster(known)}

    async def join() -> Mapping[str, LocalCalls]:
        return calls

    pool = ClusterPool(settings, known, Metrics(), join=join, policy=QUICK)
    await pool.start()
    try:
        yield pool, calls
    finally:
        await pool.drain(0)
        for one in calls.values():
            await one.scale(0)
