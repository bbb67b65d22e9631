"""Fair shares of what several owners use at once: nobody can take so much that another owner finds nothing.

`FairShares` counts amounts (bytes, slots of a queue) and refuses; `FairGate` hands out a few slots (decoders) and lets
owners wait in turn. Knows neither what is shared nor how owners are told apart.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import Overloaded


class FairShares:
    """How much of `cap` each owner holds.

    reserve: what is kept for owners that hold little; floor: how much that is. An owner may use everything but the
    reserve, and of the reserve until it holds `floor`. reserve 0: one owner may use the whole.
    """

    __slots__ = ("_held", "cap", "floor", "held", "reserve")

    def __init__(self, cap: int, *, reserve: int = 0, floor: int = 0) -> None:
        self.cap, self.reserve, self.floor = cap, reserve, floor
        self.held = 0
        self._held: Counter[str] = Counter()

    def fit(self, places: int, *, fair: bool) -> None:
        """Hand out so many places, each for a request or a session. fair: a quarter is kept for owners that hold less
        than a sixteenth."""
        self.cap, self.floor = places, max(1, places // 16)
        self.reserve = max(1, places // 4) if fair and places > 1 else 0

    def held_by(self, owner: str) -> int:
        return self._held.get(owner, 0)

    def has_room(self, owner: str, size: int = 1, *, extra: int = 0) -> bool:
        """Whether the owner may hold `size` more. extra: by how much the cap is larger just now."""
        after, cap = self.held + size, self.cap + extra
        return after <= cap and (after <= cap - self.reserve or self.held_by(owner) + size <= self.floor)

    def take(self, owner: str, size: int = 1) -> None:
        """Count it, whether there is room or not: those who may be refused ask `has_room` first."""
        self.held += size
        self._held[owner] += size

    def give_back(self, owner: str, size: int = 1) -> None:
        self.held -= size
        self._held[owner] -= size
        if not self._held[owner]:
            del self._held[owner]  # owners do not pile up


class FairGate:
    """Hands out `slots` at once; whoever finds none waits, and the owners are served in turn.

    most: slots that one owner may have (0: all); waiting: most that wait, in fair shares.
    """

    def __init__(self, slots: int, *, most: int = 0, waiting: FairShares) -> None:
        self._free, self._most, self._waits = slots, most or slots, waiting
        self._inside: Counter[str] = Counter()
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return self._waits.held

    @asynccontextmanager
    async def slot(self, owner: str) -> AsyncIterator[None]:
        """Hold one of the slots for as long as the context lasts. Raises Overloaded where too many wait."""
        await self._enter(owner)
        try:
            yield
        finally:
            self._leave(owner)

    async def _enter(self, owner: str) -> None:
        if self._may_enter(owner) and owner not in self._lines:
            self._admit(owner)
            return
        if not self._waits.has_room(owner):
            raise Overloaded("Too many uploads are waiting to be decoded.", retry_after=2)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(owner, deque()).append(granted)
        self._waits.take(owner)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():  # a slot was handed to us as we were cancelled
                self._leave(owner)
            else:
                self._forget(owner, granted)
            raise
        finally:
            self._waits.give_back(owner)

    def _may_enter(self, owner: str) -> bool:
        return self._free > 0 and self._inside[owner] < self._most

    def _admit(self, owner: str) -> None:
        self._free -= 1
        self._inside[owner] += 1

    def _leave(self, owner: str) -> None:
        self._free += 1
        self._inside[owner] -= 1
        self._inside += Counter()  # drops those at zero
        self._serve()

    def _serve(self) -> None:
        """Let in whoever may enter; an owner that was served goes to the end of the round."""
        while (owner := next((name for name in self._lines if self._may_enter(name)), None)) is not None:
            granted = self._lines[owner].popleft()
            self._lines.move_to_end(owner)
            if not self._lines[owner]:
                del self._lines[owner]
            if not granted.done():
                self._admit(owner)
                granted.set_result(None)

    def _forget(self, owner: str, granted: asyncio.Future[None]) -> None:
        line = self._lines.get(owner)
        if line is not None and granted in line:
            line.remove(granted)
            if not line:
                del self._lines[owner]
