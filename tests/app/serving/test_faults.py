"""Faults injected for real, one beside the other: each is told with its reason, and whoever asks another model is
answered."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.config.deployments import Deployment
from app.errors import ApiError, ModelUnavailable, OutOfMemory, WorkerLost
from app.serving.pool import WorkerPool
from backends.hub import PARTS
from backends.registry import backend_info, check_options
from tests.support.hub import running_hub, tensors
from tests.support.pools import HANGING, QUICK, ask, audio, fake, pool_of, text_of
from tests.support.waiting import until

HERE = Path(__file__).parents[2]
MODEL = "org/model"


def weighty() -> Deployment:
    """A test double that wants weights from the hub."""
    info = replace(backend_info("fake"), required_files=("*.safetensors",), pull_patterns=("*.safetensors",))
    return Deployment(name="weighty", info=info, model=MODEL, options=check_options(info, {}))


def whisper(folder: Path) -> Deployment:
    info = backend_info("whisper")
    return Deployment(name="whisper", info=info, model=str(folder), device="cpu", options=check_options(info, {}))


def pid_of(pool: WorkerPool, name: str) -> int:
    worker = pool.dispatchers[name].supervisor.worker
    assert worker is not None
    return worker.pid


async def outcome(pool: WorkerPool, deployment: Deployment) -> type[ApiError]:
    """The error of one request, which must be a 503 that says when to come back."""
    with pytest.raises(ApiError) as failed:
        await ask(pool, deployment, audio(1))
    assert failed.value.status == 503
    assert failed.value.retry_after
    return type(failed.value)


async def test_every_fault_of_a_model_is_its_own(tmp_path: Path) -> None:
    """Out of memory, sudden death, a hang and damaged weights, all at once; a long job of another model goes on."""
    shutil.copytree(HERE / "data" / "whisper_tiny", tmp_path / "cut")
    with (tmp_path / "cut" / "model.safetensors").open("r+b") as weights:
        weights.truncate(100_000)
    bystander = fake("bystander", delay=0.1, steps=60)
    faults = [
        *((fake(f"memory at {place}", oom_at=place), OutOfMemory) for place in ("load", "start", "step")),
        *((fake(f"death at {place}", crash_at=place), WorkerLost) for place in ("load", "start", "step")),
        (fake("hang", hang_at="step"), WorkerLost),
        (fake("load fails", fail_load="error"), ModelUnavailable),
        (whisper(tmp_path / "cut"), ModelUnavailable),
    ]
    async with pool_of(bystander, *(d for d, _ in faults), policy=HANGING) as pool:
        await pool.load("bystander")
        before = pid_of(pool, "bystander")
        long = asyncio.create_task(text_of(pool, bystander, audio(1)), name="test")
        told = await asyncio.gather(*(outcome(pool, d) for d, _ in faults))
        assert {d.name: got for (d, _), got in zip(faults, told, strict=True)} == {d.name: kind for d, kind in faults}
        assert await long == "one two"
        assert await text_of(pool, bystander, audio(1)) == "one two"
        assert pid_of(pool, "bystander") == before


async def test_truncated_weights_are_named_before_any_process_starts(tmp_path: Path) -> None:
    shutil.copytree(HERE / "data" / "whisper_tiny", tmp_path / "cut")
    with (tmp_path / "cut" / "model.safetensors").open("r+b") as weights:
        weights.truncate(100_000)
    async with pool_of(whisper(tmp_path / "cut")) as pool:
        before = {child.pid for child in psutil.Process().children()}
        with pytest.raises(ModelUnavailable, match=r"model\.safetensors"):
            await ask(pool, whisper(tmp_path / "cut"), audio(1))
        assert {child.pid for child in psutil.Process().children()} <= before
        assert pool.status()["whisper"].state == "absent"


# --- Pulls ------------------------------------------------------------------------------------------------------------


async def check_failed_pull(tmp_path: Path, told: str) -> None:
    """The pull of a model fails for this reason; another one answers meanwhile."""
    other = fake("other")
    async with pool_of(weighty(), other, models_dir=tmp_path) as pool:
        await until(lambda: told in (pool.status()["weighty"].error or ""))
        assert pool.status()["weighty"].state == "absent"
        with pytest.raises(ModelUnavailable, match="other works already"):
            await ask(pool, weighty(), audio(1))
        assert await text_of(pool, other, audio(1)) == "one two"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
async def test_a_disk_that_fills_up_during_a_pull_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself refuses the bytes: the unfinished file is a link to a device without room."""
    with running_hub() as hub:
        data = tensors(200_000)
        hub.repositories[MODEL] = {"model.safetensors": data}
        name = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        parts = tmp_path / "org--model" / PARTS
        parts.mkdir(parents=True)
        (parts / f"{name}.part").symlink_to("/dev/full")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        await check_failed_pull(tmp_path, "is full")


async def test_a_hub_that_is_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_hub() as hub:
        away = hub.url
    monkeypatch.setenv("HF_ENDPOINT", away)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    await check_failed_pull(tmp_path, "The last try failed")


# --- Clocks -----------------------------------------------------------------------------------------------------------


async def test_a_machine_that_slept_blames_no_worker() -> None:
    """Nobody was looked after for longer than a hang lasts, and nobody is killed for it."""
    d = fake(delay=0.05, steps=120)
    async with pool_of(d, policy=HANGING) as pool:
        job = asyncio.create_task(text_of(pool, d, audio(1)), name="test")
        await until(lambda: pool.status()["fake"].jobs_active == 1)
        before = pid_of(pool, "fake")
        time.sleep(HANGING.hang + 0.5)  # noqa: ASYNC251 # the whole gateway stands still
        assert await job == "one two"
        assert pid_of(pool, "fake") == before


async def test_jumps_of_the_wall_clock_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    d = fake(delay=0.02, steps=20, keep_alive=60)
    real = time.time
    async with pool_of(d) as pool:
        await pool.load("fake")
        before = pid_of(pool, "fake")
        for jump in (86_400.0, -86_400.0):
            job = asyncio.create_task(text_of(pool, d, audio(1)), name="test")
            await until(lambda: pool.status()["fake"].jobs_active == 1)
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            assert await job == "one two"
            await asyncio.sleep(2 * QUICK.watch)
        assert pid_of(pool, "fake") == before
