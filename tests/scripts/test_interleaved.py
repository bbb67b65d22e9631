"""Benchmarks take turns."""

from __future__ import annotations

from scripts.bench.interleaved import interleaved


def test_all_take_turns_and_the_first_round_does_not_count() -> None:
    began: list[str] = []

    def way(name: str) -> float:
        began.append(name)
        return float(len(began))

    results = interleaved({"a": lambda: way("a"), "b": lambda: way("b")}, 2)
    assert began == ["a", "b"] * 3
    assert results == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
