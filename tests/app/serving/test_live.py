"""Live sessions in the pool: places, feeds, prices, and what happens when the worker or the server ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import numpy as np
import pytest

from app.errors import ApiError, Draining, InvalidRequest, Overloaded, WorkerLost
from app.metrics import Metrics
from app.serving import live as live_module
from app.serving.interfaces import Reservation
from app.serving.live import LivePrice
from app.serving.pool import WorkerPool
from backends.live import (
    CommitRefused,
    LiveAudio,
    LiveClear,
    LiveCleared,
    LiveCommit,
    LiveEnd,
    LiveEvent,
    LiveRequest,
    LiveSettings,
    TurnCommitted,
    TurnDelta,
    TurnDone,
    TurnFailed,
    TurnStarted,
    TurnStopped,
)
from tests.support.pools import audio, fake, pool_of, text_of
from tests.support.waiting import LIMIT, until

RATE = 16_000
MANUAL = LiveRequest(turn_detection=None)


def sound(seconds: float) -> LiveAudio:
    return LiveAudio(np.full(round(seconds * RATE), 0.1, np.float32))


def silence(seconds: float) -> LiveAudio:
    return LiveAudio(np.zeros(round(seconds * RATE), np.float32))


async def next_of(events: AsyncIterator[LiveEvent], kind: type) -> LiveEvent:
    async with asyncio.timeout(LIMIT):
        while not isinstance(event := await anext(events), kind):
            pass
        return event


async def rest(events: AsyncIterator[LiveEvent]) -> list[LiveEvent]:
    async with asyncio.timeout(LIMIT):
        return [event async for event in events]


async def test_a_session_gives_turns_until_it_ends() -> None:
    d = fake(fail_turn=3)
    async with pool_of(d) as pool, pool.admit(d, owner="me", request_id="r", live=True) as reservation:
        events = await reservation.run(LiveRequest())
        assert reservation.capabilities is not None
        assert reservation.capabilities.live
        for feed in (sound(1), silence(1), LiveSettings(MANUAL), sound(0.5), LiveCommit(), sound(2), LiveCommit()):
            reservation.feed(feed)
        for feed in (LiveCommit(), sound(1), LiveClear(), LiveEnd(), sound(1)):
            reservation.feed(feed)
        told = await rest(events)
    order = [type(event) for event in told if not isinstance(event, TurnDelta | TurnDone | TurnFailed)]
    assert order == [TurnStarted, TurnStopped, *[TurnCommitted] * 3, CommitRefused, LiveCleared]
    assert [event.text for event in told if isinstance(event, TurnDone)] == ["one two three", "one"]
    assert [event.turn for event in told if isinstance(event, TurnFailed)] == [2]


async def test_sessions_hold_no_slot_of_the_queue() -> None:
    d = fake(max_batch=1)
    async with pool_of(d, limits={"queue_jobs": 1}) as pool:
        async with (
            pool.admit(d, owner="me", request_id="1") as one,
            pool.admit(d, owner="me", request_id="2", live=True) as two,
        ):
            await one.run(LiveRequest())
            await two.run(LiveRequest())
            row = pool.status()["fake"]
            assert (row.live_sessions, row.jobs_active, row.queue_depth, row.state) == (2, 0, 0, "busy")
            assert await text_of(pool, d, audio(1.5)) == "one two three"
        assert pool.status()["fake"].live_sessions == 0
        await until(lambda: pool.status()["fake"].state == "ready")


async def test_a_model_with_an_open_session_is_not_unloaded() -> None:
    d = fake(keep_alive=0.05)
    async with pool_of(d) as pool:
        async with pool.admit(d, owner="me", request_id="r", live=True) as reservation:
            events = await reservation.run(MANUAL)
            assert not await pool.unload("fake")
            await asyncio.sleep(0.2)
            reservation.feed(sound(0.5))
            reservation.feed(LiveCommit())
            assert await next_of(events, TurnDone)
        await until(lambda: pool.status()["fake"].state == "unloaded")


async def test_places_are_few_and_come_back() -> None:
    d, metrics = fake(max_live=2), Metrics()
    async with pool_of(d, limits={"live_sessions": 3}, metrics=metrics) as pool:
        await pool.load("fake")
        async with pool.admit(d, owner="me", request_id="1", live=True):
            async with pool.admit(d, owner="me", request_id="2", live=True):
                with pytest.raises(Overloaded, match="2 live sessions of fake are open already"):
                    await pool.admit(d, owner="me", request_id="3", live=True).__aenter__()
                async with pool.admit(d, owner="me", request_id="3") as late:
                    with pytest.raises(Overloaded):
                        await late.run(LiveRequest())
            async with pool.admit(d, owner="me", request_id="4", live=True):
                pass
        assert metrics.registry.get_sample_value("gateway_live_sessions", {"deployment": "fake"}) == 0


async def test_what_cannot_be_served_in_real_time_is_refused() -> None:
    """Half a second of work for each second of audio: two sessions are one too many."""
    d = fake(delay=0.0)
    async with pool_of(d) as pool:
        live = pool.dispatchers["fake"].live
        async with pool.admit(d, owner="me", request_id="1", live=True) as one:
            await one.run(LiveRequest())
            live.price.add(9.0, 4.5)
            async with pool.admit(d, owner="me", request_id="2", live=True):
                pass  # too little was heard to refuse anyone
            live.price.add(9.0, 4.5)
            with pytest.raises(Overloaded, match=r"0\.50 s"):
                await pool.admit(d, owner="me", request_id="3", live=True).__aenter__()


async def test_what_sessions_cost_is_measured() -> None:
    d = fake(delay=0.05)
    async with pool_of(d) as pool, pool.admit(d, owner="me", request_id="r", live=True) as reservation:
        events = await reservation.run(MANUAL)
        for _ in range(12):
            reservation.feed(sound(1.0))
        reservation.feed(LiveCommit())
        await next_of(events, TurnDone)
        price = pool.dispatchers["fake"].live.price
        await until(lambda: price.value is not None)
        assert price.value is not None
        assert price.value > 0.05 / 12


def test_a_price_follows_the_last_minute() -> None:
    price = LivePrice()
    price.add(9.0, 1.0)
    assert price.value is None
    price.add(0.0, 0.8)
    price.add(9.0, 0.0)
    assert price.value == pytest.approx(0.1, abs=0.02)
    for _ in range(100):
        price.add(10.0, 5.0)
    assert price.value == pytest.approx(0.5, abs=0.01)


def test_a_price_of_long_ago_refuses_nobody() -> None:
    """Else a machine that was busy once would refuse for ever: nobody is heard who could tell that it is free."""
    now = 0.0
    price = LivePrice(lambda: now)
    price.add(20.0, 30.0)
    assert price.value == pytest.approx(1.5)
    now = 59.0
    assert price.value == pytest.approx(1.5)
    now = 61.0
    assert price.value is None


async def test_audio_that_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MOST_BACKLOG_SECONDS", 4.0)
    d = fake(hang_at="step")
    async with pool_of(d) as pool, pool.admit(d, owner="me", request_id="r", live=True) as reservation:
        await reservation.run(MANUAL)
        for _ in range(5):
            reservation.feed(sound(1.0))
        with pytest.raises(Overloaded, match="behind what was said"):
            reservation.feed(sound(1.0))
        reservation.feed(LiveCommit())  # no audio
        pool.dispatchers["fake"].supervisor.worker.kill()  # type: ignore[union-attr]
        async with asyncio.timeout(LIMIT):
            await reservation.wait_for_room()


async def test_there_is_room_again_once_it_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MOST_BACKLOG_SECONDS", 4.0)
    d = fake(delay=0.01)
    async with pool_of(d) as pool, pool.admit(d, owner="me", request_id="r", live=True) as reservation:
        events = await reservation.run(MANUAL)
        async with asyncio.timeout(LIMIT):
            for _ in range(40):
                await reservation.wait_for_room()
                reservation.feed(sound(1.0))
        reservation.feed(LiveCommit())
        done = await next_of(events, TurnDone)
        assert isinstance(done, TurnDone)
        assert done.seconds == 40.0


async def test_a_lost_worker_ends_the_session_with_the_reason() -> None:
    d = fake()
    async with pool_of(d) as pool, pool.admit(d, owner="me", request_id="r", live=True) as reservation:
        events = await reservation.run(MANUAL)
        reservation.feed(sound(1.0))
        await next_of(events, TurnDelta)
        pool.dispatchers["fake"].supervisor.worker.kill()  # type: ignore[union-attr]
        with pytest.raises(WorkerLost):
            await rest(events)
        reservation.feed(sound(1.0))  # dropped
        assert await text_of(pool, d, audio(0.5)) == "one"


async def test_leaving_cancels_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    d = fake()
    async with pool_of(d) as pool:
        async with pool.admit(d, owner="me", request_id="r", live=True) as reservation:
            events = await reservation.run(MANUAL)
            async with aclosing(events):  # type: ignore[type-var]
                reservation.feed(sound(1.0))
                await next_of(events, TurnDelta)
        await until(lambda: pool.snapshot()["deployments"]["fake"]["worker"]["jobs"] == 0)
        assert pool.snapshot()["deployments"]["fake"]["live"] == 0


async def test_the_end_of_the_server_ends_sessions() -> None:
    d = fake()
    async with pool_of(d) as pool:
        async with pool.admit(d, owner="me", request_id="r", live=True) as reservation:
            events = await reservation.run(MANUAL)
            draining = asyncio.create_task(pool.drain(0.0), name="test drain")
            with pytest.raises(Draining):
                await rest(events)
        assert not await draining


@pytest.mark.parametrize("options", [{"max_live": 0}, {"task": "speech"}])
async def test_a_model_without_live_audio_says_so(options: dict[str, object]) -> None:
    d = fake(**options)
    async with pool_of(d) as pool:
        for _ in range(2):  # before it is loaded and afterwards
            with pytest.raises(InvalidRequest, match="cannot transcribe live audio") as refused:
                await _open(pool, d)
            assert refused.value.code == "OperationNotSupported"
            assert pool.status()["fake"].live_sessions == 0


async def _open(pool: WorkerPool, d: object) -> None:
    async with pool.admit(d, owner="me", request_id="r", live=True) as reservation:  # type: ignore[arg-type]
        await reservation.run(LiveRequest())


async def test_a_start_that_fails_is_an_error_at_once() -> None:
    d = fake(fail_start="invalid_input")
    async with pool_of(d) as pool:
        with pytest.raises(ApiError, match="told to fail"):
            await _open(pool, d)
        assert pool.status()["fake"].live_sessions == 0


async def test_sessions_are_many_at_once() -> None:
    d = fake()

    async def talk(reservation: Reservation) -> str:
        events = await reservation.run(LiveRequest())
        for _ in range(5):
            reservation.feed(sound(0.2))
        reservation.feed(silence(1.0))
        done = await next_of(events, TurnDone)
        assert isinstance(done, TurnDone)
        return done.text

    async with pool_of(d) as pool:

        async def one(number: int) -> str:
            async with pool.admit(d, owner=str(number), request_id="r", live=True) as reservation:
                return await talk(reservation)

        assert set(await asyncio.gather(*map(one, range(8)))) == {"one two three"}
