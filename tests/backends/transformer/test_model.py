"""The stack against transformers' Llama, and every pattern of attention against the plain one."""

import warnings

import pytest
import torch

from backends.transformer.attention import GraphStep, KVCache, Rewrite, Span, Step, Whole
from backends.transformer.checkpoint import Checkpoint, llama_names
from backends.transformer.linear import precision
from backends.transformer.model import Transformer
from tests.backends.transformer.stacks import FLOAT, FULL_HEADS, SMALL, embeddings, random_tensors, stack

with warnings.catch_warnings():  # torchao, which transformers imports where it is installed, warns while it is compiled
    warnings.simplefilter("ignore")
    from transformers import LlamaConfig, LlamaModel


def test_equals_transformers_llama() -> None:
    rename = llama_names("")
    tensors = {rename(name): tensor for name, tensor in random_tensors(SMALL).items()}
    oracle = LlamaModel(
        LlamaConfig(
            vocab_size=10,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            rms_norm_eps=1e-5,
            max_position_embeddings=64,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        )
    ).eval()
    oracle.load_state_dict(tensors, strict=False)
    ours = Transformer(SMALL, Checkpoint.from_tensors(tensors).reader(rename), precision=FLOAT)
    x = embeddings(2, 40)
    with torch.inference_mode():
        expected = oracle(inputs_embeds=x).last_hidden_state
    assert torch.allclose(ours(x, Whole(40, causal=True)), expected, atol=1e-4)


def test_prefill_and_steps_equal_the_whole() -> None:
    model, x = stack(), embeddings(1, 20)
    cache = KVCache(SMALL, slots=2)
    rows = [model(x[:, :7], Span(cache, 1, 7, causal=True)), model(x[:, 7:11], Span(cache, 1, 4, 7, causal=True))]
    rows += [model(x[:, i : i + 1], Step(cache, [1], [i])) for i in range(11, 20)]
    assert torch.allclose(torch.cat(rows, 1), model(x, Whole(20, causal=True)), atol=1e-5)


def test_steps_at_different_positions_equal_each_alone() -> None:
    model = stack()
    lengths = [3, 9, 5]
    x = [embeddings(1, length + 1, seed=length) for length in lengths]
    cache = KVCache(SMALL, slots=4)
    for slot, rows in enumerate(x):
        model(rows[:, :-1], Span(cache, slot, rows.shape[1] - 1, causal=True))
    together = model(torch.cat([rows[:, -1:] for rows in x]), Step(cache, [0, 1, 2], lengths))
    for row, rows in zip(together, x, strict=True):
        assert torch.allclose(row, model(rows, Whole(rows.shape[1], causal=True))[0, -1:], atol=1e-5)


def test_lockstep_equals_each_alone() -> None:
    model, x = stack(), embeddings(3, 6)
    cache = KVCache(SMALL, slots=3)
    steps = [model(x[:, i : i + 1], Step(cache, [0, 1, 2], [i] * 3)) for i in range(6)]
    assert torch.allclose(torch.cat(steps, 1), model(x, Whole(6, causal=True)), atol=1e-5)


def test_graph_step_equals_step() -> None:
    model, x = stack(), embeddings(2, 12)
    plain, graphed = KVCache(SMALL, slots=3), KVCache(SMALL, slots=3)
    for cache in (plain, graphed):
        model(x[:1, :11], Span(cache, 0, 11, causal=True))
        model(x[1:, :4], Span(cache, 1, 4, causal=True))
    rows = torch.stack([x[0, 11:12], x[1, 4:5]])
    expected = model(rows, Step(plain, [0, 1], [11, 4]))
    assert torch.allclose(model(rows, GraphStep(graphed, torch.tensor([11, 4]), 16)), expected, atol=1e-5)
    assert torch.allclose(graphed.k[1][0, :, 11], plain.k[1][0, :, 11], atol=1e-5)


def test_bidirectional_block_with_remembered_rest() -> None:
    """Overwriting rows whose inputs did not change gives what the whole pass gave, by a span and by positions."""
    model, x = stack(FULL_HEADS), embeddings(2, 16)
    cache = KVCache(FULL_HEADS, slots=2)
    whole = model(x, Whole(16, causal=False))
    assert torch.allclose(model(x, Span(cache, 0, 16, causal=False, count=2)), whole, atol=1e-5)
    block = model(x[:, 4:9], Span(cache, 0, 5, 4, causal=False, count=2, length=16))
    assert torch.allclose(block, whole[:, 4:9], atol=1e-5)
    where = torch.tensor([1, 8, 15])
    assert torch.allclose(model(x[:, where], Rewrite(cache, 0, where, 16, count=2)), whole[:, where], atol=1e-5)


