"""The language model: parity with the reference's ids, with transformers' generate, and with peft; what is refused."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LogitsProcessorList
from transformers.generation import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from backends.interface import InvalidInput, ModelUnavailable
from backends.llasa.adapters import adapter_folders, read_adapter
from backends.llasa.decoding import TokenLoop
from backends.llasa.generation_state import Utterance
from backends.llasa.lm_config import read_language_config
from backends.llasa.model import Llasa, load_llasa
from backends.llasa.options import SamplingParams
from tests.backends.llasa.folders import quiet, write_adapter, write_lm


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory, other: Path) -> Path:
    """A good adapter for it."""
    return write_adapter(tmp_path_factory.mktemp("adapters") / "voice", other)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other widths, an untied head, another rope factor and other token ids than the parity data."""
    return write_lm(tmp_path_factory.mktemp("other"), seed=4)


def reference_ids(
    folder: Path, prompt: list[int], length: int, stop: int, adapter: Path | None = None, **settings: Any
) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    if adapter is not None:
        model = unmerged(model, adapter)
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_length=length,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=0,
        **settings,
    )
    return out[0, len(prompt) :].tolist()


@quiet
def unmerged(model: Any, adapter: Path) -> Any:
    return PeftModel.from_pretrained(model, adapter).eval()


# --- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("case", ["text_only", "max_length_cut"])
def test_the_reference_ids_come_out(lm_folder: Path, lm_expected: dict[str, Any], case: str, full: bool) -> None:
    model, expected = load_llasa(lm_folder, full_vocabulary=full), lm_expected["cases"][case]
    prompt = model.prompt_ids(lm_expected["texts"]["text"])
    assert prompt == expected["input_ids"]
    ids = model.generate(prompt, expected["max_length"])
    assert ids == expected["generated_ids"]
    assert model.extract_codes(ids) == expected["all_generated_speech_ids"]


def test_extraction_passes_over_everything_else(lm_folder: Path, lm_expected: dict[str, Any]) -> None:
    model = load_llasa(lm_folder)
    for case in lm_expected["extract_cases"]:
        assert model.extract_codes(case["ids"]) == case["speech_ids"]
        assert model.extract_codes(torch.tensor([case["ids"]])) == case["speech_ids"]
    assert model.extract_codes([403, 400, 404]) == [0]


def test_speech_may_be_longer_than_what_was_trained(tmp_path: Path) -> None:
    model = load_llasa(
        write_lm(tmp_path / "short", max_position_embeddings=64, num_hidden_layers=1), full_vocabulary=True
    )
    prompt = model.prompt_ids("Hello, you.")
    expected = reference_ids(tmp_path / "short", prompt, len(prompt) + 30, model.vocabulary.stop)
    assert model.generate(prompt, len(prompt) + 30) == expected


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_another_checkpoint_agrees_with_transformers(other: Path, penalty: float) -> None:
    model = load_llasa(other, full_vocabulary=True)
    prompt = model.prompt_ids("Hello, you.", reference_text="Yes.", reference_codes=[3, 1023, 0])
    expected = reference_ids(other, prompt, len(prompt) + 40, model.vocabulary.stop, repetition_penalty=penalty)
    assert model.generate(prompt, len(prompt) + 40, repetition_penalty=penalty) == expected


def test_the_sliced_head_speaks_only(other: Path) -> None:
    model = load_llasa(other)
    prompt = model.prompt_ids("Hello, you.")
    ids = model.generate(prompt, len(prompt) + 60, temperature=2.0, top_k=0, seed=1)
    assert all(model.vocabulary.is_speech(token) or token == model.vocabulary.stop for token in ids)


