"""Compiled loops compute what the plain torch operators do, and give way to them where they do not work."""

from __future__ import annotations

import copy
import logging
import types

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.transformer.attention import KVCache, Span, Step, _grouped
from backends.transformer.block import RMSNorm
from backends.transformer.cpu_int8 import kernels as module
from backends.transformer.cpu_int8.arrays import KVRows
from backends.transformer.cpu_int8.kernels import Picker, kernels
from backends.transformer.cpu_int8.loop_checks import wrong_loop
from backends.transformer.linear import Int8Dynamic, make_linear, precision
from backends.transformer.model import Transformer
from backends.transformer.rope import rotate, rotations
from backends.transformer.sampling import pick
from tests.backends.transformer.stacks import FULL_HEADS, SMALL, embeddings, stack

loops = kernels()
pytestmark = pytest.mark.skipif(loops is None, reason="the compiled loops need numba")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(made: Transformer) -> Transformer:
    """The same stack in torch operators."""
    other = copy.copy(made)
    other._fused = None
    return other


@pytest.mark.parametrize("config", [SMALL, FULL_HEADS], ids=["grouped heads", "full heads"])
def test_steps_and_short_spans_equal_the_plain_stack(config) -> None:
    made = stack(config, precision("int8"))
    assert made._fused is not None
    found = []
    for which in (made, plain(made)):
        cache, x = KVCache(config, 3), embeddings(2, 9)
        hidden = [which(x[:, :3], Span(cache, 1, 3, causal=True, count=2))]
        hidden += [which(x[:, t : t + 1], Step(cache, [1, 2], [t, t])) for t in range(3, 6)]
        hidden += [which(x[:, 6:7], Step(cache, [2, 1], [9, 6]))]
        found.append(
            torch.cat([*(part.flatten() for part in hidden), *(part.flatten() for part in (*cache.k, *cache.v))])
        )
    assert float((found[0] - found[1]).abs().max()) < 1e-4


def test_norm_adds_normalises_and_divides_by_the_peak() -> None:
    x, accumulator, scale, absmax, weight = (
        drawn(3, 37),
        drawn(3, 37, seed=1),
        drawn(37, seed=2),
        drawn(3, seed=3),
        drawn(37, seed=4),
    )
    total = x + accumulator * scale * absmax[:, None]
    expected = RMSNorm(weight, 1e-5)(total)
    arrays = [tensor.clone().numpy() for tensor in (x, accumulator, scale, absmax, weight)]
    workspace, out = np.zeros((3, 41), np.float32), np.zeros((3, 37), np.float32)
    loops.add_norm_out(*arrays, np.float32(1e-5), out)
    loops.add_norm(*arrays, np.float32(1e-5), workspace)
    assert np.allclose(out, expected.numpy(), atol=1e-6)
    assert np.allclose(arrays[0], total.numpy(), atol=1e-6)
    assert np.allclose(workspace[:, :37] * arrays[3][:, None], expected.numpy(), atol=1e-6)
    assert (np.abs(workspace[:, :37]).max(1) == 1.0).all()


