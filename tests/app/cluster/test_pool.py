"""The pool over replicas, without Ray: the promises of one machine, and what losing a replica means."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from app.cluster.pool import ClusterPool
from app.errors import ApiError, InvalidRequest, ModelUnavailable, Overloaded, UnsupportedValue, WorkerLost
from backends.interface import AudioChunk, ChatRequest, Done, Message, TextPart, TranscriptionRequest
from backends.live import LiveRequest
from tests.support.cluster import LocalCalls, cluster_of
from tests.support.pools import ask, audio, chat, speech, text_of
from tests.support.waiting import until

ASR = {"backend": "fake", "task": "transcription"}
SLOW = {**ASR, "steps": 100_000, "delay": 0.01}


def _deployment(pool: ClusterPool, name: str = "asr") -> Any:
    return pool._deployments[name]


async def _begun(pool: ClusterPool, request: Any, name: str = "asr") -> tuple[asyncio.Task[Any], Any]:
    """A running request, and the dispatcher that holds it."""
    dispatcher, before = pool.dispatchers[name], pool.dispatchers[name].snapshot()["accepted"]
    task = asyncio.create_task(ask(pool, _deployment(pool, name), request), name="test request")
    await until(lambda: dispatcher.snapshot()["accepted"] > before or task.done())
    return task, dispatcher


async def test_every_task_answers_as_on_one_machine() -> None:
    tables = {task: {"backend": "fake", "task": task} for task in ("transcription", "speech", "chat")}
    async with cluster_of(tables) as (pool, calls):
        assert "one two" in await text_of(pool, _deployment(pool, "transcription"), audio(1.0))
        spoken = await ask(pool, _deployment(pool, "speech"), speech("Hello there."))
        assert sum(len(event.samples) for event in spoken if isinstance(event, AudioChunk)) > 0
        answer = await text_of(pool, _deployment(pool, "chat"), chat("what?"))
        assert "what?" in answer
        assert calls["chat"].request_ids == ["r"]


async def test_long_audio_arrives_whole() -> None:
    samples = np.zeros(16_000 * 120, np.float32)  # over what goes through a pipe
    async with cluster_of({"asr": ASR}) as (pool, _):
        last = (await ask(pool, _deployment(pool), TranscriptionRequest(samples)))[-1]
        assert isinstance(last, Done)
        assert last.usage.audio_seconds == 120.0


async def test_slots_are_those_of_all_replicas() -> None:
    async with cluster_of({"asr": {**ASR, "max_batch": 2}}, replicas=1) as (pool, calls):
        await pool.load("asr")
        assert pool.slots("asr") == 2
        await calls["asr"].scale(3)
        await until(lambda: pool.slots("asr") == 6)
        row = pool.status()["asr"]
        assert row.state == "ready"
        assert len(row.detail["replicas"]) == 3  # type: ignore[arg-type]
        assert pool.devices()


async def test_jobs_of_other_gateways_take_slots() -> None:
    async with cluster_of({"asr": {**ASR, "max_batch": 4}}) as (pool, calls):
        await pool.load("asr")
        calls["asr"].replicas[0]._running["another"] = 3
        await until(lambda: pool.slots("asr") == 1)


async def test_a_client_that_leaves_frees_its_slot_over_there() -> None:
    async with cluster_of({"asr": SLOW}) as (pool, calls):
        task, dispatcher = await _begun(pool, audio(1.0))
        (replica,) = calls["asr"].replicas
        assert replica._running.total() == 1
        task.cancel()
        await until(lambda: dispatcher.active == 0 and replica._running.total() == 0)
        await until(lambda: replica._pool.snapshot()["deployments"]["asr"]["worker"]["jobs"] == 0)


async def test_losing_a_replica_costs_its_own_jobs_alone() -> None:
    async with cluster_of({"asr": SLOW}, replicas=2) as (pool, calls):
        first, _ = await _begun(pool, audio(1.0))
        second, _ = await _begun(pool, audio(1.0))
        await calls["asr"].lose(calls["asr"].replicas[0])
        done, running = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == len(running) == 1
        with pytest.raises(WorkerLost):
            done.pop().result()
        running.pop().cancel()


async def test_a_dead_worker_is_replaced_at_once() -> None:
    async with cluster_of({"asr": SLOW}) as (pool, calls):
        task, _ = await _begun(pool, audio(1.0))
        dispatcher = calls["asr"].replicas[0]._pool.dispatchers["asr"]
        dispatcher.supervisor.worker.kill()  # type: ignore[union-attr]
        with pytest.raises(WorkerLost):
            await task
        await until(lambda: dispatcher.supervisor.worker is not None)


async def test_without_replicas_the_next_job_asks_for_one() -> None:
    async with cluster_of({"asr": ASR}) as (pool, calls):
        await pool.load("asr")
        await calls["asr"].scale(0)
        await until(lambda: pool.status()["asr"].state == "unloaded")
        assert await text_of(pool, _deployment(pool), audio(1.0))
        assert len(calls["asr"].replicas) == 1


async def test_nothing_that_could_run_it_is_a_503() -> None:
    async with cluster_of({"asr": {**ASR, "cluster": {"replicas": [0, 1]}}}, replicas=0) as (pool, _):
        with pytest.raises(ModelUnavailable, match="no machine has room"):
            await ask(pool, _deployment(pool), audio(1.0))


async def test_errors_of_the_model_are_those_of_one_machine() -> None:
    tables = {"bad": {**ASR, "fail_start": "invalid_input"}, "broken": {**ASR, "fail_step": "error"}}
    async with cluster_of(tables) as (pool, _):
        with pytest.raises(InvalidRequest):
            await ask(pool, _deployment(pool, "bad"), audio(1.0))
        with pytest.raises(ApiError) as caught:
            await ask(pool, _deployment(pool, "broken"), audio(1.0))
        assert caught.value.status == 500


async def test_refusal_and_queue_stay_here() -> None:
    limits = {"queue_jobs": 1}
    async with cluster_of({"asr": {**SLOW, "max_batch": 1}}, limits=limits) as (pool, calls):
        running, dispatcher = await _begun(pool, audio(1.0))
        queued = asyncio.create_task(ask(pool, _deployment(pool), audio(1.0)), name="test queued")
        await until(lambda: dispatcher.waiting == 1)
        with pytest.raises(Overloaded):
            await ask(pool, _deployment(pool), audio(1.0))
        assert dispatcher.queued_seconds > 0
        (replica,) = calls["asr"].replicas
        await until(lambda: any(seconds > 0 for seconds, _ in replica._queues.values()))
        assert (await replica.record_autoscaling_stats())["in_use"] == 1
        running.cancel()
        queued.cancel()


async def test_an_exchange_that_fails_keeps_what_was_told() -> None:
    async with cluster_of({"asr": ASR}) as (pool, calls):
        await pool.load("asr")
        await until(lambda: pool.status()["asr"].detail["replicas"])
        calls["asr"].silent = True
        assert await text_of(pool, _deployment(pool), audio(1.0))
        assert pool.status()["asr"].detail["replicas"]


async def test_what_the_user_did_not_configure_is_absent() -> None:
    async with cluster_of({"asr": ASR}) as (pool, _):
        row = pool.status()["embedded-tts"]
        assert row.state == "absent"
        assert "not on the cluster" in (row.error or "")
        with pytest.raises(ModelUnavailable):
            await ask(pool, _deployment(pool, "embedded-tts"), speech("no"))


async def test_live_jobs_and_unloading_are_refused() -> None:
    async with cluster_of({"asr": ASR}) as (pool, _):
        worker = await pool.dispatchers["asr"].supervisor.ensure()
        job = worker.submit(LiveRequest())
        assert "not served over a cluster" in job.last.message  # type: ignore[union-attr]
        with pytest.raises(InvalidRequest, match="live audio"):
            async with pool.admit(_deployment(pool), owner="me", request_id="r", live=True):
                pass
        with pytest.raises(UnsupportedValue):
            await pool.unload("asr")


async def test_the_canary_runs_at_a_replica() -> None:
    async with cluster_of({"asr": ASR}) as (pool, _):
        await pool.load("asr")
        await pool.canary(_deployment(pool), 300)


async def test_a_silent_job_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.replica.SIGN_OF_LIFE", 0.01)
    async with cluster_of({"asr": {**SLOW, "delay": 0.2, "steps": 3}}) as (pool, calls):
        seen = []
        run = calls["asr"].run

        async def noted(*arguments: Any) -> Any:
            async for message in run(*arguments):
                seen.append(message)
                yield message

        calls["asr"].run = noted  # type: ignore[method-assign]
        await ask(pool, _deployment(pool), audio(1.0))
        assert seen.count(b"") > 1


async def test_a_stream_that_falls_silent_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.worker.SILENCE", 0.2)
    async with cluster_of({"asr": ASR}) as (pool, calls):
        await pool.load("asr")
        tries = []

        async def never(*_: Any) -> Any:
            tries.append(1)
            await asyncio.Event().wait()
            yield b""

        calls["asr"].run = never  # type: ignore[method-assign]
        with pytest.raises(WorkerLost):
            await ask(pool, _deployment(pool), audio(1.0))
        assert len(tries) == 2  # once more, as no replica had taken it up


def test_messages_say_what_they_hold() -> None:
    from app.cluster.wire import pack, unpack

    request = ChatRequest((Message("user", (TextPart("hi"),)),))
    frame, arrays = pack(request)
    assert arrays == ()
    assert unpack(frame, arrays) == request
    assert unpack(*pack(None)) is None
    sent = TranscriptionRequest(np.arange(4, dtype=np.float32))
    back = unpack(*pack(sent))
    assert isinstance(back, TranscriptionRequest)
    assert back.samples.tolist() == [0, 1, 2, 3]


def test_local_calls_are_the_calls_of_a_cluster() -> None:
    from app.cluster.calls import Calls

    assert {name for name in vars(Calls) if not name.startswith("_")} <= set(dir(LocalCalls))
