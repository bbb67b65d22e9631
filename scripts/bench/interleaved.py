"""How benchmarks compare: every way once per round, one after the other, so that a noisy machine slows all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def interleaved(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each way measured in each round, after one that does not count. ways: each runs and measures itself."""
    results: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            measured = way()
            if number:
                results[name].append(measured)
    return results
