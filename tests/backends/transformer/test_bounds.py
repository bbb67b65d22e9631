"""What a configuration may ask for is limited before anything is built."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from backends.transformer.bounds import MOST_LAYERS, check_positive, check_size, check_sizes, check_stack
from backends.transformer.config import TransformerConfig
from backends.transformer.rope import Llama3Scaling, Rope

STACK = TransformerConfig(2, 64, 4, 2, 16, 128)


@pytest.mark.parametrize("value", [0, -1, 513, 10**9, True, 2.0, "2", None, math.nan])
def test_sizes_are_whole_numbers_within_bounds(value: object) -> None:
    with pytest.raises(ValueError, match=r"layers is .*, not a whole number from 1 to 512"):
        check_size("layers", value, MOST_LAYERS)
    assert check_size("layers", 512, MOST_LAYERS) == 512


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, True, "1", None])
def test_factors_are_finite_and_positive(value: object) -> None:
    with pytest.raises(ValueError, match="theta is"):
        check_positive("theta", value)
    assert check_positive("theta", 3) == 3.0


def test_lists_have_an_end() -> None:
    check_sizes("ratios", (2, 3), 10, count=2)
    with pytest.raises(ValueError, match="3 entries"):
        check_sizes("ratios", (2, 3, 4), 10, count=2)


@pytest.mark.parametrize(
    "changed",
    [
        {"layers": 10**9},
        {"width": 0},
        {"heads": 10**6},
        {"kv_heads": 3},
        {"head_dim": 15},
        {"hidden": 2**40},
        {"max_positions": 2**40},
        {"norm_eps": math.nan},
        {"rope": Rope(math.inf)},
        {"rope": Rope(1e4, Llama3Scaling(0.0, 1.0, 4.0, 8192.0))},
    ],
)
def test_stacks_that_cannot_be_built_are_refused(changed: dict[str, object]) -> None:
    assert check_stack(STACK) is STACK
    with pytest.raises(ValueError, match="the model's"):
        check_stack(replace(STACK, **changed))  # type: ignore[arg-type]


def test_a_long_value_is_not_repeated_whole() -> None:
    with pytest.raises(ValueError, match=r"\.\.\.") as told:
        check_size("width", "x" * 100_000, 10)
    assert len(str(told.value)) < 200
