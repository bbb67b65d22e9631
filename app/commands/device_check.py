"""Checks that a deployment works on its device: loads it, runs its own check request, and reports what it ran on.

Answers the question that users otherwise take to a task manager: did the GPU do the work? Knows no engine: it reads
what the server reports (`/health`), above all the nodes of a graph that each provider holds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from app.commands.client import CallFailed, Client

_CPU_PROVIDERS = ("CPUExecutionProvider",)


@dataclass(frozen=True, slots=True)
class DeviceCheck:
    """where: engine, device and number format that really ran; nodes: per graph and provider; seconds: of load and of
    the check request; memory: bytes the worker holds on its device; problem: "" if the device does its work; kernels:
    what is computed in a slower or coarser way than usual on this processor, and why."""

    where: str
    load_seconds: float
    check_seconds: float
    memory: int
    nodes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    failure: str = ""
    kernels: Mapping[str, str] = field(default_factory=dict)


def check_device(client: Client, name: str) -> DeviceCheck:
    """Load the deployment, run its check request, and look. Raises CallFailed, also when the check request fails."""
    begun = time.perf_counter()
    client.post_json(f"/admin/load/{quote(name, safe='')}", {})
    loaded = time.perf_counter()
    document = client.get("/health?deep=1").json()
    checked = time.perf_counter()
    state = document["deployments"].get(name)
    if state is None:
        raise CallFailed(f"the server has no deployment {name!r}; an alias will not do here")
    if state["error"]:
        raise CallFailed(f"{name}: {state['error']}")
    nodes = state["detail"].get("nodes", {})
    return DeviceCheck(
        where=f"{state['engine']} on {state['device']} in {state['dtype']}",
        load_seconds=loaded - begun,
        check_seconds=checked - loaded,
        memory=state["footprint_bytes"],
        nodes=nodes,
        failure=_failure(str(state["device"]), nodes, str(state["reason"])),
        kernels=state["detail"].get("kernels", {}),
    )


def _failure(device: str, nodes: Mapping[str, Mapping[str, int]], reason: str) -> str:
    """A device that holds none of the graph does nothing, whatever its name says."""
    if device == "cpu":
        return "" if "no better device" not in reason else f"it runs on the processor: {reason}"
    for graph, providers in nodes.items():
        counts: dict[str, Any] = dict(providers)
        if sum(counts.values()) and not any(count for name, count in counts.items() if name not in _CPU_PROVIDERS):
            return f"all nodes of the {graph} lie on the processor, although {device} was chosen"
    return ""
