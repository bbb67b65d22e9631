"""The suspicion of a leak after a model ran out of memory. Moving to the CPU is tried in test_pool_memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app.serving.policy import Policy
from app.serving.recovery import Recovery

POLICY = Policy()


def recovery() -> Recovery:
    """Of a model with 8 slots, on no device."""
    model: Any = SimpleNamespace(name="m", slots=8, worker=None, live_active=0)
    loader: Any = SimpleNamespace(batch_limit=0, placement=None)
    services: Any = SimpleNamespace(policy=POLICY)
    return Recovery(model, loader, services)


@pytest.mark.parametrize(
    ("share", "leaked"), [(1.0, False), (1 + POLICY.slack / 2, False), (1 + POLICY.slack * 2, True)]
)
async def test_memory_above_the_slack_has_leaked(share: float, leaked: bool) -> None:
    one = recovery()
    one.loaded(1_000_000)
    assert await one.recover(1)
    assert one.has_leaked(int(1_000_000 * share)) is leaked


async def test_growth_alone_is_no_leak_and_a_suspicion_is_told_once() -> None:
    one = recovery()
    one.loaded(1_000_000)
    assert not one.has_leaked(9_000_000)
    await one.recover(1)
    assert one.has_leaked(9_000_000)
    assert not one.has_leaked(9_000_000)


async def test_another_load_ends_the_suspicion() -> None:
    one = recovery()
    one.loaded(1_000_000)
    await one.recover(1)
    one.loaded(1_000_000)
    assert not one.has_leaked(9_000_000)
