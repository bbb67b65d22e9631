"""One key takes what it can get; another key is served nevertheless."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import numpy as np
import pytest

from app.config.settings import LimitSettings, ServerSettings, Settings
from app.errors import InvalidRequest, Overloaded, ServiceUnavailable, StorageFull
from app.http import request_body as upload
from app.media.fair import FairMediaPool, current_owner
from app.media.pool import Decoded, MediaPool
from backends.interface import Event
from tests.support.audio import by_soundfile, patched_flac, tone, wav_of
from tests.support.pools import ask, audio, fake, pool_of, speech
from tests.support.server import Running, fake_settings, running
from tests.support.waiting import until, wait_until

KEYS = [{"name": "hostile", "key": "h"}, {"name": "honest", "key": "g"}]
LIMITS = {"body_bytes": 100_000, "total_body_bytes": 400_000}
FLAC = by_soundfile(tone(48_000, 1.0), 48_000, "FLAC", "PCM_16")


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools are built as on a server with several keys."""
    monkeypatch.setattr(ServerSettings, "several_owners", property(lambda self: True))


def test_owners_are_told_by_keys_or_where_any_is_accepted_by_addresses() -> None:
    def several(**server: Any) -> bool:
        return Settings.model_validate({"server": server}).server.several_owners

    assert several(api_keys=KEYS)
    assert not several(api_keys=KEYS[:1])
    assert not several()
    assert several(host="0.0.0.0", open_to_network=True)  # noqa: S104 # nothing listens


def _unfinished(server: Running, key: str) -> socket.socket:
    connection = server.connect()
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\napi-key: {key}\r\nContent-Length: 99000\r\n"
    connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + b" " * 98_000)
    return connection


def _transcribe(server: Running, key: str) -> httpx.Response:
    files, data = {"file": ("f.wav", wav_of(2.0))}, {"model": "fake-asr"}
    return httpx.post(f"{server.url}/v1/audio/transcriptions", headers={"api-key": key}, data=data, files=files)


def test_slow_uploads_of_one_key_leave_memory_for_another() -> None:
    with running(fake_settings(server={"api_keys": KEYS}, limits=LIMITS)) as server:
        slow = [_unfinished(server, "h") for _ in range(6)]
        answers = [connection.recv(12) for connection in slow[2:]]
        assert answers == [b"HTTP/1.1 429"] * 4
        assert _transcribe(server, "h").status_code == 429
        assert _transcribe(server, "g").status_code == 200
        for connection in slow:
            connection.close()


def test_an_upload_that_trickles_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "FIRST_SECONDS", 0.2)
    monkeypatch.setattr(upload, "LEAST_RATE", 10**9)
    with running(fake_settings()) as server, _unfinished(server, "k") as connection:
        connection.settimeout(60)
        assert connection.recv(12) == b"HTTP/1.1 408"


@pytest.mark.usefixtures("several")
async def test_requests_of_one_key_leave_places_in_the_queue() -> None:
    deployment = fake(delay=0.02, steps=5, max_batch=1)
    async with pool_of(deployment, limits={"queue_jobs": 8}) as pool:
        await ask(pool, deployment, audio(1))
        hostile = [asyncio.create_task(ask(pool, deployment, audio(1), "hostile")) for _ in range(20)]
        await until(lambda: pool.snapshot()["deployments"]["fake"]["reserved_slots"] >= 6)
        honest: list[Event] = await ask(pool, deployment, audio(1), "honest")
        answers = await asyncio.gather(*hostile, return_exceptions=True)
        assert honest
        assert 6 <= sum(isinstance(answer, list) for answer in answers) < 20
        assert all(isinstance(answer, list | Overloaded) for answer in answers)


