"""The two classes that Ray Serve runs: a replica of a model, and a whole gateway where Serve is the server, too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve

from app import logs
from app.cluster.calls import Calls
from app.cluster.handles import RayCalls
from app.cluster.pool import ClusterPool
from app.cluster.replica import ModelReplica
from app.cluster.request_ids import ServesRequestId
from app.config.deployments import Deployments
from app.config.loading import load_settings
from app.config.settings import Settings
from app.main import create_app
from app.metrics import Metrics


class ServedReplica(ModelReplica):
    """A replica as Serve makes and ends it."""

    async def __init__(self, settings: Mapping[str, Any], name: str) -> None:  # type: ignore[misc]  # Serve awaits it
        super().__init__(settings, name, serve.get_replica_context().replica_id.unique_id)
        await self.start()

    async def __del__(self) -> None:
        await self.close()


class ServedGateway:
    """The gateway's own app before the replicas, in a process of Serve's.

    config: the configuration on this machine, with the keys, which Ray thus never sees; handles: two to each
    deployment.
    """

    def __init__(self, config: str, handles: Mapping[str, tuple[Any, Any]]) -> None:
        self._settings = load_settings(Path(config) if config else None)
        logs.configure(self._settings.log)
        self._calls: Mapping[str, Calls] = {name: RayCalls(*pair) for name, pair in handles.items()}

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(self._settings, make_pool=self._pool)
        app.add_middleware(ServesRequestId)
        return app

    def _pool(self, settings: Settings, deployments: Deployments, metrics: Metrics) -> ClusterPool:
        return ClusterPool(settings, deployments, metrics, join=self._join)

    async def _join(self) -> Mapping[str, Calls]:
        return self._calls
