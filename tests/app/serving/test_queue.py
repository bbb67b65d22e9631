"""Order and prices: fair between owners, fair between short and long jobs, honest predictions."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.serving.pricing import DEFAULT_CHAT_TOKENS, Pricer, audio_seconds, spoken_seconds, work_units
from app.serving.queue import AGEING, Entry, FairQueue
from backends.interface import AudioPart, ChatRequest, Message, SpeechRequest, TextPart, TranscriptionRequest


def entry(owner: str, price: float, queued_at: float = 0.0, deadline: float = 1e9) -> Entry[Any]:
    return Entry(owner, price, queued_at, deadline, None)  # type: ignore[arg-type]


JOBS = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.1, 100)), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(JOBS)
def test_everything_that_goes_in_comes_out_once(jobs: list[tuple[str, float]]) -> None:
    queue: FairQueue[Any] = FairQueue()
    entries = [entry(owner, price) for owner, price in jobs]
    for item in entries:
        queue.push(item)
    assert len(queue) == len(entries)
    popped = [queue.pop(0.0) for _ in entries]
    assert sorted(e.number for e in popped) == sorted(e.number for e in entries)
    with pytest.raises(IndexError):
        queue.pop(0.0)


@settings(max_examples=100, deadline=None)
@given(JOBS)
def test_while_two_owners_wait_neither_gets_more_than_one_job_ahead(jobs: list[tuple[str, float]]) -> None:
    """The work given to two waiting owners never differs by more than the largest job of either."""
    queue: FairQueue[Any] = FairQueue()
    for owner, price in jobs:
        queue.push(entry(owner, price))
    waiting = {owner: sum(1 for o, _ in jobs if o == owner) for owner in "abcd"}
    given = dict.fromkeys("abcd", 0.0)
    largest = max(price for _, price in jobs)
    while len(queue):
        popped = queue.pop(0.0)
        waiting[popped.owner] -= 1
        given[popped.owner] += popped.price
        still = [given[o] for o in "abcd" if waiting[o]]
        if len(still) > 1:
            assert max(still) - min(still) <= largest + 1e-6


def test_a_newcomer_is_served_before_a_greedy_owner_but_claims_nothing_for_the_past() -> None:
    queue: FairQueue[Any] = FairQueue()
    for _ in range(10):
        queue.push(entry("greedy", 10))
    assert [queue.pop(0.0).owner for _ in range(3)] == ["greedy"] * 3
    for _ in range(5):
        queue.push(entry("late", 10))
    order = [queue.pop(0.0).owner for _ in range(8)]
    assert order.count("late") == 4
    assert order[:2].count("late") == 1 or order[0] == "late"


def test_within_an_owner_short_jobs_go_first_but_a_long_one_does_not_starve() -> None:
    queue: FairQueue[Any] = FairQueue()
    long = entry("me", 100, queued_at=0)
    queue.push(long)
    for second in range(1000):
        queue.push(entry("me", 1, queued_at=second))
        if queue.pop(float(second)) is long:
            break
    assert 0 < second <= 100 / AGEING


@settings(max_examples=100, deadline=None)
@given(JOBS, st.sampled_from("abcde"), st.floats(0.1, 100))
def test_the_predicted_work_is_what_really_comes_first(jobs: list[tuple[str, float]], owner: str, price: float) -> None:
    queue: FairQueue[Any] = FairQueue()
    for name, cost in jobs:
        queue.push(entry(name, cost))
    predicted = sum(queue.prices_before(owner, price, 0.0))
    assert len(queue) == len(jobs)  # asking changes nothing
    mine = entry(owner, price)
    queue.push(mine)
    before = 0.0
    while (popped := queue.pop(0.0)) is not mine:
        before += popped.price
    assert predicted == pytest.approx(before)


def test_expired_and_withdrawn_entries_leave() -> None:
    queue: FairQueue[Any] = FairQueue()
    late, other, gone = entry("a", 1, deadline=5), entry("a", 1, deadline=50), entry("b", 1)
    for item in (late, other, gone):
        queue.push(item)
    assert queue.remove(gone)
    assert not queue.remove(gone)
    assert queue.expired(10) == [late]
    queue.extend(100)
    assert queue.expired(60) == []
    assert queue.pop(0) is other


def test_owners_do_not_pile_up() -> None:
    queue: FairQueue[Any] = FairQueue()
    keeper = entry("keeper", 1e9)
    queue.push(keeper)
    queue.pop(0)
    for i in range(100):
        queue.push(entry(f"owner {i}", 1))
        queue.pop(0)
    assert len(queue._served) == 0


# --- Prices -----------------------------------------------------------------------------------------------------------


def chat(seconds: float = 0.0, **keys: Any) -> ChatRequest:
    sound = AudioPart(np.zeros(round(16_000 * seconds), np.float32))
    return ChatRequest((Message("user", (TextPart("a"), sound)),), **keys)


def transcription(seconds: float) -> TranscriptionRequest:
    return TranscriptionRequest(np.zeros(round(16_000 * seconds), np.float32))


def test_units_of_work() -> None:
    assert work_units(transcription(2)) == 2
    assert work_units(transcription(0)) == 0.1
    assert work_units(SpeechRequest("x" * 150, "v")) == pytest.approx(10)
    assert work_units(SpeechRequest("x" * 150, "v", speed=2)) == pytest.approx(5)
    assert work_units(chat(max_tokens=7)) == 7
    assert work_units(chat()) == DEFAULT_CHAT_TOKENS
    assert audio_seconds(chat(3)) == 3
    assert spoken_seconds("音声" * 10) > spoken_seconds("ab" * 10)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 20), st.lists(st.floats(0.5, 300), min_size=8, max_size=20), st.floats(0.5, 300))
def test_the_price_converges_to_what_jobs_really_cost(rate: float, lengths: list[float], next_length: float) -> None:
    pricer = Pricer()
    assert not pricer.known
    for length in lengths:
        pricer.record(transcription(length), length * rate)
    assert pricer.known
    assert pricer.price(transcription(next_length)) == pytest.approx(next_length * rate, rel=0.05)
    assert pricer.real_time_factor == pytest.approx(rate, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.floats(0.5, 300), st.floats(1.01, 10))
def test_prices_grow_with_the_work_and_stay_between_the_measurements(
    costs: list[float], length: float, factor: float
) -> None:
    pricer = Pricer()
    for cost in costs:
        pricer.record(transcription(1), cost)
    assert min(costs) * 0.999 <= pricer.price(transcription(1)) <= max(costs) * 1.001
    assert pricer.price(transcription(length * factor)) >= pricer.price(transcription(length))


def test_a_chat_has_a_real_time_factor_only_with_audio() -> None:
    pricer = Pricer()
    pricer.record(chat(0, max_tokens=10), 2.0)
    assert pricer.real_time_factor is None
    assert pricer.price(chat(max_tokens=20)) == pytest.approx(4.0)
    pricer.record(chat(4, max_tokens=10), 2.0)
    assert pricer.real_time_factor == pytest.approx(0.5)


async def test_entries_carry_a_future() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push(Entry("a", 1, 0, 9, asyncio.get_running_loop().create_future()))
    item = queue.pop(0)
    item.granted.set_result("here")
    assert await item.granted == "here"
