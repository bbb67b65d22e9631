"""A cluster of up to 1,000 machines on paper: what a rule for scaling and routing costs, and how long clients wait.

    python scripts/simulate_cluster.py                        the tables of docs/cluster.md (minutes)
    python scripts/simulate_cluster.py --hours 1 --seeds 1    a quick look
    python scripts/simulate_cluster.py --nodes 1000 --replicas 500 --hours 1 --seeds 1
    python scripts/simulate_cluster.py --json                 the same as JSON

A discrete-event simulation (simpy). Every number that it rests on is printed with its result. It knows the rule of
`app.cluster.autoscaling` and the admission of `app.serving`, and no network: calls take no time, nothing fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.bench.simulated_cluster import (  # noqa: E402
    DICTATION,
    HOUR,
    KINDS,
    MEETING,
    RECORDINGS,
    Cluster,
    Policy,
    Tally,
    World,
)

# --- The tables -----------------------------------------------------------------------------------------------------

SCALING = tuple(
    Policy(name, ongoing=ongoing, utilisation=utilisation, wait_seconds=wait, up_delay=delay)
    for delay in (5.0, 30.0)
    for name, ongoing, utilisation, wait in (
        ("ongoing requests / 2 (Serve's default)", 2.0, 0.75, 20.0),
        ("ongoing requests / 3", 3.0, 0.75, 20.0),
        ("slots in use / 0.5 + queued s / 10 s", 0.0, 0.5, 10.0),
        ("slots in use / 0.75 + queued s / 20 s", 0.0, 0.75, 20.0),
    )
)
ROUTING = (
    Policy("queue at the ingress, priced", fixed=8),
    Policy("queue at the ingress, count", fixed=8, priced=False),
    Policy("shorter of two replicas' queues, priced", fixed=8, routing="two"),
    Policy("shorter of two replicas' queues, count", fixed=8, routing="two", priced=False),
)


def measure(world: World, policy: Policy, seeds: int) -> dict[str, Any]:
    """One row: several runs counted together."""
    together = Tally()
    for seed in range(seeds):
        tally = Cluster(world, policy, seed).run()
        together.waits += tally.waits
        together.refused += tally.refused
        together.audio += tally.audio
        together.cost += tally.cost
    hours = seeds * (world.hours - world.warm_up / HOUR)
    return {"policy": policy.name, "up_delay_s": policy.up_delay, **together.row(hours)}


def assumptions(world: World) -> dict[str, Any]:
    """Everything that the rows rest on."""
    kinds = [dataclasses.asdict(kind) for kind in KINDS]
    names = ("share", "median_s", "sigma")
    lengths = {
        "dictation": dict(zip(names, DICTATION, strict=True)),
        "meetings": dict(zip(names, MEETING, strict=True)),
        "recordings": dict(zip(("share", "least_s", "most_s"), RECORDINGS, strict=True)),
    }
    return {**dataclasses.asdict(world), "kinds_in_turn": kinds, "audio": lengths, "invented": "prices, fleet, traffic"}


def table(rows: Sequence[dict[str, Any]]) -> str:
    head = ("replicas", "up delay", "jobs", "p50 s", "p95 s", "p99 s", "refused %", "cost (A10s)", "per 1000 audio h")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(str(value) for value in row.values())} |" for row in rows)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Simulate scaling and routing of a cluster.")
    parser.add_argument("--nodes", type=int, default=12, help="machines, 1 to 1000")
    parser.add_argument("--replicas", type=int, default=6, help="machines that run at the start")
    parser.add_argument("--hours", type=float, default=4.5, help="simulated hours of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs per row")
    parser.add_argument("--queue-jobs", type=int, default=0, help="limits.queue_jobs; 0: no limit")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    options = parser.parse_args(argv)
    if not 1 <= options.nodes <= 1000:
        parser.error("--nodes must be 1 to 1000")
    world = World(
        nodes=options.nodes, start_replicas=options.replicas, hours=options.hours, queue_jobs=options.queue_jobs
    )
    busier = dataclasses.replace(world, demand=0.44)
    fixed = max(1, round(world.nodes * 8 / 12))
    routing = [dataclasses.replace(policy, fixed=fixed) for policy in ROUTING]
    result = {
        "assumptions": assumptions(world),
        "scaling": [measure(world, policy, options.seeds) for policy in SCALING],
        "routing": [measure(busier, policy, options.seeds) for policy in routing],
    }
    if not options.json:
        print("Assumptions: " + json.dumps(result["assumptions"]))
        print("\nScaling\n\n" + table(result["scaling"]))
        print(
            f"\nRouting and admission, {fixed} replicas, demand {busier.demand}\n\n" + table(result["routing"]) + "\n"
        )
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
