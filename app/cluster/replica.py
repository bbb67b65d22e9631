"""One replica of a deployment: today's pool with that deployment alone, and its worker process as the child.

The worker, its step loop, the memory lease and what is tried after running out of memory are those of a single machine.
Waiting jobs stay in the gateways; only what can start at once comes here. Owns the stream of one job's reports, and
what Serve is told for routing and scaling. Knows no Ray, so that it can be tried without.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from app import logs
from app.cluster.autoscaling import IN_USE, QUEUED_SECONDS, SLOTS
from app.cluster.calls import SIGN_OF_LIFE, Report
from app.cluster.settings import version_of
from app.cluster.shared_weights import copy_missing
from app.cluster.wire import Arrays, failure_of, unpack
from app.config.deployments import Deployments
from app.config.settings import Settings
from app.errors import ApiError, ModelUnavailable, WorkerLost
from app.media.files import SampleFiles
from app.metrics import Metrics
from app.serving.pool import WorkerPool
from backends import frames, messages
from backends.interface import BackendError, Done, Event, Failed
from backends.weights import required_models

_log = structlog.get_logger("replica")

_QUEUE_VALID_SECONDS = 10.0  # a gateway that was silent for so long has no queue any more
_CANARY_SECONDS = 30.0
_BY_FILE_BYTES = 1_000_000  # longer audio goes to the worker as a mapped file instead of through its pipe
_SICK_CHECKS = 3  # failed looks in a row after which Serve is to replace the replica
_DRAIN_SECONDS = 5.0


class ReplicaPool(WorkerPool):
    """A pool that computes with no more cores than the replica was given."""

    cores = 1

    async def _look_for_devices(self, known: asyncio.Event) -> None:
        await super()._look_for_devices(asyncio.Event())
        self._devices.limit_cores(self.cores)
        known.set()


class ModelReplica:
    """What Serve runs, see `app.cluster.served`. Methods without an underscore are called from other machines."""

    def __init__(self, settings: Mapping[str, Any], name: str, replica: str = "") -> None:
        """settings: without keys and without the other deployments, see `application.settings_of_replica`."""
        parsed = Settings.model_validate(settings)
        self._version = version_of(settings)
        logs.configure(parsed.log)
        self._deployment = Deployments.from_settings(parsed)[name]
        self._name, self._replica = name, replica or f"{platform.node()}:{os.getpid()}"
        self._files = SampleFiles()
        self._running: Counter[str] = Counter()
        self._queues: dict[str, tuple[float, float]] = {}  # gateway -> seconds of work, and when it told
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sick = 0
        self._weights_from, self._models_dir = parsed.cluster.weights_from, Path(parsed.models_dir)
        self._pool = ReplicaPool(parsed, {name: self._deployment}, Metrics())
        self._pool.cores = max(1, int(self._deployment.cluster.cpus))

    async def start(self) -> None:
        """Load the model. Raises ApiError if it cannot be loaded; then nothing of it is left."""
        await self._copy_weights()
        await self._pool.start()
        try:
            await self._load()
        except BaseException:
            await self.close()
            raise

    async def _copy_weights(self) -> None:
        """From the folder that the machines share, where one is configured. Raises ApiError."""
        deployment = self._deployment
        if not self._weights_from:
            return
        models = required_models(deployment.info, deployment.model, deployment.revision, deployment.options)
        try:
            await asyncio.to_thread(copy_missing, Path(self._weights_from), models, self._models_dir)
        except BackendError as error:
            raise ModelUnavailable(str(error)) from error

    async def _load(self) -> None:
        """Load, after the weights have come if they are being fetched."""
        while True:
            try:
                await self._pool.load(self._name)
            except ModelUnavailable as error:
                if self._pool.status()[self._name].state != "pulling":
                    raise
                _log.info("replica.waits_for_weights", deployment=self._name, message=error.message)
                await asyncio.sleep(1.0)
            else:
                return

    # --- Jobs --------------------------------------------------------------------------------------------------------

    async def run(self, gateway: str, request_id: str, frame: bytes, *arrays: NDArray[Any]) -> AsyncIterator[bytes]:
        """Run one job. Yields frames of its reports as they come, several in one message where they come quickly, and
        b"" at the beginning and as a sign of life."""
        stream = _Stream()
        job = asyncio.create_task(self._job(stream, request_id, frame, arrays), name=f"job {request_id}")
        self._running[gateway] += 1
        try:
            yield b""
            async for message in stream:
                yield message
        finally:
            self._running[gateway] -= 1
            job.cancel()
            await asyncio.wait({job})

    async def _job(self, stream: _Stream, request_id: str, frame: bytes, arrays: Arrays) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                events = self._events(request_id, frame, await self._as_files(stack, arrays))
                async for event in events:
                    stream.put(event)
        except ApiError as error:
            stream.put(failure_of(error))
            if isinstance(error, WorkerLost):
                self._background(self._load())  # at once, not with the next job
        except Exception:
            _log.exception("replica.job_failed", deployment=self._name, request_id=request_id)
            stream.put(Failed("internal", "the replica failed"))
        finally:
            stream.close()

    async def _events(
        self, request_id: str, frame: bytes, arrays: Sequence[NDArray[Any]]
    ) -> AsyncIterator[Event | messages.JobStarted]:
        """The events of the job, behind the worker's acceptance."""
        request = unpack(frame, arrays)
        if request is None:
            await self._pool.canary(self._deployment, _CANARY_SECONDS)
            yield messages.JobStarted(0)
            yield Done()
            return
        async with self._pool.admit(self._deployment, owner="cluster", request_id=request_id) as reservation:
            events = await reservation.run(request)
            yield messages.JobStarted(0, reservation.notes)
            async for event in events:
                yield event

    async def _as_files(self, stack: contextlib.AsyncExitStack, arrays: Arrays) -> list[NDArray[Any]]:
        """The arrays, the long ones as maps of files that live as long as the stack."""
        return [await self._as_file(stack, one) if one.nbytes > _BY_FILE_BYTES else one for one in arrays]

    async def _as_file(self, stack: contextlib.AsyncExitStack, array: NDArray[Any]) -> NDArray[Any]:
        file = self._files.new()
        stack.callback(file.close)
        samples = np.ascontiguousarray(array, np.float32)
        await asyncio.to_thread(file.path.write_bytes, samples.data.cast("B"))
        return file.map(len(samples))

    def _background(self, work: Any) -> None:
        task = asyncio.create_task(work, name=f"load of {self._name}")
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("replica.load_failed", deployment=self._name, error=str(error))

    # --- What it tells -----------------------------------------------------------------------------------------------

    async def exchange(self, gateway: str, queued_seconds: float) -> Report:
        """Hear how much work waits at a gateway, and tell how it is here."""
        self._queues[gateway] = queued_seconds, time.monotonic()
        return await self.report()

    async def report(self) -> Report:
        status = self._pool.status()[self._name]
        capabilities = self._pool.capabilities(self._deployment)
        loaded = frames.encode(messages.Loaded(capabilities, 0.0, 0.0)) if capabilities else b""
        return Report(
            replica=self._replica,
            node=platform.node(),
            pid=os.getpid(),
            slots=self._slots,
            running=+self._running,
            loaded=loaded,
            state=status.state,
            memory_bytes=status.footprint_bytes,
            factor=status.real_time_factor,
            version=self._version,
            devices=[msgspec.to_builtins(device) for device in self._pool.devices()],
        )

    @property
    def _slots(self) -> int:
        return self._pool.slots(self._name)

    async def record_routing_stats(self) -> dict[str, Any]:
        factor = self._pool.status()[self._name].real_time_factor
        return {"slots": self._slots, "running": self._running.total(), "factor": factor}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        now = time.monotonic()
        queued = sum(seconds for seconds, at in self._queues.values() if now - at < _QUEUE_VALID_SECONDS)
        return {SLOTS: float(self._slots), IN_USE: float(self._running.total()), QUEUED_SECONDS: queued}

    async def check_health(self) -> None:
        """Raise once the worker could not be loaded several times: Serve then makes another replica."""
        status = self._pool.status()[self._name]
        well = status.state in ("ready", "busy", "loading")
        self._sick = 0 if well else self._sick + 1
        if not well:
            self._background(self._load())
        if self._sick >= _SICK_CHECKS:
            raise RuntimeError(f"{self._name} does not load: {status.error}")

    # --- The end -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End the worker. Serve has waited for the jobs before."""
        await self._pool.drain(_DRAIN_SECONDS)
        self._files.close()


class _Stream:
    """Frames that wait to be sent, joined; iterating gives b"" after a silence, and ends after `close`."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._news = asyncio.Event()
        self._over = False

    def put(self, told: Event | messages.JobStarted) -> None:
        self._waiting += frames.encode(told if isinstance(told, messages.JobStarted) else messages.JobEvent(0, told))
        self._news.set()

    def close(self) -> None:
        self._over = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self._over or self._waiting:
            try:
                async with asyncio.timeout(SIGN_OF_LIFE):
                    await self._news.wait()
            except TimeoutError:
                yield b""
                continue
            message, self._waiting = bytes(self._waiting), bytearray()
            self._news.clear()
            if self._over and not message:
                return
            if self._over:
                self._news.set()
            yield message