def test_gate_is_silu_times_up_from_the_smallest_to_the_largest() -> None:
    gates = torch.tensor([[-1e30, -90.0, -3.0, -1e-3, 0.0, 1e-3, 5.0, 90.0]])
    accumulator, absmax, workspace = (
        torch.cat([gates, torch.full((1, 8), 0.5)], 1),
        np.ones(1, np.float32),
        np.zeros((1, 12), np.float32),
    )
    loops.gate(accumulator.numpy(), np.ones(16, np.float32), absmax, workspace)
    assert np.allclose(workspace[:, :8] * absmax, (torch.nn.functional.silu(gates) * 0.5).numpy(), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("position", [0, 3, 4, 30])
def test_attention_is_that_of_torch(position: int) -> None:
    accumulator, keys, values = drawn(1, 8 * 8), drawn(2, 2, 31, 8, seed=1), drawn(2, 2, 31, 8, seed=2)
    table = rotations(SMALL.rope, 8, 31)
    heads = accumulator.view(1, 1, 8, 8) * 0.5
    turned = rotate(heads[:, :, :6], table[None, position, None])
    expected_keys, expected_values = keys.clone(), values.clone()
    expected_keys[1, :, position], expected_values[1, :, position] = turned[0, 0, 4:], heads[0, 0, 6:]
    used = position + 1
    expected = _grouped(turned[:, :, :4], expected_keys[1:, :, :used], expected_values[1:, :, :used]).flatten()
    absmax, workspace = np.full(1, 0.5, np.float32), np.zeros((1, 36), np.float32)
    rotary, scores = torch.view_as_real(table).flatten(1).numpy(), np.zeros((2, 31), np.float32)
    cache = KVRows(keys.numpy(), values.numpy(), np.array([1]), np.array([position]))
    loops.attend(accumulator.numpy().copy(), np.ones(64, np.float32), absmax, rotary, cache, scores, workspace)
    assert np.allclose(workspace[0, :32] * absmax, expected.numpy(), atol=1e-6)
    assert np.allclose(cache.keys, expected_keys.numpy(), atol=1e-6)
    assert np.array_equal(cache.values, expected_values.numpy())


@pytest.mark.parametrize("top_k", [0, 1, 5, 50, 200])
def test_picks_what_torch_picks(top_k: int) -> None:
    logits, noise = drawn(6, 203), torch.empty(6, 2, 200).exponential_(generator=torch.Generator().manual_seed(1))
    temperature = torch.tensor([0.9, 0.0, 1.3, 1e-45, 0.9, 4.0])
    logits[4, :100] = 3.0  # ties at the cut all stay
    found = Picker(loops, noise, temperature, top_k)(logits, 1)
    assert torch.equal(found, pick(logits[:, :200], noise[:, 1], temperature, torch.full((6,), top_k)))


def test_products_have_the_same_bits_with_and_without_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = drawn(48, 64), drawn(3, 64, seed=1)
    with_loops = make_linear(weight, precision("int8"))
    monkeypatch.setattr("backends.transformer.linear.kernels", lambda: None)
    without = make_linear(weight, precision("int8"))
    assert isinstance(without, Int8Dynamic)
    assert torch.equal(with_loops(x), without(x))


def test_what_does_not_import_is_logged_and_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_name: str) -> None:
        raise ImportError("no module named numba")

    monkeypatch.setattr(module, "import_module", broken)
    with caplog.at_level(logging.WARNING):
        assert kernels.__wrapped__() is None
    assert "no module named numba" in caplog.text


@pytest.mark.parametrize("name", ["add_norm", "add_norm_out", "gate", "attend", "divide", "finish", "pick"])
def test_a_loop_with_a_wrong_result_is_found(name: str) -> None:
    """Off by a thousandth in what it writes last, as a miscompiled sum would be."""

    def wrong(*arguments: object) -> None:
        getattr(loops, name)(*arguments)
        arrays = [argument for argument in arguments if isinstance(argument, np.ndarray) and argument.size > 1]
        written = arrays[0 if name == "finish" else -1]
        written += written.dtype.type(1) if written.dtype.kind == "i" else np.abs(written).max() * np.float32(1e-3)

    found = types.SimpleNamespace(**{**vars(loops), name: wrong})
    assert wrong_loop(loops) == ""
    assert wrong_loop(found) == name.removesuffix("_out")


def test_places_outside_the_cache_are_refused() -> None:
    made, cache = stack(SMALL, precision("int8")), KVCache(SMALL, 2, 70)
    with pytest.raises(IndexError, match="slots"):
        made(embeddings(1, 1), Step(cache, [2], [0]))
    with pytest.raises(ValueError, match="position 65 in a model of 64"):
        made(embeddings(1, 1), Step(cache, [0], [65]))
