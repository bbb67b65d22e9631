"""Pools over real worker processes with the test double, and a check that they leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from app.config.deployments import Deployment
from app.config.settings import Settings
from app.metrics import Metrics
from app.serving.policy import Policy
from app.serving.pool import WorkerPool
from backends.devices import DeviceManager
from backends.interface import ChatRequest, Done, Event, Message, SpeechRequest, TextPart, TranscriptionRequest
from backends.inventory import Device, Inventory
from backends.registry import backend_info, check_options
from tests.support.waiting import LIMIT

MIB = 1 << 20
# Short pauses, and limits that no busy machine makes a healthy worker miss.
QUICK = Policy(
    hang=LIMIT, load=LIMIT, watch=0.1, first_back_off=0.1, longest_back_off=0.4, residency=0.2, memory_wait=LIMIT
)
# For tests in which something hangs: as short as a healthy worker can keep although other processes want its core.
HANGING = replace(QUICK, hang=4.0)


def fake(name: str = "fake", *, device_preference: tuple[str, ...] = ("cpu",), **keys: Any) -> Deployment:
    """A deployment of the test double; keys of Deployment are taken out of the options."""
    info = replace(backend_info("fake"), device_preference=device_preference)
    own = {k: keys.pop(k) for k in list(keys) if k in Deployment.model_fields}
    return Deployment(name=name, info=info, options=check_options(info, keys), **own)


def machine(budget: Mapping[str, int] | None = None, *, gpu: bool = False, cores: int = 4) -> DeviceManager:
    """A manager of an invented machine, with a CPU and perhaps a GPU, and no ledger on disk."""
    cpu = Device("cpu", "cpu", "invented CPU", 64 << 30, 64 << 30)
    cuda = Device("cuda:0", "cuda", "invented GPU", 8 << 30, 8 << 30, ("float32", "float16", "bfloat16"))
    return DeviceManager(dict(budget) if budget else "auto", inventory=Inventory((cuda, cpu) if gpu else (cpu,), cores))


@asynccontextmanager
async def pool_of(
    *deployments: Deployment,
    policy: Policy = QUICK,
    devices: DeviceManager | None = None,
    limits: Mapping[str, Any] | None = None,
    metrics: Metrics | None = None,
    models_dir: Path = Path("no-models"),
    **keys: Any,
) -> AsyncIterator[WorkerPool]:
    """A started pool; afterwards nothing of it is left: no process, task or open file."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    files = open_files()
    settings = Settings(limits=dict(limits or {}), models_dir=models_dir)  # type: ignore[arg-type]
    pool = WorkerPool(
        settings,
        {d.name: d for d in deployments},
        metrics or Metrics(),
        policy=policy,
        devices=devices or machine(),
        **keys,
    )
    await pool.start()
    try:
        yield pool
    finally:
        await pool.drain(0)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()} if not _foreign(task)] == []
    assert open_files() <= files


def _foreign(task: asyncio.Task[Any]) -> bool:
    """A task that the test itself started."""
    return task.get_name().startswith("test")


def open_files() -> int:
    """Descriptors of this process; 0 where the platform does not list them."""
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0


def audio(seconds: float) -> TranscriptionRequest:
    return TranscriptionRequest(np.zeros(round(16_000 * seconds), np.float32))


def speech(text: str) -> SpeechRequest:
    return SpeechRequest(text, "fake-low")


def chat(text: str, **keys: Any) -> ChatRequest:
    return ChatRequest((Message("user", (TextPart(text),)),), **keys)


async def ask(pool: WorkerPool, deployment: Deployment, request: Any, owner: str = "me") -> list[Event]:
    """All events of one request."""
    async with pool.admit(deployment, owner=owner, request_id="r") as reservation:
        return [event async for event in await reservation.run(request)]


async def text_of(pool: WorkerPool, deployment: Deployment, request: Any, owner: str = "me") -> str:
    last = (await ask(pool, deployment, request, owner))[-1]
    assert isinstance(last, Done)
    return last.text
