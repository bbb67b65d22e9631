"""Whole answers: parity with the reference, with an independent loop on other checkpoints, and the rules around
them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backends.diffa.model import load_diffa
from backends.diffa.offload import Offload
from backends.interface import InvalidInput, ModelUnavailable
from tests.backends.diffa.folders import generations, read_tensors, write_llada
from tests.backends.diffa.oracle import Plain

EOS, EOT, MASK = 301, 305, 302


@pytest.mark.parametrize("key", generations())
def test_token_ids_equal_the_reference(model, samples, case, key):
    wanted = generations()[key]
    settings = {name: wanted[name] for name in ("steps", "block_length", "max_new_tokens")}
    settings |= {name: wanted[name] for name in ("cfg_scale", "cache", "threshold", "factor") if name in wanted}
    result = model.answer(samples, case["question"], **settings)
    assert result.token_ids == wanted["token_ids"]
    assert result.prompt_ids == case["prompt_ids"]
    assert result.forward_passes == wanted["steps"] * (2 if wanted.get("cfg_scale") else 1)
    if "text_utf8_lossy" in wanted:
        assert result.text == wanted["text_utf8_lossy"].strip()
        assert model.decode_text(wanted["token_ids"]) == wanted["text_utf8_lossy"].strip()


def test_the_first_logits_equal_the_reference(model, samples, expected):
    logits = model.first_logits(samples, expected["prompt_ids"], int(expected["splice_index"]), 16)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits, expected["first_logits_g16"], atol=2e-3)


def test_bfloat16_is_as_near_to_float32_as_the_reference_in_bfloat16(data, samples, expected):
    model = load_diffa(data / "llm", data / "whisper", data / "adapter", dtype=torch.bfloat16)
    ours = model.first_logits(samples, expected["prompt_ids"], int(expected["splice_index"]), 16)[-16:].numpy()
    exact, reference = expected["first_logits_g16"][-16:], expected["first_logits_g16_bf16_answer_rows"]
    assert np.abs(ours - exact).max() <= 1.2 * np.abs(reference - exact).max()
    assert model.speech_embeddings(samples).dtype == torch.float32


@pytest.fixture(scope="module")
def other(tmp_path_factory, data):
    """Another language model behind the same ears: grouped heads, other width and depth, three shards."""
    root = tmp_path_factory.mktemp("other")
    llm = write_llada(root / "llm", width=64, layers=5, heads=8, kv_heads=2, hidden=144, seed=3)
    return load_diffa(llm, data / "whisper", data / "adapter"), Plain(read_tensors(llm), layers=5, heads=8)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 12, "block": 8, "new": 16},
        {"steps": 12, "block": 4, "new": 12, "cfg": 1.5},
        {"steps": 24, "block": 8, "new": 16},  # more steps than tokens: some commit nothing
        {"steps": 24, "block": 8, "new": 16, "cache": "dual"},
        {"steps": 6, "block": 8, "new": 24, "cache": "prefix", "cfg": 0.5},
        {"steps": 9, "block": 8, "new": 24, "cache": "dual"},
        {"steps": 2, "block": 16, "new": 32, "threshold": 0.2},
        {"steps": 32, "block": 16, "new": 32, "cache": "prefix", "threshold": 0.15},
        {"steps": 32, "block": 8, "new": 32, "cache": "dual", "threshold": 0.9},
        {"steps": 32, "block": 8, "new": 32, "cache": "dual", "threshold": 0.2, "cfg": 0.7},
        {"steps": 32, "block": 16, "new": 32, "cache": "prefix", "factor": 2.0},
        {"steps": 32, "block": 16, "new": 32, "cache": "dual", "factor": 1.0},
        {"steps": 16, "block": 8, "new": 16, "factor": 2.6},
    ],
    ids=str,
)
def test_every_mode_equals_an_independent_loop(other, samples, settings):
    model, oracle = other
    prompt, splice = [300, 84, 32, 97, 303, 115, 304, 58, 256, 262, 77, 305, 303, 304], 8
    wanted = oracle.generate(prompt, splice, model.speech_embeddings(samples), MASK, **settings)
    named = {"block": "block_length", "new": "max_new_tokens", "cfg": "cfg_scale"}
    options = {named.get(name, name): value for name, value in settings.items()}
    result = model.answer(samples, "", prompt_ids=prompt, splice_index=splice, **options)
    assert result.token_ids == wanted
    assert result.forward_passes == oracle.passes
    assert MASK not in result.token_ids


def test_the_confidence_rules_need_fewer_steps(other, samples):
    model, _ = other
    slow = model.answer(samples, "Who?", steps=32, block_length=16, max_new_tokens=32)
    fast = model.answer(samples, "Who?", steps=32, block_length=16, max_new_tokens=32, threshold=0.2)
    assert fast.forward_passes < slow.forward_passes == 32


def test_the_splice_index_decides_where_the_audio_goes(model, samples, case):
    first, second = (model.first_logits(samples, case["prompt_ids"], place, 4) for place in (59, 20))
    assert not torch.allclose(first[-4:], second[-4:], atol=0.1)
    audio_length = len(model.speech_embeddings(samples))
    text = model.first_logits(None, case["prompt_ids"], None, 4)
    assert len(first) == audio_length + len(text)


def test_early_stop_fills_with_the_end_token(model, samples, monkeypatch):
    plain = model.answer(samples, "Hi", steps=32, block_length=8, max_new_tokens=32)
    # An id of the second block plays the end of turn, so the two blocks after it are skipped.
    ender = next(token for token in plain.token_ids[8:16] if token not in plain.token_ids[:8])
    monkeypatch.setattr(model.tokenizer, "eot", ender)
    stopped = model.answer(samples, "Hi", steps=32, block_length=8, max_new_tokens=32, early_stop=True)
    assert stopped.token_ids == plain.token_ids[:16] + [EOS] * 16
    assert stopped.forward_passes == 16
    whole = model.answer(samples, "Hi", steps=32, block_length=8, max_new_tokens=32)
    assert whole.token_ids == plain.token_ids
    assert whole.text == stopped.text == model.tokenizer.decode(plain.token_ids[: plain.token_ids.index(ender)]).strip()


def test_temperature_is_repeatable_by_seed(model, samples):
    settings = {"steps": 8, "block_length": 8, "max_new_tokens": 8, "temperature": 1.0}
    one, again, another = (model.answer(samples, "Hi", seed=seed, **settings).token_ids for seed in (1, 1, 2))
    assert one == again != another
    assert MASK not in one


def test_nothing_to_answer_is_an_error(model):
    for question in ("", " \n"):
        with pytest.raises(InvalidInput, match="neither audio nor a question"):
            model.answer(None, question)
    with pytest.raises(InvalidInput, match="neither audio nor a question"):
        model.answer(None, prompt_ids=[])


def test_a_question_without_audio(model):
    result = model.answer(None, "Hello?", steps=4, block_length=4, max_new_tokens=4)
    assert "audio" not in model.tokenizer.decode(result.prompt_ids)
    assert len(result.token_ids) == 4


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"block_length": 5}, "multiple of block_length"),
        ({"block_length": 4, "steps": 6}, "multiple of the number of blocks"),
        ({"threshold": 0.5, "factor": 1.0}, "exclude each other"),
        ({"cache": "both"}, "none, prefix or dual"),
        ({"prompt_ids": [300, 58]}, "splice_index"),
        ({"max_new_tokens": 1024, "block_length": 1024, "steps": 1024}, "1024 positions"),
    ],
)
def test_broken_rules_are_told(model, samples, settings, rule):
    with pytest.raises(InvalidInput, match=rule):
        model.answer(samples, "Hi", **settings)


def test_text_is_cut_at_the_first_end_token(model):
    assert model.decode_text([32, 84, 97, EOT, 84]) == "Ta"
    assert model.decode_text([84, EOS]) == "T"
    assert model.decode_text([84, 303, 319, 97]) == "Ta"  # a special token and an id without a token give nothing


def test_a_missing_folder_is_named(tmp_path, data):
    with pytest.raises(ModelUnavailable, match="nowhere"):
        load_diffa(tmp_path / "nowhere", data / "whisper", data / "adapter")


def test_offloaded_layers_answer_the_same(data, samples, model):
    away = load_diffa(data / "llm", data / "whisper", data / "adapter", offload=Offload(frozenset({1, 2}), table=True))
    settings = {"steps": 16, "block_length": 8, "max_new_tokens": 16, "cache": "dual"}
    assert away.answer(samples, "Hi", **settings).token_ids == model.answer(samples, "Hi", **settings).token_ids
    assert away.bytes() < model.bytes()
