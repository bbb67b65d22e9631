"""The bounded, fair queue in front of one deployment.

Fair between owners: the owner that got the least work lately is served first. Fair between short and long jobs: within
an owner a short job goes first, but waiting makes a long one lighter, so that none starves. Also predicts how long a
job would wait. Knows no worker; times are seconds on the event loop's clock.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from backends.interface import Request

T = TypeVar("T")

AGEING = 0.5  # seconds of price that a waiting job loses per second
_sequence = itertools.count()


@dataclass(eq=False, slots=True)
class Entry(Generic[T]):
    """A job in the queue. price: predicted seconds; deadline: when waiting longer is pointless; granted: the result;
    request: what to run, None for the backend's canary; request_id: for logs."""

    owner: str
    price: float
    queued_at: float
    deadline: float
    granted: asyncio.Future[T]
    request: Request | None = None
    request_id: str = ""
    number: int = field(default_factory=lambda: next(_sequence))

    def weight(self, now: float) -> tuple[float, int]:
        """Sort key within an owner: the lightest goes first, ties by age."""
        return self.price - AGEING * max(0.0, now - self.queued_at), self.number


class FairQueue(Generic[T]):
    """Entries ordered by owner fairness, then by weight."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Entry[T]]] = {}
        self._served: dict[str, float] = {}  # virtual time per owner: work given, never behind the present
        self._present = 0.0

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._waiting.values())

    def entries(self) -> Iterable[Entry[T]]:
        return itertools.chain.from_iterable(self._waiting.values())

    def push(self, entry: Entry[T]) -> None:
        """Add an entry. An owner that comes back after a pause starts at the present, without credit or debt."""
        if entry.owner not in self._waiting:
            self._served[entry.owner] = max(self._present, self._served.get(entry.owner, 0.0))
        self._waiting.setdefault(entry.owner, []).append(entry)

    def remove(self, entry: Entry[T]) -> bool:
        """Take an entry out. Returns whether it was still waiting."""
        entries = self._waiting.get(entry.owner, [])
        if entry not in entries:
            return False
        entries.remove(entry)
        self._forget(entry.owner)
        return True

    def pop(self, now: float, may_run: Callable[[str], bool] = lambda owner: True) -> Entry[T]:
        """Take out the next entry of an owner that may run one more. Raises IndexError if there is none."""
        owners = [owner for owner in self._waiting if may_run(owner)]
        if not owners:
            raise IndexError("nobody who may run waits in the queue")
        owner = min(owners, key=self._rank)
        entry = min(self._waiting[owner], key=lambda e: e.weight(now))
        self._present = self._served[owner]
        self._served[owner] += entry.price
        self._waiting[owner].remove(entry)
        self._forget(owner)
        return entry

    def expired(self, now: float) -> list[Entry[T]]:
        """Take out every entry whose deadline is over."""
        late = [entry for entry in self.entries() if entry.deadline <= now]
        for entry in late:
            self.remove(entry)
        return late

    def extend(self, seconds: float) -> None:
        """Move all deadlines: waiting for a model to load does not count."""
        for entry in self.entries():
            entry.deadline += seconds

    def prices_before(
        self, owner: str, price: float, now: float, may_run: Callable[[str], bool] = lambda owner: True
    ) -> list[float]:
        """The prices of the jobs that would be served before a new job of this owner and price, in order.

        may_run: of other owners; the jobs of one that may not are passed over.
        """
        probe: Entry[T] = Entry(owner, price, now, now, None)  # type: ignore[arg-type]  # never granted
        copy: FairQueue[T] = FairQueue()
        copy._waiting = {name: list(entries) for name, entries in self._waiting.items()}
        copy._served, copy._present = dict(self._served), self._present
        copy.push(probe)
        prices = []
        while (entry := copy.pop(now, lambda name: name == owner or may_run(name))) is not probe:
            prices.append(entry.price)
        return prices

    def _rank(self, owner: str) -> tuple[float, int]:
        return self._served[owner], min(entry.number for entry in self._waiting[owner])

    def _forget(self, owner: str) -> None:
        """Forget owners without jobs once their debt lies in the past, so that they do not pile up."""
        if not self._waiting[owner]:
            del self._waiting[owner]
        for name in [n for n, served in self._served.items() if n not in self._waiting and served <= self._present]:
            del self._served[name]
        if not self._waiting:
            self._served.clear()
            self._present = 0.0
