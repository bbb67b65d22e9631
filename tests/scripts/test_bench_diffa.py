"""The DIFFA benchmark on a model of a few kilobytes: its exact mode must equal its own reference."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

import pytest

from backends.diffa.llada import LladaConfig
from backends.transformer.config import TransformerConfig
from backends.transformer.rope import Rope

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_diffa.py"
TINY = LladaConfig(TransformerConfig(2, 64, 4, 4, 16, 96, max_positions=1024, rope=Rope(500_000.0)), 512, False)


def test_it_measures_every_mode_and_is_exact() -> None:
    bench = runpy.run_path(str(SCRIPT))
    options = argparse.Namespace(size="tiny", device="cpu", dtype="float32", threads=1, rounds=1, reference=True)
    told = bench["measure"](TINY, options)
    assert told["exact_mode_equals_reference"] is True
    modes = {f"{mode} {name}" for mode in ("none", "prefix", "dual") for name in ("fixed", "three tokens per step")}
    assert set(told["answers"]) == modes | {"reference fixed"}


def test_an_answer_is_the_sum_of_its_steps() -> None:
    total = runpy.run_path(str(SCRIPT))["answer_seconds"]
    seconds = {"none": 3.0, "refresh": 4.0, "dual": 1.0} | {f"prefix{block}": 2.0 - block / 4 for block in range(4)}
    assert total(seconds, "none", 32) == 4 * 32 * 3.0
    assert total(seconds, "dual", 11) == 4 * 4.0 + 40 * 1.0
    assert total(seconds, "prefix", 32) == pytest.approx(4 * 4.0 + 31 * (2.0 + 1.75 + 1.5 + 1.25))
