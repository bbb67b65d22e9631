"""Memory of answers that their clients have not read yet, by owner, and whether an owner may have one more begun.

A model speaks faster than a client reads: what it has said waits in the gateway. No answer that has begun is cut for
that; instead the owner's next job begins only once it has read on. Knows no job and no connection.
"""

from __future__ import annotations

from collections.abc import Callable

from app.serving.shares import FairShares

_FLOOR = 8  # an owner that holds less than this part of the cap is never refused because of what others hold


class UnreadAnswers:
    """How many bytes each owner's answers hold. cap: for all together; fair: there are several owners, and one may have
    half of it."""

    def __init__(self, cap: int, *, fair: bool) -> None:
        self._shares = FairShares(cap, reserve=cap // 2 if fair else 0, floor=cap // _FLOOR if fair else 0)
        self._listeners: list[Callable[[], None]] = []
        self._refused = False  # somebody, since bytes were read last

    @property
    def held(self) -> int:
        return self._shares.held

    def when_read(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever an owner that was refused may be allowed now."""
        self._listeners.append(callback)

    def may_begin(self, owner: str) -> bool:
        """Whether one more answer of the owner may begin. How large it gets is not known, so it may exceed the cap."""
        own = self._shares.held_by(owner)
        allowed = own < self._shares.floor or (self._shares.held < self._shares.cap and self._shares.has_room(owner, 0))
        self._refused = self._refused or not allowed
        return allowed

    def count(self, owner: str, change: int) -> None:
        """Add `change` bytes to what the owner's answers hold; below 0: so many were read, or are dropped."""
        if change >= 0:
            self._shares.take(owner, change)
            return
        self._shares.give_back(owner, -change)
        if self._refused:
            self._refused = False
            for callback in self._listeners:
                callback()
