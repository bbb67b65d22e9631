"""How many replicas a deployment needs: by the slots that jobs use and by the seconds of work that wait.

Owns the rule, which `scripts/simulate_cluster.py` compares with others, and its form as a policy of Ray Serve. Runs in
Serve's controller, where it is unpickled by value: it imports the standard library alone and knows no gateway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# What replicas report about themselves (ModelReplica.record_autoscaling_stats); the ingresses tell them what waits.
SLOTS, IN_USE, QUEUED_SECONDS = "slots", "in_use", "queued_seconds"


def replicas_wanted(
    in_use: float, queued_seconds: float, slots: float, *, utilisation: float, wait_seconds: float
) -> float:
    """Replicas for the work of this moment, not rounded.

    in_use: slots with a running job, of all replicas; queued_seconds: priced work that waits for a slot; slots: of one
    replica; utilisation: part of the slots that may be in use; wait_seconds: queued seconds that each slot may have
    before it. Priced running work does not count: new replicas could not take it over.
    """
    return in_use / (slots * utilisation) + queued_seconds / (slots * wait_seconds)


class SlotsAndQueue:
    """The rule as an autoscaling policy of Ray Serve, which adds its delays and bounds."""

    def __init__(self, utilisation: float, wait_seconds: float) -> None:
        self.utilisation, self.wait_seconds = utilisation, wait_seconds

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """ctx: ray.serve.config.AutoscalingContext. Returns replicas, and no state."""
        reports = ctx.aggregated_metrics or {}
        slots = _values(reports, SLOTS)
        if not slots:  # no replica has reported yet: whoever waits at the handle has one started
            return max(ctx.target_num_replicas, math.ceil(min(1, ctx.total_num_requests))), {}
        wanted = replicas_wanted(
            sum(_values(reports, IN_USE)),
            max(_values(reports, QUEUED_SECONDS), default=0.0),  # each replica was told of the same queue
            max(1.0, sum(slots) / len(slots)),
            utilisation=self.utilisation,
            wait_seconds=self.wait_seconds,
        )
        return math.ceil(wanted - 1e-9), {}


def _values(reports: Mapping[str, Mapping[Any, float]], name: str) -> list[float]:
    return list(reports.get(name, {}).values())
