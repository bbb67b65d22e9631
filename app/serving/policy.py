"""The pool's times and counts that users do not set; tests shorten them. Seconds unless named otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """hang: without progress of a step, or any sign of life, a worker counts as hung (steps of large models on a CPU
    take many seconds); load: longest load; load_stall: longest time without progress in it; watch: between two checks
    of all workers; first_back_off, longest_back_off: before a worker is started again after repeated crashes or failed
    loads, doubling in between; crashes: in a row, after which waiting jobs are refused; residency: a busy model is not
    asked to make room earlier than this after its load; memory_wait: longest wait for other models to make room; slack:
    the part by which what a model holds differs from one load to the next; most_slack: bytes, the most that is kept
    free for that; availability: how long a check of libraries and weights stays valid."""

    hang: float = 300.0
    load: float = 1800.0
    load_stall: float = 600.0
    watch: float = 1.0
    first_back_off: float = 0.5
    longest_back_off: float = 60.0
    crashes: int = 3
    residency: float = 5.0
    memory_wait: float = 300.0
    slack: float = 0.05
    most_slack: int = 256 << 20
    availability: float = 2.0
    cancel_grace: float = 3.0

    def with_slack(self, size: int) -> int:
        """Bytes to keep for a model that held `size` at most, so that it may hold a little more this time."""
        return size + min(int(self.slack * size), self.most_slack)
