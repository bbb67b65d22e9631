"""The simulated cluster: a run repeats itself, loses no job, and shows what its tables say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scripts.bench.simulated_cluster import Cluster, Policy, World, mean_audio
from scripts.simulate_cluster import SCALING, main, measure

SMALL = World(nodes=4, start_replicas=4, hours=0.4, warm_up=600.0)


def test_the_same_seed_gives_the_same_run() -> None:
    assert measure(SMALL, SCALING[3], 1) == measure(SMALL, SCALING[3], 1)


def test_every_job_is_served_or_refused() -> None:
    run = Cluster(replace(SMALL, warm_up=0.0, demand=0.9), Policy("", fixed=2), seed=1)
    arrived = 0
    arrive = run.arrive

    def counted(job: object) -> None:
        nonlocal arrived
        arrived += 1
        arrive(job)  # type: ignore[arg-type]

    run.arrive = counted  # type: ignore[method-assign,assignment]
    tally = run.run()
    assert tally.refused > 0
    assert arrived == len(tally.waits) + tally.refused + len(run.queue)


def test_work_comes_as_much_as_is_asked_for() -> None:
    """Within what chance does: a fifth of the fleet's work, without wave and rush, over an hour."""
    world = World(nodes=40, start_replicas=40, hours=1.0, warm_up=0.0, demand=0.2, wave=0.0, rush=1.0)
    tally = Cluster(world, Policy("", fixed=40), seed=2).run()
    capacity = 10 * 4 * (1 / 0.05 + 1 / 0.08 + 1 / 0.16 + 1 / 0.015)
    assert tally.audio / 3600 == pytest.approx(0.2 * capacity, rel=0.1)
    assert mean_audio() == pytest.approx(tally.audio / len(tally.waits), rel=0.1)


def test_machines_come_with_the_work_and_go_after_it() -> None:
    quiet = Cluster(replace(SMALL, demand=0.001, down_delay=60.0), SCALING[3], seed=0)
    quiet.run()
    assert len(quiet.replicas) == 1
    busy = Cluster(replace(SMALL, nodes=8, start_replicas=1, demand=0.8), SCALING[3], seed=0)
    busy.run()
    assert len(busy.replicas) == 8


def test_the_result_is_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", "4", "--replicas", "2", "--hours", "0.6", "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert len(result["scaling"]) == 8
    assert result["assumptions"]["cold_start"] == 60.0
    assert "| slots in use / 0.75 + queued s / 20 s |" in printed
    with pytest.raises(SystemExit):
        main(["--nodes", "1001"])
