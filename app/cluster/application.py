"""The Serve deployments of a configuration: one per deployment of ours, and one application of all with gateways.

Owns how [deployments.NAME.cluster] is said to Serve. `serve run app.cluster.application:build config=gateway.toml`
starts everything; `app.cluster.driver` uses the parts where the gateway is a server of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from app.cluster.autoscaling import SlotsAndQueue
from app.cluster.pool import on_cluster
from app.cluster.served import ServedGateway, ServedReplica
from app.cluster.settings import serve_name, settings_of_replica
from app.config.deployments import Deployment, Deployments
from app.config.loading import load_settings
from app.config.settings import Settings
from backends.devices import parse_bytes

_CALLS = 1000  # calls that a replica takes at once: its own pool, and the gateways, limit what runs
_UP_DELAY, _LOOK_BACK = 5.0, 30.0  # seconds; the simulation's best
_HEALTH_SECONDS = 10.0


def model(settings: Settings, deployment: Deployment) -> Any:
    """The Serve deployment of one of ours, bound to its settings."""
    replica_settings = settings_of_replica(settings, deployment)
    cluster = deployment.cluster
    served = serve.deployment(ServedReplica).options(
        name=serve_name(deployment.name),
        max_ongoing_requests=_CALLS,
        ray_actor_options=_actor_options(deployment),
        request_router_config=RequestRouterConfig(
            request_router_class="app.cluster.router:PredictedWait", request_routing_stats_period_s=1.0
        ),
        health_check_period_s=_HEALTH_SECONDS,
        graceful_shutdown_timeout_s=settings.cluster.drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        max_surge_percent=100 if cluster.surge else 0,
        **({"max_replicas_per_node": cluster.per_node} if cluster.per_node else {}),
        **_replicas(deployment),
    )
    return served.bind(replica_settings, deployment.name)


def _replicas(deployment: Deployment) -> dict[str, Any]:
    """A fixed number, or bounds with our rule. An idle one goes after keep_alive."""
    cluster = deployment.cluster
    if cluster.least == cluster.most:
        return {"num_replicas": cluster.most}
    keep = max(0.0, deployment.keep_alive) if deployment.keep_alive >= 0 else 1e9
    policy = {
        "policy_function": f"{SlotsAndQueue.__module__}:{SlotsAndQueue.__name__}",
        "policy_kwargs": {"utilisation": cluster.utilisation, "wait_seconds": cluster.wait_seconds},
    }
    bounds = AutoscalingConfig(
        min_replicas=cluster.least,
        max_replicas=cluster.most,
        initial_replicas=cluster.least,
        upscale_delay_s=_UP_DELAY,
        downscale_delay_s=keep,
        look_back_period_s=_LOOK_BACK,
        policy=policy,
    )
    return {"autoscaling_config": bounds}


def _actor_options(deployment: Deployment) -> dict[str, Any]:
    cluster = deployment.cluster
    options: dict[str, Any] = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus}
    if memory := parse_bytes(cluster.memory):
        options["memory"] = memory
    if cluster.resources:
        options["resources"] = dict(cluster.resources)
    if cluster.accelerator:
        options["accelerator_type"] = cluster.accelerator
    if cluster.labels:
        options["label_selector"] = dict(cluster.labels)
    return options


def models(settings: Settings) -> dict[str, Any]:
    """All that a configuration puts on the cluster, by our names. Raises ConfigError."""
    deployments = Deployments.from_settings(settings)
    return {name: model(settings, deployments[name]) for name in on_cluster(deployments)}


def build(arguments: dict[str, str]) -> Any:
    """The application with gateways, for `serve run` and for a RayService. arguments: config, the file's path, which
    every machine that runs a gateway must have."""
    config = arguments.get("config", "")
    settings = load_settings(Path(config) if config else None)
    bound = models(settings)
    gateway = serve.deployment(serve.ingress()(ServedGateway)).options(
        name="gateway",
        num_replicas=settings.cluster.gateways,
        max_ongoing_requests=10_000,  # refusals are the gateway's own
        ray_actor_options={"num_cpus": 1.0},
        graceful_shutdown_timeout_s=settings.server.drain_seconds + 5.0,
    )
    return gateway.bind(config, {name: (one, one) for name, one in bound.items()})
