"""Files that are a little other than the published ones: read as the reference reads them, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from backends.interface import InvalidInput, ModelUnavailable
from backends.whisper.checkpoint import Checkpoint, check
from backends.whisper.config import read_dims, read_generation_config
from backends.whisper.engine import load_whisper
from backends.whisper.tokenizer import SpecialTokens, WhisperTokenizer, special_tokens
from tests.backends.whisper.checkpoints import Reference, make_checkpoint

ENGINES = ["onnx", "torch"]
TOKENS = np.random.default_rng(5).integers(0, 300, 9).tolist()


@pytest.fixture
def folder(multilingual: Reference, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    target = tmp_path / "copy"
    shutil.copytree(multilingual.folder, target, ignore=shutil.ignore_patterns(".onnx", ".content-hash.json"))
    return target


def change_json(path: Path, **values: Any) -> None:
    """Set keys; `...` takes one out."""
    whole = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in whole.items() if value is not ...}), encoding="utf-8")


def add_tensors(folder: Path, **tensors: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}, path)


def special(folder: Path) -> SpecialTokens:
    return special_tokens(read_generation_config(folder), WhisperTokenizer(folder), read_dims(folder))


# --- Weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_convolutions_keep_their_gelu(tmp_path: Path, engine: str, noise: np.ndarray) -> None:
    """activation_function is the layers' alone."""
    reference = make_checkpoint(tmp_path, seed=7, activation_function="relu")
    logits = load_whisper(tmp_path, engine=engine).logits(noise, TOKENS)
    assert np.abs(logits - reference.logits(noise, TOKENS)).max() < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_a_head_of_its_own_is_used_though_the_config_ties_it(folder: Path, engine: str, noise: np.ndarray) -> None:
    shape = read_dims(folder)
    add_tensors(folder, proj_out__weight=torch.randn(shape.vocabulary, shape.width) * 0.3)
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    expected = Reference(folder, model.eval(), {}).logits(noise, TOKENS)
    logits = load_whisper(folder, engine=engine).logits(noise, TOKENS)
    assert np.abs(logits - expected).max() < 1e-4


def test_a_copy_of_the_tied_head_is_no_other_head(folder: Path) -> None:
    assert not Checkpoint(folder).has_own_head()
    add_tensors(
        folder, proj_out__weight=load_file(folder / "model.safetensors")["model.decoder.embed_tokens.weight"].clone()
    )
    assert not Checkpoint(folder).has_own_head()


def test_tensors_beside_the_weights_may_be_of_any_type(folder: Path) -> None:
    other = {
        "steps": torch.tensor(3),
        "model__decoder__mask": torch.ones(4, 4, dtype=torch.bool),
        "empty": torch.zeros(0, 4),
    }
    add_tensors(folder, **other)
    check(Checkpoint(folder), read_dims(folder))


def test_weights_that_are_no_floats_are_named(folder: Path) -> None:
    add_tensors(folder, model__encoder__conv1__bias=torch.zeros(32, dtype=torch.int64))
    with pytest.raises(ModelUnavailable, match=r"not of a float type: encoder\.conv1\.bias"):
        check(Checkpoint(folder), read_dims(folder))


@pytest.mark.parametrize("header", [b"[]", b"3", b"[" * 5000])
def test_a_header_that_is_no_table_is_refused(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelUnavailable, match="broken header"):
        Checkpoint(folder)


@pytest.mark.parametrize("table", [[], None, {"a": ["x"]}])
def test_a_broken_index_is_refused(folder: Path, table: Any) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="pull the model again"):
        Checkpoint(folder)


# --- Configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [{"encoder_attention_heads": 0}, {"decoder_attention_heads": -4}, {"decoder_layers": 0}, {"d_model": 1e400}],
)
def test_impossible_sizes_are_refused(folder: Path, values: dict[str, Any]) -> None:
    change_json(folder / "config.json", **values)
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        read_dims(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"lang_to_id": [1]},
        {"lang_to_id": {"<|en|>": "x"}},
        {"alignment_heads": [1, 2]},
        {"alignment_heads": [[-1, 0]]},
        {"suppress_tokens": 5},
        {"eos_token_id": "x"},
        {"decoder_start_token_id": -1},
        {"no_timestamps_token_id": "x"},
        {"max_initial_timestamp_index": "x"},
    ],
)
def test_garbled_generation_rules_are_refused(folder: Path, values: dict[str, Any]) -> None:
    change_json(folder / "generation_config.json", **values)
    with pytest.raises(ModelUnavailable, match="garbled"):
        read_generation_config(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"eos_token_id": 10_000_000},
        {"decoder_start_token_id": 10_000_000},
        {"prev_sot_token_id": 10_000_000},
        {"lang_to_id": {"<|en|>": 10_000_000}},
        {"task_to_id": {"transcribe": 10_000_000}},
    ],
)
def test_tokens_beyond_the_vocabulary_are_refused(folder: Path, values: dict[str, Any]) -> None:
    change_json(folder / "generation_config.json", **values)
    with pytest.raises(ModelUnavailable, match="names token 10000000"):
        special(folder)


def test_forced_languages_and_tasks_tell_a_multilingual_model(folder: Path) -> None:
    """Older generation configs name no languages; what they force behind the start tells English-only models apart."""
    known = special(folder)
    path = folder / "generation_config.json"
    change_json(path, is_multilingual=..., lang_to_id=..., task_to_id=...)
    assert not special(folder).multilingual
    change_json(path, forced_decoder_ids=[[1, None], [2, known.transcribe]])
    assert special(folder) == known
    change_json(path, forced_decoder_ids=[[1, known.no_timestamps]])
    assert not special(folder).multilingual


def test_a_task_that_is_none_is_refused(folder: Path) -> None:
    tokens = special(folder)
    with pytest.raises(InvalidInput, match="cannot summarise"):
        tokens.prompt("en", "summarise", timestamps=False)
    change_json(folder / "generation_config.json", is_multilingual=False)
    with pytest.raises(InvalidInput, match="cannot translate"):
        special(folder).prompt(None, "translate", timestamps=False)
