"""When a worker may be started again after crashes and failed loads. Knows no worker; times are seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.serving.policy import Policy


@dataclass(slots=True)
class Backoff:
    """Pauses that double with every failure in a row.

    clock: seconds of the event loop; failures: crashes and failed loads since the last finished job; load_failed:
    whether the last of them was a load; next_try: when the next load may begin, on the clock.
    """

    policy: Policy
    clock: Callable[[], float]
    failures: int = 0
    load_failed: bool = False
    next_try: float = 0.0

    def record_crash(self) -> None:
        """Count a lost worker. The first is replaced at once; the pauses after more of them double."""
        self.load_failed = False
        self._record(doublings=self.failures - 1)

    def record_failed_load(self) -> None:
        """Count a load that failed. Even the first is followed by a pause."""
        self.load_failed = True
        self._record(doublings=self.failures)

    def _record(self, doublings: int) -> None:
        self.failures += 1
        pause = self.policy.first_back_off * 2.0 ** min(30, doublings) if doublings >= 0 else 0.0
        self.next_try = self.clock() + min(self.policy.longest_back_off, pause)

    def record_load(self) -> None:
        """Note a load that succeeded. Crashes still count until a job has finished."""
        self.load_failed = False

    def record_done(self) -> None:
        """Note a finished job: the next crash is the first again."""
        self.failures = 0

    @property
    def remaining(self) -> float:
        """Seconds until the next load may begin; 0 if it may now."""
        return max(0.0, self.next_try - self.clock()) if self.failures else 0.0

    @property
    def refuses(self) -> bool:
        """Whether requests are refused until the next load, instead of waiting for it."""
        return (self.load_failed or self.failures >= self.policy.crashes) and self.remaining > 0
