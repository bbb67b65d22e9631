"""A configuration as a RayService: what is in it, that it is YAML, and that Serve can read its part of it."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.cluster import kubernetes
from app.cluster.kubernetes import as_yaml, ray_service
from app.config.settings import ConfigError, Settings
from backends import children

yaml = pytest.importorskip("yaml")

CONFIGURATION = """
[server]
api_keys = [{ name = "me", key = "a secret key" }]
[cluster]
gateways = 2
models_dir = "/weights"
[deployments.hear]
backend = "fake"
cluster = { replicas = [0, 4], cpus = 3.5, gpus = 0.5, memory = "6GiB", accelerator = "L4" }
[deployments.speak]
backend = "fake"
cluster = { replicas = 2, gpus = 0.5, accelerator = "L4", surge = false }
[deployments.near]
backend = "fake"
cluster = { resources = { near = 1 }, labels = { zone = "a" } }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.toml"
    file.write_text(CONFIGURATION, encoding="utf-8")
    return file


@pytest.fixture
def service(config: Path) -> dict[str, Any]:
    """What the command prints, read again."""
    command = children.command("app.cli", "kubernetes", "registry.example/speech:1", "--config", str(config))
    done = subprocess.run(command, env=children.environment(), capture_output=True, check=True)
    text = done.stdout.decode("utf-8")
    assert text.startswith("# kubectl create secret")
    assert "a secret key" not in text
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_pods_are_grouped_by_what_the_deployments_need(service: dict[str, Any]) -> None:
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    bounds = [(g["groupName"], g["minReplicas"], g["replicas"], g["maxReplicas"]) for g in groups]
    assert bounds == [("gateways", 2, 2, 2), ("models-1", 2, 2, 10), ("models-2", 1, 1, 2)]
    shared = groups[1]
    assert shared["rayStartParams"]["num-cpus"] == "4"
    assert shared["rayStartParams"]["num-gpus"] == "1"
    (container,) = shared["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/speech:1"
    assert container["resources"]["limits"] == {"cpu": "4", "memory": f"{8 << 10}Mi", "nvidia.com/gpu": "1"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/configuration", "/weights"}
    special = groups[2]["rayStartParams"]
    assert json.loads(json.loads(special["resources"])) == {"near": 1}
    assert special["labels"] == "zone=a"
    assert service["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_serve_is_told_the_application_and_its_configuration(service: dict[str, Any]) -> None:
    told = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = told["applications"]
    assert application["import_path"] == "app.cluster.application:build"
    assert application["args"] == {"config": "/configuration/gateway.toml"}


@pytest.mark.cluster
def test_serve_accepts_its_part(service: dict[str, Any]) -> None:
    schema = pytest.importorskip("ray.serve.schema")
    schema.ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))


def test_the_version_is_the_pinned_one() -> None:
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in importlib.metadata.requires("speech-gateway") or ()]
    (ray,) = (one for one in wanted if one.name == "ray")
    assert kubernetes.RAY_VERSION in ray.specifier


def test_without_deployments_there_is_nothing_to_run() -> None:
    with pytest.raises(ConfigError, match="deployments"):
        ray_service(Settings.model_validate({}), "image")


def test_a_long_line_is_not_broken() -> None:
    found = as_yaml({"image": "x" * 300})
    assert f"image: {'x' * 300}\n" in found
