"""A Ray cluster of two simulated machines on this one, and a gateway process before it.

Ray's own utility starts each machine's processes; killing one is the loss of a machine. Needs the extra `cluster`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from backends import children
from tests.support.server import server_process
from tests.support.waiting import wait_until

# What Ray reads as its processes start: no low priority, and figures for scaling each second instead of each ten.
VARIABLES = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "a token of the tests " * 2,
}
os.environ.update(VARIABLES)  # before Ray is imported, which reads some of them only then
_MACHINE = {"num_cpus": 8, "include_dashboard": False, "object_store_memory": 200_000_000}


class Machines:
    """Two machines: replicas go to the second where they ask for the resource `far`, to the first for `near`."""

    def __init__(self, *, second: bool = True) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={**_MACHINE, "resources": {"near": 100}})
        self.address: str = self._cluster.address
        if second:
            self.add()

    def add(self) -> None:
        """Start a second machine."""
        self._far = self._cluster.add_node(**_MACHINE, resources={"far": 100})

    def lose(self) -> None:
        """Kill everything on the second machine."""
        self._cluster.remove_node(self._far, allow_graceful=False)

    def close(self) -> None:
        """End all of it. What a killed machine has left goes too."""
        ours = psutil.Process().children(recursive=True)
        self._cluster.shutdown()
        for process in psutil.wait_procs(ours, timeout=10)[1]:
            process.kill()


@contextmanager
def machines(*, second: bool = True) -> Iterator[Machines]:
    both = Machines(second=second)
    try:
        yield both
    finally:
        both.close()


@contextmanager
def gateway_on(both: Machines, config: Path, log: Path, **variables: str) -> Iterator[str]:
    """The address of a gateway over the machines, once every deployment that has replicas from the start has them."""
    environment = {**children.environment(), **VARIABLES, **variables}
    with server_process(log, "--config", str(config), "--cluster", both.address, environment=environment) as url:
        wait_until(lambda: all(state != "loading" for state in states(url).values()))
        yield url


def process_of(url: str) -> psutil.Process:
    """The process of a gateway that this process started."""
    port = url.rpartition(":")[2]
    (found,) = (child for child in psutil.Process().children() if f"--port {port} " in " ".join(child.cmdline()))
    return found


def states(url: str) -> dict[str, str]:
    return {name: row["state"] for name, row in httpx.get(f"{url}/health").json()["deployments"].items()}


def replicas(url: str, name: str) -> dict[str, Mapping[str, Any]]:
    """The rows of a deployment's replicas in /health, by their names."""
    found: dict[str, Mapping[str, Any]] = httpx.get(f"{url}/health").json()["deployments"][name]["detail"]["replicas"]
    return found


def running(url: str, name: str) -> int:
    """Jobs that replicas compute."""
    return sum(row["running"] for row in replicas(url, name).values())


def model_process(row: Mapping[str, Any]) -> psutil.Process:
    """The worker process of a replica on this machine."""
    (worker,) = (
        child
        for child in psutil.Process(int(row["pid"])).children(recursive=True)
        if "backends.worker" in child.cmdline()
    )
    return worker
