"""One gateway per kind of server for the tests that run against both."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ray_cluster import Machines, gateway_on, machines
from tests.support.server import server_process

CONFIGURATION = """
offline = true
[limits]
queue_jobs = 8
[deployments.asr]
backend = "fake"
task = "transcription"
preload = true
cluster = { replicas = 2, cpus = 0.1 }
[deployments.tts]
backend = "fake"
task = "speech"
cluster = { cpus = 0.1 }
[deployments.chat]
backend = "fake"
task = "chat"
cluster = { cpus = 0.1 }
[deployments.bad]
backend = "fake"
fail_start = "invalid_input"
cluster = { cpus = 0.1, resources = { near = 1 } }
[deployments.broken]
backend = "fake"
fail_step = "error"
cluster = { cpus = 0.1, resources = { near = 1 } }
[deployments.narrow]
backend = "fake"
steps = 20
delay = 0.05
max_batch = 1
cluster = { replicas = 2, cpus = 0.1 }
[deployments.slow]
backend = "fake"
steps = 100
delay = 0.1
max_batch = 8
cluster = { replicas = 2, cpus = 0.1 }
[deployments.far]
backend = "fake"
steps = 100
delay = 0.1
max_batch = 8
cluster = { cpus = 0.1, resources = { far = 1 } }
[deployments.rolling]
backend = "fake"
steps = 5
delay = 0.1
cluster = { replicas = 2, cpus = 0.1 }
[deployments.scaled]
backend = "fake"
steps = 60
delay = 0.1
max_batch = 2
keep_alive = 5
cluster = { replicas = [0, 2], cpus = 0.1 }
"""


@pytest.fixture(scope="session")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("cluster") / "gateway.toml"
    file.write_text(CONFIGURATION, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def two_machines() -> Iterator[Machines]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: make test-cluster")
    with machines() as both:
        yield both


@pytest.fixture(scope="session")
def over_the_cluster(
    two_machines: Machines, configuration: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a gateway over two machines."""
    with gateway_on(two_machines, configuration, tmp_path_factory.mktemp("gateway") / "log.txt") as url:
        yield url


@pytest.fixture(scope="session")
def alone(configuration: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway with workers of its own."""
    log = tmp_path_factory.mktemp("alone") / "log.txt"
    with server_process(log, "--config", str(configuration)) as url:
        yield url


@pytest.fixture(params=["uvicorn", pytest.param("cluster", marks=[pytest.mark.cluster, pytest.mark.slow])])
def gateway(request: pytest.FixtureRequest) -> str:
    """The address of each kind of server in turn, or of the one that --server names."""
    wanted = request.config.getoption("--server")
    if wanted not in ("", request.param):
        pytest.skip(f"--server={wanted}")
    url: str = request.getfixturevalue("alone" if request.param == "uvicorn" else "over_the_cluster")
    return url
