"""Fair shares: what one owner may hold, and in which order owners that wait come in."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import Overloaded
from app.serving.shares import FairGate, FairShares


def test_an_owner_may_use_all_but_the_reserve_and_a_newcomer_finds_that() -> None:
    shares = FairShares(100, reserve=50, floor=20)
    assert shares.has_room("one", 50)
    shares.take("one", 50)
    assert not shares.has_room("one")
    assert shares.has_room("two", 20)
    assert not shares.has_room("two", 21)
    shares.take("two", 20)
    assert not shares.has_room("two")
    assert shares.has_room("three", 20)
    shares.give_back("one", 50)
    assert shares.has_room("two", 30)


def test_an_owner_below_its_floor_may_use_the_reserve() -> None:
    shares = FairShares(100, reserve=50, floor=80)
    assert shares.has_room("one", 80)
    assert not shares.has_room("one", 81)


def test_without_a_reserve_one_owner_may_use_the_whole() -> None:
    shares = FairShares(100)
    assert shares.has_room("one", 100)
    assert not shares.has_room("one", 101)
    assert shares.has_room("one", 105, extra=5)


def test_owners_that_gave_everything_back_are_forgotten() -> None:
    shares = FairShares(100)
    for number in range(1000):
        shares.take(f"owner {number}")
        shares.give_back(f"owner {number}")
    assert (shares.held, len(shares._held)) == (0, 0)


class Visitor:
    """Enters a gate and stays until it is let out."""

    def __init__(self, gate: FairGate, owner: str, order: list[str]) -> None:
        self.out = asyncio.Event()
        self.task = asyncio.create_task(self._enter(gate, owner, order))

    async def _enter(self, gate: FairGate, owner: str, order: list[str]) -> None:
        async with gate.slot(owner):
            order.append(owner)
            await self.out.wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_owners_are_let_in_by_turns_and_each_in_its_own_order() -> None:
    gate, order = FairGate(1, waiting=FairShares(64)), list[str]()
    visitors = [Visitor(gate, owner, order) for owner in ("a", "a", "a", "b", "c")]
    await settled()
    for visitor in visitors:
        visitor.out.set()
    await asyncio.gather(*(visitor.task for visitor in visitors))
    assert order == ["a", "a", "b", "c", "a"]


async def test_one_owner_leaves_the_last_place_to_others() -> None:
    gate, order = FairGate(2, most=1, waiting=FairShares(64)), list[str]()
    visitors = [Visitor(gate, owner, order) for owner in ("a", "a", "a", "b")]
    await settled()
    assert order == ["a", "b"]
    for visitor in visitors:
        visitor.out.set()
    await asyncio.gather(*(visitor.task for visitor in visitors))
    assert order == ["a", "b", "a", "a"]


async def test_too_many_that_wait_are_refused_but_not_those_of_another_owner() -> None:
    gate, order = FairGate(1, waiting=FairShares(4, reserve=2, floor=1)), list[str]()
    visitors = [Visitor(gate, "a", order) for _ in range(3)]
    await settled()
    with pytest.raises(Overloaded):
        async with gate.slot("a"):
            pytest.fail("it was let in")
    visitors.append(Visitor(gate, "b", order))
    for visitor in visitors:
        visitor.out.set()
    await asyncio.gather(*(visitor.task for visitor in visitors))
    assert sorted(order) == ["a", "a", "a", "b"]


async def test_whoever_leaves_the_line_or_is_cancelled_on_entering_keeps_no_place() -> None:
    waits, order = FairShares(64), list[str]()
    gate = FairGate(1, waiting=waits)
    inside, waiting, next_one = (Visitor(gate, owner, order) for owner in ("a", "b", "c"))
    await settled()
    waiting.task.cancel()
    await settled()
    inside.out.set()
    while "c" not in order and not next_one.task.done():  # its turn has come, and it is cancelled before it knows
        if gate._inside["c"]:
            next_one.task.cancel()
            break
        await asyncio.sleep(0)
    await asyncio.gather(inside.task, waiting.task, next_one.task, return_exceptions=True)
    assert (gate._free, waits.held, len(gate._lines)) == (1, 0, 0)