def test_older_rope_keys_mean_the_same(other: Path, tmp_path: Path) -> None:
    shutil.copytree(other, tmp_path / "old")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    (tmp_path / "old" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    prompt = load_llasa(other).prompt_ids("One two.")
    assert load_llasa(tmp_path / "old").generate(prompt, 120) == load_llasa(other).generate(prompt, 120)


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lora",
    [
        {"r": 4, "lora_alpha": 16},
        {"r": 8, "lora_alpha": 4, "use_rslora": True, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        {"target_modules": ["gate_proj", "up_proj", "down_proj"], "rank_pattern": {"layers.1.mlp.down_proj": 2}},
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["v_proj"], "modules_to_save": ["norm", "down_proj"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=["plain", "rslora", "mlp with a rank pattern", "saved modules", "saved norms", "embeddings"],
)
def test_merged_is_unmerged(other: Path, tmp_path: Path, lora: dict[str, Any]) -> None:
    adapter = write_adapter(tmp_path / "voice", other, seed=2, **lora)
    merged = load_llasa(other, adapter, full_vocabulary=True)
    prompt = merged.prompt_ids("Good morning.")
    expected = reference_ids(other, prompt, len(prompt) + 30, merged.vocabulary.stop, adapter)
    assert merged.generate(prompt, len(prompt) + 30) == expected
    model = load_llasa(other, full_vocabulary=True)
    assert model.generate(prompt, len(prompt) + 30) != expected
    model.add_adapter("voice", adapter)
    assert generated(model, prompt, 30, "voice") == expected


def test_an_adapter_for_a_tied_head_leaves_the_embeddings_alone(tmp_path: Path) -> None:
    base = write_lm(tmp_path / "tied", tied=True, num_hidden_layers=1)
    adapter = write_adapter(tmp_path / "voice", base, seed=2, target_modules=["lm_head", "q_proj"])
    model = load_llasa(base, adapter, full_vocabulary=True)
    prompt = model.prompt_ids("Good morning.")
    expected = reference_ids(base, prompt, len(prompt) + 30, model.vocabulary.stop, adapter)
    assert model.generate(prompt, len(prompt) + 30) == expected


def test_a_variant_shares_what_its_adapter_leaves_alone(other: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "voice", other, seed=2)
    model, merged = load_llasa(other), load_llasa(other, adapter)
    model.add_adapter("voice", adapter)
    prompt = model.prompt_ids("Good morning.")
    assert generated(model, prompt, 30, "voice") == merged.generate(prompt, len(prompt) + 30)
    assert generated(model, prompt, 30, "") == model.generate(prompt, len(prompt) + 30)
    base, voice = model.variants[""], model.variants["voice"]
    assert voice.stack.blocks[0].down is base.stack.blocks[0].down
    assert voice.table is base.table
    assert model.bytes() < 2 * load_llasa(other).bytes()


def test_checkpoint_folders_are_adapters_of_their_own(tmp_path: Path) -> None:
    for name in ("", "checkpoint-100", "checkpoint-20"):
        (tmp_path / "run" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    assert list(adapter_folders("anna", tmp_path / "run")) == ["anna", "anna-checkpoint-20", "anna-checkpoint-100"]
    with pytest.raises(ModelUnavailable, match="holds no adapter"):
        adapter_folders("anna", tmp_path / "empty")


def test_an_adapter_for_another_base_is_refused(other: Path, lm_folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "voice", other)
    with pytest.raises(ModelUnavailable, match="another base model"):
        load_llasa(lm_folder, adapter)
    deep = write_lm(tmp_path / "deep", num_hidden_layers=4)
    with pytest.raises(ModelUnavailable, match="another base model"):
        load_llasa(deep, adapter)
    shallow = write_lm(tmp_path / "shallow", num_hidden_layers=2)
    with pytest.raises(ModelUnavailable, match="another base model"):
        load_llasa(shallow, adapter)


@pytest.mark.security
@pytest.mark.parametrize(
    "setting",
    [
        {"use_dora": True},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"init_lora_weights": "pissa"},
        {"trainable_token_indices": [5, 6]},
    ],
)
def test_adapters_that_cannot_be_merged_are_refused(other: Path, tmp_path: Path, setting: dict[str, Any]) -> None:
    adapter = write_adapter(tmp_path / "voice", other, **setting)
    with pytest.raises(ModelUnavailable, match="only plain LoRA"):
        load_llasa(other, adapter)


@pytest.mark.security
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", "(((a|b|.)+)+)+$x"),
        ("target_modules", "all-linear"),
        ("target_modules", ["q_proj", "(a+)+$"]),
        ("exclude_modules", "(a+)+$"),
        ("modules_to_save", ["(a+)+$"]),
        ("layers_pattern", "(a+)+$"),
        ("rank_pattern", {"(a+)+$": 4}),
        ("rank_pattern", {"q_proj": 2.5}),
        ("rank_pattern", ["q_proj"]),
        ("alpha_pattern", {"(a+)+$": 4}),
        ("alpha_pattern", {"q_proj": math.inf}),
        ("r", "2"),
        ("r", 0),
        ("r", 4.5),
        ("r", True),
        ("r", 10**9),
        ("lora_alpha", math.nan),
        ("lora_alpha", -math.inf),
        ("lora_alpha", "16"),
        ("megatron_config", {"a": 1}),
        ("megatron_core", "megatron.x"),
    ],
)
def test_adapter_settings_that_could_do_harm_are_refused(voice: Path, tmp_path: Path, key: str, value: Any) -> None:
    """Before peft sees them: it searches with strings as regular expressions, and imports the modules that it is
    told."""
    config = json.loads((voice / "adapter_config.json").read_text(encoding="utf-8"))
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, key: value}), encoding="utf-8")
    shutil.copy(voice / "adapter_model.safetensors", tmp_path)
    with pytest.raises(ModelUnavailable, match=rf"adapter_config\.json has {key} ="):
        read_adapter(tmp_path, tmp_path / "there is no such file")