def test_bidirectional_rows_see_what_was_overwritten() -> None:
    model, x = stack(FULL_HEADS), embeddings(1, 10)
    cache = KVCache(FULL_HEADS, slots=1)
    before = model(x, Span(cache, 0, 10, causal=False))
    changed = x.clone()
    changed[:, 3:5] += 1
    after = model(changed[:, 3:5], Span(cache, 0, 2, 3, causal=False, length=10))
    assert not torch.allclose(after, before[:, 3:5], atol=1e-3)


def test_mask_hides_padding() -> None:
    model, x = stack(FULL_HEADS), embeddings(1, 8)
    mask = (torch.arange(8) < 5).view(1, 1, 1, 8)
    padded = model(x, Whole(8, causal=False, mask=mask))[:, :5]
    assert torch.allclose(padded, model(x[:, :5], Whole(5, causal=False)), atol=1e-5)
    causal = model(x, Whole(8, causal=True, mask=mask))[:, :5]
    assert torch.allclose(causal, model(x[:, :5], Whole(5, causal=True)), atol=1e-5)


@pytest.mark.parametrize(("kind", "rows"), [("int8", 0), ("float32", 4), ("bfloat16", 4)])
def test_a_slot_computes_the_same_bits_alone_and_beside_others(kind: str, rows: int) -> None:
    model = stack(SMALL, precision(kind), rows)
    x = embeddings(4, 9)

    def run(slots: list[int]) -> torch.Tensor:
        cache = KVCache(SMALL, slots=4, dtype=model.dtype)
        for slot in slots:
            model(x[slot : slot + 1, : 4 + slot], Span(cache, slot, 4 + slot, causal=True))
        steps = [model(x[slots, 8:9], Step(cache, slots, [4 + slot + step for slot in slots])) for step in range(3)]
        return torch.cat(steps, 1)

    together = run([0, 1, 2, 3])
    for slot in range(4):
        assert torch.equal(run([slot])[0], together[slot])


@pytest.mark.parametrize(("kind", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02), ("int8", 0.1)])
def test_other_number_formats_are_near_float32(kind: str, tolerance: float) -> None:
    x = embeddings(2, 12)
    exact = stack()(x, Whole(12, causal=True))
    near = stack(SMALL, precision(kind))(x, Whole(12, causal=True)).float()
    assert (near - exact).abs().max() < tolerance * exact.abs().max()


def test_positions_beyond_the_cache_are_refused() -> None:
    cache = KVCache(SMALL, slots=1, length=8)
    with pytest.raises(ValueError, match="cache of 8"):
        Span(cache, 0, 9, causal=True)
    with pytest.raises(ValueError, match="cache of 8"):
        Step(cache, [0], [8])


def test_slots_are_taken_and_given_back() -> None:
    cache = KVCache(SMALL, slots=2, length=4)
    assert [cache.take(), cache.take(), cache.free] == [0, 1, 0]
    cache.give_back(0)
    assert cache.take() == 0
    cache.give_back(1)
    with pytest.raises(ValueError, match="already free"):
        cache.give_back(1)


def test_saved_prefix_serves_another_slot() -> None:
    model, x = stack(), embeddings(1, 9)
    cache = KVCache(SMALL, slots=3)
    model(x[:, :6], Span(cache, 0, 6, causal=True))
    cache.restore(2, cache.saved(0, 6))
    cache.copy_prefix(0, 1, 6)
    expected = model(x, Whole(9, causal=True))[:, 6:]
    for slot in (1, 2):
        assert torch.allclose(model(x[:, 6:], Span(cache, slot, 3, 6, causal=True)), expected, atol=1e-5)


def test_footprint_counts_matrices_and_cache() -> None:
    matrices = 2 * (32 * 64 + 32 * 32 + 128 * 32 + 64 * 32)
    assert stack().bytes() == 4 * matrices
    assert KVCache(SMALL, slots=2, length=8).bytes() == 4 * 2 * 2 * 2 * 2 * 8 * 8
