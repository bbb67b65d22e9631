"""`speech-gateway serve --cluster ADDRESS`: this process joins a Ray cluster, puts the models on it, and serves HTTP.

Owns the connection and the deployment of the models, which stay when this process ends, so that it can be started again
without loading them again; `serve shutdown` ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import ray
import structlog
from ray import serve

from app.cluster.application import models
from app.cluster.calls import CallFailed, Calls
from app.cluster.handles import RayCalls
from app.cluster.pool import ClusterPool, on_cluster
from app.cluster.settings import serve_name, settings_of_replica, version_of
from app.config.deployments import Deployments
from app.config.settings import ConfigError, Settings
from app.main import MakePool
from app.metrics import Metrics

_APPLICATION = "speech-gateway"
_REPORT_SECONDS = 10.0

_log = structlog.get_logger("cluster")


def connect(settings: Settings, address: str) -> MakePool:
    """Join the cluster at `address` ("auto": the one of this machine), and return what makes the pool.

    Raises ConfigError if there is none, or nothing to put on it.
    """
    if not on_cluster(Deployments.from_settings(settings)):
        raise ConfigError("a cluster runs the deployments that the configuration names; it has no [deployments] table")
    try:
        ray.init(address=address, namespace=_APPLICATION, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot join the cluster at {address!r}: {error}") from error

    def make_pool(settings: Settings, deployments: Deployments, metrics: Metrics) -> ClusterPool:
        async def join() -> Mapping[str, Calls]:
            return await asyncio.to_thread(deploy, settings)

        return ClusterPool(settings, deployments, metrics, join=join)

    return make_pool


def deploy(settings: Settings) -> dict[str, Calls]:
    """Put the models on the cluster, each as an application of its own; what is there unchanged stays as it is.

    Blocks for seconds. Raises CallFailed.
    """
    try:
        serve.start(proxy_location="Disabled")  # the clients' server is this process
        deployments, bound = Deployments.from_settings(settings), models(settings)
        there = _versions(bound)
        changed = [
            serve.RunTarget(target=one, name=_application(name), route_prefix=None)
            for name, one in bound.items()
            if there.get(name) != {version_of(settings_of_replica(settings, deployments[name]))}
        ]
        if changed:  # Serve would replace every replica, also where nothing changed
            serve.run_many(changed, wait_for_applications_running=False)
        _log.info("cluster.deployed", changed=[target.name for target in changed], deployments=sorted(bound))
        return {name: RayCalls(_handle(name), _handle(name)) for name in bound}
    except Exception as error:
        _log.exception("cluster.deploy_failed")
        raise CallFailed(f"the models could not be put on the cluster ({type(error).__name__}: {error})") from error


def _versions(names: Iterable[str]) -> dict[str, set[str]]:
    """The versions of the replicas that run already."""
    running, found = serve.status().applications, {}
    for name in names:
        if _application(name) in running:
            with contextlib.suppress(Exception):  # a replica that starts or ends just now: deployed once more
                reports = _handle(name).broadcast("report").results(timeout_s=_REPORT_SECONDS)
                found[name] = {report.version for report in reports}
    return found


def _application(name: str) -> str:
    return f"{_APPLICATION}-{serve_name(name)}"


def _handle(name: str) -> Any:
    return serve.get_deployment_handle(serve_name(name), _application(name))
