"""KubeRay's RayService for a configuration, as YAML: machines by what the deployments need, and the gateways on them.

Owns what of the configuration becomes a group of pods. The configuration itself stays a secret that the pods mount, for
it may hold keys. Imports no Ray.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.cluster.pool import on_cluster
from app.config.cluster import ReplicaSettings
from app.config.deployments import Deployments
from app.config.settings import ConfigError, Settings
from backends.devices import parse_bytes

RAY_VERSION = "2.60.0"
NAME, CONFIG_FOLDER, PORT = "speech-gateway", "/configuration", 8000
_MODELS_CLAIM = f"{NAME}-models"
_GATEWAY_CPUS = 1
_LEAST_MEMORY = 2 << 30  # bytes of a pod: Ray's own processes, a replica and its worker, before the model
_MODEL_MEMORY = 4 << 30  # bytes for a model whose deployment does not say


@dataclass(frozen=True)
class PodGroup:
    """Pods alike. One holds one replica of any of its deployments; least, most: how many pods."""

    name: str
    cpus: int
    gpus: int
    memory: int
    least: int
    most: int
    resources: Mapping[str, float]
    labels: Mapping[str, str]


def ray_service(settings: Settings, image: str) -> dict[str, Any]:
    """The RayService. image: a container that has this project with the extra `cluster`. Raises ConfigError."""
    deployments = Deployments.from_settings(settings)
    names = on_cluster(deployments)
    if not names:
        raise ConfigError("a cluster runs the deployments that the configuration names; it has no [deployments] table")
    models_dir = settings.cluster.models_dir or "/models"
    groups = [
        _gateways(settings.cluster.gateways),
        *_groups({name: deployments[name].cluster for name in names}),
    ]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": NAME},
        "spec": {
            "serveConfigV2": _Literal(_serve_config()),
            "rayClusterConfig": {
                "rayVersion": RAY_VERSION,
                "enableInTreeAutoscaling": True,
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},  # Ray's own work alone
                    "template": _template("ray-head", image, 1, 0, _LEAST_MEMORY, models_dir),
                },
                "workerGroupSpecs": [_group_spec(group, image, models_dir) for group in groups],
            },
        },
    }


def as_yaml(document: Mapping[str, Any]) -> str:
    """The document with what has to be there before it. Raises ModuleNotFoundError without the extra `cluster`."""
    import yaml  # type: ignore[import-untyped]

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # has no types here
        """Keeps the Serve configuration readable."""

    Dumper.add_representer(_Literal, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, "|"))
    head = (
        f"# kubectl create secret generic {NAME} --from-file=gateway.toml\n"
        f"# A PersistentVolumeClaim {_MODELS_CLAIM}, which all nodes can mount, holds the weights.\n"
    )
    text: str = yaml.dump(document, Dumper=Dumper, sort_keys=False, width=120)
    return head + text


class _Literal(str):
    """Text that is written as a block."""


def _serve_config() -> str:
    return (
        "proxy_location: EveryNode\n"
        f"http_options: {{host: 0.0.0.0, port: {PORT}}}\n"
        "applications:\n"
        f"- name: {NAME}\n"
        "  import_path: app.cluster.application:build\n"
        "  route_prefix: /\n"
        f"  args: {{config: {CONFIG_FOLDER}/gateway.toml}}\n"
    )


def _gateways(count: int) -> PodGroup:
    return PodGroup("gateways", _GATEWAY_CPUS, 0, _LEAST_MEMORY, count, count, {}, {})


def _groups(replicas: Mapping[str, ReplicaSettings]) -> Iterable[PodGroup]:
    """A group for each kind of machine that the deployments ask for, named for the first of them."""
    kinds: dict[Any, list[tuple[str, ReplicaSettings]]] = {}
    for name, one in replicas.items():
        kind = (one.gpus, one.accelerator, sorted(one.resources.items()), sorted(one.labels.items()))
        kinds.setdefault(repr(kind), []).append((name, one))
    for number, members in enumerate(kinds.values(), 1):
        first = members[0][1]
        yield PodGroup(
            name=f"models-{number}",
            cpus=math.ceil(max(one.cpus for _, one in members)),
            gpus=math.ceil(first.gpus),
            memory=_LEAST_MEMORY + max(parse_bytes(one.memory) or _MODEL_MEMORY for _, one in members),
            least=sum(one.least for _, one in members),
            most=sum(one.most * (2 if one.surge else 1) for _, one in members),  # an update has both for a while
            resources=first.resources | ({f"accelerator_type:{first.accelerator}": 1} if first.accelerator else {}),
            labels=first.labels,
        )


def _group_spec(group: PodGroup, image: str, models_dir: str) -> dict[str, Any]:
    start = {"num-cpus": str(group.cpus)} | ({"num-gpus": str(group.gpus)} if group.gpus else {})
    if group.resources:
        pairs = ", ".join(f'\\"{name}\\": {amount:g}' for name, amount in group.resources.items())
        start["resources"] = f'"{{{pairs}}}"'  # KubeRay passes it through a shell
    if group.labels:
        start["labels"] = ",".join(f"{name}={value}" for name, value in group.labels.items())
    return {
        "groupName": group.name,
        "replicas": group.least,
        "minReplicas": group.least,
        "maxReplicas": group.most,
        "rayStartParams": start,
        "template": _template("ray-worker", image, group.cpus, group.gpus, group.memory, models_dir),
    }


def _template(name: str, image: str, cpus: int, gpus: int, memory: int, models_dir: str) -> dict[str, Any]:
    limits: dict[str, Any] = {"cpu": str(cpus), "memory": f"{memory >> 20}Mi"}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    ports = [("gcs", 6379), ("dashboard", 8265), ("client", 10001), ("serve", PORT)] if name == "ray-head" else []
    container = {
        "name": name,
        "image": image,
        "env": [{"name": "RAY_worker_niceness", "value": "0"}],
        "resources": {"limits": limits, "requests": dict(limits)},
        "volumeMounts": [
            {"name": "configuration", "mountPath": CONFIG_FOLDER, "readOnly": True},
            {"name": "models", "mountPath": models_dir},
        ],
    }
    if ports:
        container["ports"] = [{"name": label, "containerPort": port} for label, port in ports]
    volumes = [
        {"name": "configuration", "secret": {"secretName": NAME}},
        {"name": "models", "persistentVolumeClaim": {"claimName": _MODELS_CLAIM}},
    ]
    return {"spec": {"containers": [container], "volumes": volumes}}