@pytest.mark.usefixtures("several")
async def test_long_jobs_of_one_key_leave_the_last_slot_to_another() -> None:
    deployment = fake(delay=0.05, steps=100_000, max_batch=3)
    async with pool_of(deployment) as pool:
        jobs = [asyncio.create_task(ask(pool, deployment, audio(1), "hostile")) for _ in range(5)]
        dispatcher = pool.dispatchers["fake"]
        await until(lambda: dispatcher.active == 2 and dispatcher.waiting == 3)
        honest = asyncio.create_task(ask(pool, deployment, audio(1), "honest"))
        await until(lambda: dispatcher.active == 3)
        assert dispatcher.snapshot()["owners"] == ["honest", "hostile", "hostile"]
        for job in (*jobs, honest):
            job.cancel()
        await asyncio.gather(*jobs, honest, return_exceptions=True)


@pytest.mark.usefixtures("several")
async def test_an_owner_waits_for_its_own_long_jobs_and_others_do_not() -> None:
    deployment = fake(delay=0.05, steps=100_000, max_batch=3)
    async with pool_of(deployment) as pool:
        dispatcher = pool.dispatchers["fake"]
        async with pool.admit(deployment, owner="honest", request_id="r") as reservation:
            await reservation.prepare()
        dispatcher.pricer.record(audio(1), 10.0)
        jobs = [asyncio.create_task(ask(pool, deployment, audio(100), "hostile")) for _ in range(2)]
        await until(lambda: dispatcher.active == 2)
        assert 900 < dispatcher.predicted_wait("hostile", 10.0) <= 1000
        with pytest.raises(Overloaded, match="would wait"):
            await ask(pool, deployment, audio(1), "hostile")
        assert dispatcher.predicted_wait("honest", 10.0) == 0
        jobs.append(asyncio.create_task(ask(pool, deployment, audio(2), "honest")))
        await until(lambda: dispatcher.active == 3)
        assert 0 < dispatcher.predicted_wait("honest", 10.0) <= 20  # for its own to end
        assert 0 < dispatcher.predicted_wait("another", 10.0) <= 20
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


@pytest.fixture
async def media() -> AsyncIterator[FairMediaPool]:
    pool = FairMediaPool(LimitSettings(), fair=True)
    await pool.start()
    yield pool
    await pool.close()


async def _decode(media: FairMediaPool, owner: str, data: bytes = FLAC) -> Decoded:
    current_owner.set(owner)  # of this task
    return await media.decode(data, rate=16_000)