@pytest.mark.security
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", "16"),
        ("hidden_size", -1),
        ("num_attention_heads", 0),
        ("intermediate_size", 2**50),
        ("vocab_size", 2**60),
        ("rms_norm_eps", math.nan),
        ("rope_theta", math.inf),
    ],
)
def test_impossible_sizes_are_refused(lm_folder: Path, tmp_path: Path, key: str, value: Any) -> None:
    config = json.loads((lm_folder / "config.json").read_text(encoding="utf-8"))
    config.pop("rope_parameters", None)
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="not a usable Llama configuration"):
        read_language_config(tmp_path)


def test_an_adapter_folder_may_stand_for_the_model(other: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "voice", other)
    prompt = load_llasa(other).prompt_ids("Hi.")
    assert load_llasa(adapter).generate(prompt, 100) == load_llasa(other, adapter).generate(prompt, 100)


# --- the distribution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "penalty"),
    [(0.8, 50, 1.0, 1.0), (0.7, 50, 0.9, 1.1), (1.3, None, 0.7, 1.0), (1.0, 5, 0.3, 2.0), (0.5, None, 1.0, 1.3)],
)
def test_probabilities_are_those_of_the_reference_chain(
    lm_folder: Path, temperature: float, top_k: int | None, top_p: float, penalty: float
) -> None:
    model = load_llasa(lm_folder)
    logits = torch.randn(1427, generator=torch.Generator().manual_seed(1)) * 4
    context = [5, 9, 9, 1100, 700]
    chain = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)])
    if top_k:
        chain.append(TopKLogitsWarper(top_k))
    chain.append(TopPLogitsWarper(top_p))
    expected = torch.softmax(chain(torch.tensor([context]), logits[None].clone()), -1)[0]
    found = model.next_token_probs(logits, context, temperature, top_k, top_p, penalty)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_greedy_probabilities_are_one_hot(lm_folder: Path) -> None:
    logits = torch.zeros(1427)
    logits[77] = 1
    assert load_llasa(lm_folder).next_token_probs(logits, [], 0.0, None, 1.0, 1.0)[77] == 1


def test_draws_follow_the_distribution(other: Path) -> None:
    """The first token over many seeds against the probabilities computed directly from transformers' logits."""
    model = load_llasa(other)
    prompt = model.prompt_ids("Ho.")
    settings = {"temperature": 0.7, "top_k": 6, "top_p": 0.9, "repetition_penalty": 1.2}
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(other)(torch.tensor([prompt])).logits[0, -1]
    logits[
        torch.tensor(
            [t for t in range(len(logits)) if not (model.vocabulary.is_speech(t) or t == model.vocabulary.stop)]
        )
    ] = -1e9
    expected = model.next_token_probs(logits, prompt, **settings)
    draws = 400
    counts = torch.zeros_like(expected)
    for seed in range(draws):
        counts[model.generate(prompt, len(prompt) + 1, seed=seed, **settings)[0]] += 1
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    chi = ((counts - draws * expected)[kept] ** 2 / (draws * expected)[kept]).sum()
    assert chi < 20  # 0.1 % point for 5 degrees of freedom


# --- batches ----------------------------------------------------------------------------------------------------------


def generated(model: Llasa, prompt: list[int], tokens: int, variant: str) -> list[int]:
    utterance = Utterance(prompt, tokens, SamplingParams(temperature=0), 0, variant=variant)
    loop = TokenLoop(model, 1, len(prompt) + tokens)
    loop.admit(utterance)
    while not utterance.over:
        loop.step([utterance])
    return utterance.ids


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_seed_gives_the_same_tokens_in_any_company(other: Path, dtype: str) -> None:
    model = load_llasa(other, dtype=dtype, rows=4)
    texts = ["One.", "Two three four five six.", "Seven, eight!", "Nine ten eleven twelve thirteen fourteen."]
    prompts = [model.prompt_ids(text) for text in texts]
    alone = [
        model.generate(p, len(p) + 25, temperature=0.9, seed=i, repetition_penalty=1.1) for i, p in enumerate(prompts)
    ]
    loop = TokenLoop(model, 4, 256)
    utterances = [Utterance(p, 25, SamplingParams(0.9, 50, 1.0, 1.1), i) for i, p in enumerate(prompts)]
    waiting = list(utterances)
    for turn in range(60):
        if turn % 3 == 0 and waiting:
            loop.admit(waiting.pop(0))
        loop.step([u for u in utterances if u.slot >= 0])
    assert [u.ids for u in utterances] == alone


