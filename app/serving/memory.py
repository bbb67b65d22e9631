"""Who may hold how much memory on which device.

Owns the leases of loaded models and makes room for new ones: idle models go first, those that idle long and load fast
before others; where only busy ones are left, the one that was loaded first finishes its jobs and goes, once it had its
time. The same happens when models that are loaded have grown over the budget. Nobody with running jobs is ever
unloaded.
Knows models only as holders of leases. Sizes are bytes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from app.errors import OutOfMemory
from app.serving.notifier import Notifier
from app.serving.policy import Policy

_log = structlog.get_logger("pool")


class Holder(Protocol):
    """A model that holds, or wants to hold, a lease."""

    idle_since: float
    loaded_at: float
    load_seconds: float

    @property
    def name(self) -> str: ...

    @property
    def draining(self) -> bool: ...

    @property
    def worker(self) -> object | None: ...

    @property
    def pinned(self) -> bool: ...

    @property
    def active(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    async def unload(self, reason: str) -> bool: ...

    def ask_to_drain(self, drain: bool) -> None: ...


@dataclass(eq=False, slots=True)
class Lease:
    """Memory of a device that belongs to one holder. size: bytes; reserved: bytes it is known to need at work, held
    from the start."""

    holder: Holder
    device: str
    size: int
    reserved: int = 0


class MemoryManager:
    """Leases of all loaded models, and the waiting for more memory."""

    def __init__(self, budget: Callable[[str], int], policy: Policy, clock: Callable[[], float]) -> None:
        self._budget, self._policy, self._clock = budget, policy, clock
        self._leases: list[Lease] = []
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changed = Notifier()

    def used(self, device: str) -> int:
        return sum(lease.size for lease in self._leases if lease.device == device)

    def room(self, lease: Lease) -> int:
        """Bytes that the holder of a lease may occupy: its lease and what nobody else holds."""
        return max(lease.size, self._budget(lease.device) - self.used(lease.device) + lease.size)

    def refresh(self) -> None:
        """Look again: something about a holder has changed."""
        self._changed.notify()

    async def acquire(self, holder: Holder, device: str, size: int, reserved: int = 0) -> Lease:
        """Wait until `size` is free, making room in turn; `reserved` of it is kept whatever is measured.

        Raises OutOfMemory if it cannot become free.
        """
        size, reserved = min(size, self._budget(device)), min(reserved, self._budget(device))
        async with self._locks[device]:
            if not await self._make_room(f"to make room for {holder.name}", device, size):
                raise self._no_room(holder, device, size)
            lease = Lease(holder, device, size, reserved)
            self._leases.append(lease)
            return lease

    async def free_memory(self, device: str) -> None:
        """Make room after models have grown over the budget, until all that are left fit."""
        if self._locks[device].locked():
            self._changed.notify()  # whoever makes room already sees the new figures
            return
        async with self._locks[device]:
            await self._make_room(f"because {device} is over its budget", device, 0)

    async def _make_room(self, why: str, device: str, size: int) -> bool:
        """Evict until `size` is free; False if that cannot be. No model is unloaded when no other needs the memory."""
        asked: list[Holder] = []
        end = self._clock() + self._policy.memory_wait
        try:
            while self.used(device) + size > self._budget(device):
                if await self._evict_one(device, f"evicted {why}"):
                    continue
                others = [holder for holder in self._holders(device) if not holder.pinned]
                if not others or (not size and len(others) == 1) or self._clock() >= end:
                    return False
                pause = self._ask_one(others, asked)
                await self._changed.wait(min(pause, end - self._clock()))
        finally:
            for other in asked:
                other.ask_to_drain(False)
        return True

    async def _evict_one(self, device: str, reason: str, spared: Holder | None = None) -> bool:
        """Unload the idle model that is missed least; False if none is idle."""
        now = self._clock()
        idle = [h for h in self._holders(device) if h is not spared and self._is_idle(h)]
        for victim in sorted(idle, key=lambda h: (now - h.idle_since) / max(h.load_seconds, 0.1), reverse=True):
            if await victim.unload(reason):
                return True
        return False

    def _holders(self, device: str) -> list[Holder]:
        return [lease.holder for lease in self._leases if lease.device == device]

    @staticmethod
    def _is_idle(holder: Holder) -> bool:
        free = holder.worker is not None and not holder.active and not holder.pinned
        return free and (holder.draining or not holder.waiting)

    def _ask_one(self, others: list[Holder], asked: list[Holder]) -> float:
        """Ask the model that is loaded longest to drain. Returns the seconds until it is useful to check again."""
        if any(other.draining for other in others):
            return self._policy.memory_wait
        loaded = [other for other in others if other.worker is not None]
        if not loaded:
            return self._policy.memory_wait  # they are loading or ending, and notify when that is over
        oldest = min(loaded, key=lambda h: h.loaded_at)
        left = oldest.loaded_at + self._policy.residency - self._clock()
        if left > 0:
            return left
        oldest.ask_to_drain(True)
        asked.append(oldest)
        _log.info("pool.asked_to_drain", deployment=oldest.name, active=oldest.active)
        return 0.0 if not oldest.active else self._policy.memory_wait

    def _no_room(self, holder: Holder, device: str, size: int) -> OutOfMemory:
        names = ", ".join(h.name for h in self._holders(device)) or "nobody"
        budget, used = self._budget(device), self.used(device)
        return OutOfMemory(
            f"{holder.name} needs {size} bytes on {device}; of {budget} bytes {used} are held by {names}.",
            retry_after=10.0,
        )

    async def settle(self, lease: Lease, measured: int) -> bool:
        """After a load: book what was measured, evict idle others for what was not asked for; False if that is not
        enough.

        A model that holds no more than its lease stays, also while others hold more than theirs. One that
        holds more, while all others work, has to go: what it holds is known now, and room can be made for that.
        """
        asked = lease.size
        self.measured(lease, measured)
        if measured <= asked:
            return True
        budget, reason = self._budget(lease.device), f"evicted to make room for {lease.holder.name}"
        while self.used(lease.device) > budget and await self._evict_one(lease.device, reason, spared=lease.holder):
            pass
        return self.used(lease.device) <= budget

    def measured(self, lease: Lease, size: int) -> bool:
        """Book what a model really holds. Returns whether the device is still within its budget."""
        lease.size = max(size, lease.reserved)
        return self.used(lease.device) <= self._budget(lease.device)

    async def clear(self, device: str, holder: Holder) -> None:
        """Evict every idle model of a device but one."""
        while await self._evict_one(device, f"evicted to make room for {holder.name}", spared=holder):
            pass

    def release(self, lease: Lease) -> None:
        """Return a lease whose process has ended."""
        if lease in self._leases:
            self._leases.remove(lease)
        self._changed.notify()
