"""What is done when a model runs out of memory at work: less at once and no idle neighbours, then the CPU.

Owns these steps and the suspicion that an out-of-memory error left a leak behind. Knows the supervisor only as the one
who is asked to drain and unload. Sizes are bytes.
"""

from __future__ import annotations

from typing import Protocol

import structlog

from app.serving.loading import Loader, PoolServices
from app.serving.memory import Holder
from app.serving.notifier import Notifier
from app.serving.worker import Worker

_log = structlog.get_logger("pool")


class Recovering(Holder, Protocol):
    """A model that can run out of memory."""

    changed: Notifier

    @property
    def worker(self) -> Worker | None: ...

    @property
    def live_active(self) -> int: ...

    @property
    def slots(self) -> int: ...


class Recovery:
    """Makes room for one model after it ran out of memory, and notices when the memory does not come back."""

    def __init__(self, model: Recovering, loader: Loader, services: PoolServices) -> None:
        self._model, self._loader, self._services = model, loader, services
        self._baseline = 0  # bytes after the load
        self._ran_out = False  # since the load

    def loaded(self, size: int) -> None:
        """Take `size` as what the model needs when it is idle."""
        self._baseline, self._ran_out = size, False

    def has_leaked(self, size: int) -> bool:
        """Whether an idle model still holds more than it did before it ran out of memory; True once."""
        suspected, self._ran_out = self._ran_out, False
        return suspected and size > self._baseline * (1 + self._services.policy.slack)

    async def recover(self, attempt: int) -> bool:
        """Make room after a job ran out of memory: first fewer jobs per step and no idle models, then the CPU, unless
        live jobs run, for whose end nobody can wait.

        attempt: 1 for the first time; returns False if nothing is left to try.
        """
        _log.warning("pool.out_of_memory", deployment=self._model.name, at="work", attempt=attempt)
        if attempt == 1:
            await self._make_space()
            return True
        return attempt == 2 and not self._model.live_active and await self._replace_on_cpu()

    async def _make_space(self) -> None:
        """Run half as many jobs per step from now on, and evict everyone idle from the device."""
        self._ran_out = True
        self._loader.batch_limit = max(1, self._model.slots // 2)
        if self._model.worker is not None:
            self._model.worker.limit_batch(self._loader.batch_limit)
        if self._loader.placement is not None:
            await self._services.memory_manager.clear(self._loader.placement.device, self._model)

    async def _replace_on_cpu(self) -> bool:
        """Let running jobs end, then go on on the CPU. False if that is not allowed."""
        device = self._loader.placement.device if self._loader.placement else "the device"
        if not self._loader.move_to_cpu(f"{device} ran out of memory at work"):
            return False
        self._model.ask_to_drain(True)
        while self._model.worker is not None and not await self._model.unload("moves to the CPU"):
            await self._model.changed.wait()
        self._model.ask_to_drain(False)
        return True