def test_a_known_prefix_changes_nothing(other: Path) -> None:
    model = load_llasa(other)
    prompt = model.prompt_ids("Once upon a time.")
    prefix = prompt.index(model.vocabulary.text_start) + 1
    loop = TokenLoop(model, 1, 256)
    results = []
    for _ in range(2):
        utterance = Utterance(prompt, 20, SamplingParams(0.9), 5, prefix=prefix)
        loop.admit(utterance)
        steps = 0
        while not utterance.over:
            loop.step([utterance])
            steps += 1
        loop.release(utterance)
        results.append((utterance.ids, steps))
    assert results[0][0] == results[1][0]
    assert results[1][1] == results[0][1] - 1  # the prefix was not computed again


def test_a_long_prompt_is_computed_in_pieces(other: Path) -> None:
    model = load_llasa(other)
    prompt = model.prompt_ids("Hi.", "Ho.", np.arange(600).tolist())
    expected = reference_ids(other, prompt, len(prompt) + 8, model.vocabulary.stop)
    assert load_llasa(other, full_vocabulary=True).generate(prompt, len(prompt) + 8) == expected


def test_only_a_real_stop_token_is_dropped(lm_folder: Path, lm_expected: dict[str, Any]) -> None:
    model, case = load_llasa(lm_folder), lm_expected["cases"]["max_length_cut"]
    ids = model.generate(case["input_ids"], case["max_length"])
    assert len(model.extract_codes(ids)) == len(ids) == len(case["reference_slice_speech_ids"]) + 1


# --- what is refused --------------------------------------------------------------------------------------------------


def test_missing_tensors_are_named(lm_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(lm_folder, tmp_path / "lm", copy_function=shutil.copyfile)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = {key: tensor for key, tensor in load_file(lm_folder / "model.safetensors").items() if key != name}
    save_file(tensors, tmp_path / "lm" / "model.safetensors")
    with pytest.raises(ModelUnavailable, match=re.escape(name)):
        load_llasa(tmp_path / "lm")


def test_a_missing_untied_head_is_named(other: Path, tmp_path: Path) -> None:
    shutil.copytree(other, tmp_path / "lm")
    tensors = {key: tensor for key, tensor in load_file(other / "model.safetensors").items() if key != "lm_head.weight"}
    save_file(tensors, tmp_path / "lm" / "model.safetensors")
    with pytest.raises(ModelUnavailable, match=r"lm_head\.weight"):
        load_llasa(tmp_path / "lm")


@pytest.mark.parametrize("change", ["marker", "speech", "gap"])
def test_a_tokenizer_without_speech_is_refused(lm_folder: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(lm_folder, tmp_path / "lm", copy_function=shutil.copyfile)
    path = tmp_path / "lm" / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    names = {"marker": "<|SPEECH_GENERATION_END|>", "speech": "<|s_0|>", "gap": "<|s_500|>"}
    path.write_text(text.replace(names[change], "<|else|>"), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="LLASA" if change != "gap" else "not contiguous"):
        load_llasa(tmp_path / "lm")


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"top_k": -2}, {"top_p": 0}, {"repetition_penalty": 0}])
def test_impossible_settings_are_refused(lm_folder: Path, settings: dict[str, float]) -> None:
    model = load_llasa(lm_folder)
    with pytest.raises(InvalidInput):
        model.generate(model.prompt_ids("Hi."), 200, **settings)


def test_a_length_without_end_is_refused(lm_folder: Path) -> None:
    model = load_llasa(lm_folder)
    with pytest.raises(InvalidInput, match="at most 32768"):
        model.generate(model.prompt_ids("Hello."), 1_000_000)


@pytest.mark.parametrize("change", [{"hidden_act": "gelu"}, {"attention_bias": True}, {"model_type": "qwen2"}])
def test_another_architecture_is_refused(lm_folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = shutil.copytree(lm_folder, tmp_path / "lm")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="qwen2" if "model_type" in change else next(iter(change))):
        load_llasa(folder)


def test_a_prompt_that_fills_max_length_is_refused(lm_folder: Path) -> None:
    model = load_llasa(lm_folder)
    with pytest.raises(InvalidInput, match="max_length"):
        model.generate(model.prompt_ids("Hi."), 20)