async def test_decodings_of_one_key_leave_a_decoder_to_another(
    media: FairMediaPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, begun, decode = asyncio.Event(), list[str](), MediaPool.decode

    async def slow(self: MediaPool, data: bytes, **named: Any) -> Decoded:
        begun.append(current_owner.get())
        if current_owner.get() == "hostile":
            await ends.wait()
        return await decode(self, data, **named)

    monkeypatch.setattr(MediaPool, "decode", slow)
    hostile = [asyncio.create_task(_decode(media, "hostile")) for _ in range(4)]
    honest = await asyncio.create_task(_decode(media, "honest"))
    assert len(honest.samples) == 16_000
    assert begun == ["hostile", "honest"]
    ends.set()
    assert len(await asyncio.gather(*hostile)) == 4


@pytest.mark.parametrize(("frames", "text"), [(48_000 * 7201, "7200 seconds"), (7200 * 384_000, "bytes")])
async def test_a_flac_whose_head_is_over_a_cap_is_refused_before_decoding(
    media: FairMediaPool, monkeypatch: pytest.MonkeyPatch, frames: int, text: str
) -> None:
    monkeypatch.setattr(MediaPool, "decode", lambda *_, **__: pytest.fail("it was decoded"))
    rate = 384_000 if text == "bytes" else 48_000
    with pytest.raises(InvalidRequest, match=text):
        await _decode(media, "hostile", patched_flac(FLAC, rate=rate, frames=frames))


async def test_a_flac_whose_head_says_nothing_is_decoded(media: FairMediaPool) -> None:
    with await _decode(media, "honest", patched_flac(FLAC, frames=0)) as decoded:
        assert len(decoded.samples) == 16_000


def _free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    usage = shutil.disk_usage(".")._replace(free=size)
    monkeypatch.setattr("app.media.fair.shutil.disk_usage", lambda _: usage)


async def test_one_key_gets_its_share_of_a_small_temp_disk(
    media: FairMediaPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _free(monkeypatch, 8 << 20)
    long = by_soundfile(np.zeros((16_000 * 60, 1), np.float32), 16_000, "WAV", "PCM_16")  # 3.8 MB of samples
    first = await _decode(media, "hostile", long)
    assert first.file is not None
    with pytest.raises(Overloaded, match="temporary files"):
        await _decode(media, "hostile", long)
    with await _decode(media, "honest", long) as other:
        assert len(other.samples) == 16_000 * 60
    first.close()
    (await _decode(media, "hostile", long)).close()
    assert media.snapshot()["file_bytes"] == 0


async def test_a_full_disk_is_told_as_one(media: FairMediaPool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any, **__: Any) -> Decoded:
        raise ServiceUnavailable("The audio decoder was stopped while it worked on this file.")

    monkeypatch.setattr(MediaPool, "decode", fails)
    with pytest.raises(ServiceUnavailable, match="was stopped"):
        await _decode(media, "honest")
    _free(monkeypatch, 0)
    with pytest.raises(StorageFull, match="temporary files is full") as refused:
        await _decode(media, "honest")
    assert refused.value.status == 507


@pytest.mark.usefixtures("several")
async def test_unread_answers_of_one_key_stop_only_its_own_next_ones() -> None:
    deployment = fake(task="speech")
    async with pool_of(deployment, limits={"unread_bytes": 80}) as pool, AsyncExitStack() as hostile:
        unread = await hostile.enter_async_context(pool.admit(deployment, owner="hostile", request_id="r"))
        waiting = await hostile.enter_async_context(pool.admit(deployment, owner="hostile", request_id="r"))
        await unread.run(speech("one two three"))
        await until(lambda: pool.snapshot()["unread_bytes"] > 0)
        with pytest.raises(Overloaded, match="have not read"):
            await waiting.run(speech("four"))
        assert await ask(pool, deployment, speech("five"), "honest")
        await hostile.aclose()
        assert pool.snapshot()["unread_bytes"] == 0
        assert await ask(pool, deployment, speech("six"), "hostile")


@pytest.mark.usefixtures("several")
async def test_what_waits_begins_when_its_client_has_read_on() -> None:
    deployment = fake(task="speech", delay=0.01, max_batch=2)
    async with pool_of(deployment, limits={"unread_bytes": 80}) as pool, AsyncExitStack() as stack:
        first = await stack.enter_async_context(pool.admit(deployment, owner="slow", request_id="r"))
        events = await first.run(speech("one two three"))
        second = asyncio.create_task(
            ask(pool, deployment, speech("four"), "slow")
        )  # admitted before anything is unread
        await until(lambda: pool.snapshot()["deployments"]["fake"]["active"] == 0)
        assert pool.snapshot()["deployments"]["fake"]["queued"] == 1
        assert len([event async for event in events]) > 1
        assert await second


def test_a_whole_answer_counts_until_its_client_has_read_it() -> None:
    text = "x" * 4096  # of which the double makes megabytes
    body = json.dumps({"model": "fake-tts", "input": text, "voice": "alloy", "stream": False}).encode()
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\napi-key: h\r\nContent-Length: {len(body)}\r\n"
    with running(fake_settings(server={"api_keys": KEYS})) as server, server.connect() as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        assert connection.recv(12) == b"HTTP/1.1 200"
        for _ in range(3):  # by which a request that does not wait has ended
            assert httpx.get(f"{server.url}/health/live").status_code == 200
        assert (server.gateway.in_flight, server.pool.active) == (1, 1)
        while server.gateway.in_flight:
            connection.recv(1 << 20)
        wait_until(lambda: server.pool.active == 0)
