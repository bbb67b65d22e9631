"""What this process has sent to which replica and not got back: the routers of all its handles count here.

A module of its own, because Serve pickles a router's module by value and would give each router a count of its own.
Knows no Ray. Routers run in one thread of Serve's.
"""

from __future__ import annotations

import time

_CHOSEN_SECONDS = 10.0  # after which a call that was never sent counts no longer
_SUSPECT_SECONDS = 15.0  # Serve looks every 10 s whether a replica lives; until then it offers one that is dead
_MOST_ENDED = 1000  # calls whose replica is remembered: that one failed is known only after its end


class Board:
    """Calls that are under way. call: Serve's id of it; replica: Serve's id of the replica."""

    def __init__(self) -> None:
        self._sent: dict[str, str] = {}
        self._chosen: dict[str, tuple[str, float]] = {}
        self._ended: dict[str, str] = {}
        self._failed: dict[str, float] = {}

    def choose(self, call: str, replica: str) -> None:
        """Count a call from the moment of the choice: the next one is routed before this one is sent."""
        self._chosen[call] = replica, time.monotonic()

    def send(self, call: str, replica: str) -> None:
        self._chosen.pop(call, None)
        self._sent[call] = replica

    def end(self, call: str) -> None:
        self._chosen.pop(call, None)
        if (replica := self._sent.pop(call, None)) is not None:
            self._ended[call] = replica
            if len(self._ended) > _MOST_ENDED:
                del self._ended[next(iter(self._ended))]

    def fail(self, call: str) -> None:
        """Remember that a call broke off: its replica may be dead, and without jobs it looks like the best one."""
        if (replica := self._sent.get(call) or self._ended.get(call)) is not None:
            self._failed[replica] = time.monotonic()

    def is_suspect(self, replica: str) -> bool:
        failed = self._failed.get(replica)
        if failed is not None and time.monotonic() - failed > _SUSPECT_SECONDS:
            del self._failed[replica]
        return replica in self._failed

    def under_way(self, replica: str) -> int:
        now = time.monotonic()
        for call in [call for call, (_, at) in self._chosen.items() if now - at > _CHOSEN_SECONDS]:
            del self._chosen[call]
        chosen = sum(one == replica for one, _ in self._chosen.values())
        return chosen + sum(one == replica for one in self._sent.values())


def rank(running: int, slots: int, factor: float, *, suspect: bool = False) -> tuple[bool, bool, float]:
    """Sort key of a replica for one more job: those that are not suspected of being dead first, then those with a free
    slot, then by the time that it would take.

    factor: seconds of work per second of audio. Jobs of one batch slow each other down, so of two
    equal machines the emptier one is the faster.
    """
    return suspect, running >= slots, max(factor, 1e-6) * (1 + running / max(1, slots))


BOARD = Board()
