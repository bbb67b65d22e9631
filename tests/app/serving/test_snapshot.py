"""What a pool says it holds."""

from __future__ import annotations

import asyncio
import json

from tests.support.pools import ask, audio, fake, pool_of
from tests.support.waiting import until


async def test_a_snapshot_counts_what_runs_and_what_waits() -> None:
    d = fake(delay=0.05, steps=100_000, max_batch=1)
    async with pool_of(d) as pool:
        assert pool.snapshot()["deployments"]["fake"]["worker"] == {}
        asked = [asyncio.create_task(ask(pool, d, audio(1), owner), name="test") for owner in ("a", "b")]
        await until(lambda: pool.snapshot()["deployments"]["fake"]["accepted"] == 1)
        await until(lambda: pool.snapshot()["deployments"]["fake"]["queued"] == 1)
        snapshot = pool.snapshot()
        row = snapshot["deployments"]["fake"]
        assert json.loads(json.dumps(snapshot)) == snapshot
        assert snapshot["reservations"] == 2
        assert (row["active"], row["owners"], row["reserved_slots"], row["failures"]) == (1, ["a"], 1, 0)
        assert row["worker"]["jobs"] == 1
        for task in asked:
            task.cancel()
        await until(lambda: pool.snapshot()["deployments"]["fake"]["worker"]["jobs"] == 0)
        await asyncio.gather(*asked, return_exceptions=True)
        left = pool.snapshot()
        assert (left["reservations"], left["deployments"]["fake"]["active"]) == (0, 0)
        assert left["deployments"]["fake"]["reserved_slots"] == left["deployments"]["fake"]["queued"] == 0
