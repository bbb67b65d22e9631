"""Both engines against transformers in float32, on random checkpoints in the published layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from backends.interface import InvalidInput
from backends.whisper.config import read_dims
from backends.whisper.engine import load_whisper
from backends.whisper.network import Network
from backends.whisper.onnx.engine import OnnxNetwork
from tests.backends.whisper.checkpoints import Reference, make_checkpoint

ENGINES = ["onnx", "torch"]
TOKENS = np.random.default_rng(5).integers(0, 300, 24).tolist()


def generated(reference: Reference, samples: np.ndarray, **decoding_options: object) -> list[int]:
    """What the reference generates behind its prompt."""
    with torch.no_grad():
        tokens = reference.model.generate(reference.features(samples), return_timestamps=False, **decoding_options)
    return tokens[0].tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_equal_the_reference(reference: Reference, engine: str, noise: np.ndarray) -> None:
    model = load_whisper(reference.folder, engine=engine)
    logits = model.logits(noise, TOKENS)
    assert logits.dtype == np.float32
    assert np.abs(logits - reference.logits(noise, TOKENS)).max() < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_greedy_tokens_equal_the_reference(reference: Reference, engine: str, noise: np.ndarray) -> None:
    model = load_whisper(reference.folder, engine=engine)
    english_only = not model.special.multilingual
    decoding_options = {} if english_only else {"language": "en", "task": "transcribe"}
    expected = generated(reference, noise, max_new_tokens=30, **decoding_options)
    assert model.greedy_tokens(noise, max_new_tokens=30) == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("language", "task"), [("de", "transcribe"), ("german", "translate"), ("zh", "translate")])
def test_language_and_task_reach_the_decoder(
    multilingual: Reference, engine: str, language: str, task: str, noise: np.ndarray
) -> None:
    expected = generated(multilingual, noise, max_new_tokens=12, language=language, task=task)
    model = load_whisper(multilingual.folder, engine=engine)
    assert model.greedy_tokens(noise, language=language, task=task, max_new_tokens=12) == expected  # type: ignore[arg-type]


def test_the_end_token_ends_the_answer_and_is_no_part_of_it(tmp_path: Path, noise: np.ndarray) -> None:
    """A model that wants to end at once: its first token is another (the end is suppressed there), then it ends."""
    reference = make_checkpoint(tmp_path, seed=4)
    with torch.no_grad():
        norm = reference.model.model.decoder.layer_norm
        reference.model.model.decoder.embed_tokens.weight[reference.ids["<|endoftext|>"]] = 1.0
        norm.weight.zero_()
        norm.bias.fill_(1.0)
    reference.model.save_pretrained(tmp_path)
    expected = generated(reference, noise, max_new_tokens=20, language="en", task="transcribe")
    tokens = load_whisper(tmp_path).greedy_tokens(noise)
    assert len(tokens) == 1
    assert tokens == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_decoding_stops_at_the_last_position(multilingual: Reference, engine: str, noise: np.ndarray) -> None:
    tokens = load_whisper(multilingual.folder, engine=engine).greedy_tokens(noise)
    assert len(tokens) <= multilingual.model.config.max_target_positions - 4


def test_an_unknown_language_is_refused(multilingual: Reference, noise: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="klingon"):
        load_whisper(multilingual.folder).greedy_tokens(noise, language="klingon")


def rename(folder: Path, target: Path, change: object) -> None:
    """A copy of a checkpoint whose tensors have other names."""
    target.mkdir()
    for path in folder.iterdir():
        if path.suffix == ".json" and not path.name.startswith("."):
            shutil.copy(path, target / path.name)
    save_file(
        {change(name): value for name, value in load_file(folder / "model.safetensors").items()},
        target / "model.safetensors",
    )  # type: ignore[operator]


@pytest.mark.parametrize("engine", ENGINES)
def test_names_without_the_prefix_are_the_same_model(
    multilingual: Reference, tmp_path: Path, engine: str, noise: np.ndarray
) -> None:
    rename(multilingual.folder, tmp_path / "plain", lambda name: name.removeprefix("model."))
    logits = load_whisper(tmp_path / "plain", engine=engine).logits(noise, TOKENS)
    assert np.abs(logits - multilingual.logits(noise, TOKENS)).max() < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_tied_weights_may_be_stored_as_the_head(
    multilingual: Reference, tmp_path: Path, engine: str, noise: np.ndarray
) -> None:
    other = {"model.decoder.embed_tokens.weight": "proj_out.weight"}
    rename(multilingual.folder, tmp_path / "head", lambda name: other.get(name, name))
    logits = load_whisper(tmp_path / "head", engine=engine).logits(noise, TOKENS)
    assert np.abs(logits - multilingual.logits(noise, TOKENS)).max() < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_untied_weights_make_their_own_logits(tmp_path: Path, engine: str, noise: np.ndarray) -> None:
    reference = make_checkpoint(tmp_path, seed=6, tie_word_embeddings=False)
    logits = load_whisper(tmp_path, engine=engine).logits(noise, TOKENS)
    assert np.abs(logits - reference.logits(noise, TOKENS)).max() < 1e-4


@pytest.mark.parametrize("element", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_files_are_read(
    multilingual: Reference, tmp_path: Path, engine: str, element: torch.dtype, noise: np.ndarray
) -> None:
    from transformers import WhisperForConditionalGeneration

    folder = tmp_path / "half"
    rename(multilingual.folder, folder, lambda name: name)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=element)
    model.save_pretrained(folder)
    model = model.float()
    half = Reference(folder, model, multilingual.ids)
    logits = load_whisper(folder, engine=engine).logits(noise, TOKENS)
    assert np.abs(logits - half.logits(noise, TOKENS)).max() < 1e-4


# --- Forms of the graph -----------------------------------------------------------------------------------------------


def network(reference: Reference, engine: str, **decoding_options: object) -> Network:
    dims = read_dims(reference.folder)
    if engine == "onnx":
        return OnnxNetwork(reference.folder, dims, **decoding_options)  # type: ignore[arg-type]
    from backends.whisper.torch.engine import TorchNetwork

    return TorchNetwork(reference.folder, dims, **decoding_options)  # type: ignore[arg-type]


def test_the_static_graph_equals_the_reference(reference: Reference, noise: np.ndarray) -> None:
    model = load_whisper(reference.folder)
    model.network = network(reference, "onnx", static=True)
    assert np.abs(model.logits(noise, TOKENS) - reference.logits(noise, TOKENS)).max() < 1e-4
    assert model.greedy_tokens(noise, max_new_tokens=20) == load_whisper(reference.folder).greedy_tokens(
        noise, max_new_tokens=20
    )


def test_the_static_graph_in_half_precision_is_close(multilingual: Reference, noise: np.ndarray) -> None:
    model = load_whisper(multilingual.folder)
    model.network = network(multilingual, "onnx", static=True, dtype="float16")
    expected = multilingual.logits(noise, TOKENS)
    assert np.abs(model.logits(noise, TOKENS) - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_int8_is_close(reference: Reference, noise: np.ndarray, engine: str) -> None:
    """Weights of 8 bits and rows of 8 bits: a few hundredths of the largest logit on random weights, which do not
    forgive."""
    expected = reference.logits(noise, TOKENS)
    logits = load_whisper(reference.folder, engine=engine, dtype="int8").logits(noise, TOKENS)
    assert np.abs(logits - expected).max() < 0.08 * np.abs(expected).max()
    assert np.abs(logits - expected).mean() < 0.02 * np.abs(expected).max()
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.998


@pytest.mark.parametrize(
    ("engine", "preference"),
    [("onnx", {}), ("onnx", {"dtype": "int8"}), ("torch", {}), ("torch", {"dtype": "int8"})],
    ids=["onnx", "onnx int8", "torch", "torch int8"],
)
def test_rows_of_a_batch_do_not_touch_each_other(
    multilingual: Reference, engine: str, preference: dict[str, str], noise: np.ndarray
) -> None:
    """Rows of different length (padded at the left), then rows leaving the batch."""
    model = load_whisper(multilingual.folder)
    model.network = network(multilingual, engine, **preference)
    first, second = model.encode([noise, noise[::-1].copy()])
    alone = [
        model.network.decode([encoder_output]).feed(np.array([TOKENS[:count]]))[0]
        for encoder_output, count in ((first, 9), (second, 6))
    ]
    batch = model.network.decode([first, second], [0, 3])
    rows = np.array([TOKENS[:8], [0, 0, 0, *TOKENS[:5]]])
    begun = batch.feed(rows)
    assert np.abs(begun[0] - alone[0][:8]).max() < 1e-4
    assert np.abs(begun[1, 3:] - alone[1][:5]).max() < 1e-4
    batch.select([1])
    rest = batch.feed(np.array([[TOKENS[5]]]))
    assert np.abs(rest[0, 0] - alone[1][5]).max() < 1e-4


def test_the_way_of_torch_directml_equals_the_reference(
    multilingual: Reference, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eager attention, float32, fixed shapes; the processor stands in for the device."""
    monkeypatch.setattr("backends.whisper.torch.engine.torch_device", lambda name: torch.device("cpu"))
    model = load_whisper(multilingual.folder, engine="torch", device="directml:0")
    assert model.network.detail()["attention"] == "eager"
    model.network.fixed_shapes = True  # type: ignore[attr-defined]
    assert np.abs(model.logits(noise, TOKENS) - multilingual.logits(noise, TOKENS)).max() < 1e-4
    expected = generated(multilingual, noise, max_new_tokens=12, language="en", task="transcribe")
    assert model.greedy_tokens(noise, max_new_tokens=12) == expected


def test_cross_attention_is_the_same_on_both_engines(multilingual: Reference, noise: np.ndarray) -> None:
    model = load_whisper(multilingual.folder)
    heads = [(0, 1), (1, 3), (1, 0)]
    found = []
    for made in (
        network(multilingual, "onnx"),
        network(multilingual, "torch"),
        network(multilingual, "onnx", static=True),
    ):
        model.network = made
        found.append(made.cross_weights(model.encode([noise])[0], TOKENS[:10], heads))
    multilingual.model.set_attn_implementation("eager")
    with torch.no_grad():
        output = multilingual.model(
            multilingual.features(noise), decoder_input_ids=torch.tensor([TOKENS[:10]]), output_attentions=True
        )
    multilingual.model.set_attn_implementation("sdpa")
    expected = np.stack([output.cross_attentions[layer][0, head].numpy() for layer, head in heads])
    for weights in found:
        assert np.abs(weights - expected).max() < 1e-5


def test_an_older_repository_without_generation_config_and_tokenizer_json(
    multilingual: Reference, tmp_path: Path, noise: np.ndarray
) -> None:
    """vocab.json, merges.txt and added_tokens.json; generation keys in config.json; no generation_config.json."""
    folder = tmp_path / "old"
    rename(multilingual.folder, folder, lambda name: name)
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    rules = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    keys = ("suppress_tokens", "begin_suppress_tokens", "decoder_start_token_id", "eos_token_id", "is_multilingual")
    config |= {key: rules[key] for key in keys}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]), encoding="utf-8")
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in whole["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    added = {token["content"]: token["id"] for token in whole["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    for name in ("tokenizer.json", "generation_config.json"):
        (folder / name).unlink()
    old, new = load_whisper(folder), load_whisper(multilingual.folder)
    assert old.special == new.special
    assert old.tokenizer.encode(" the quick größe") == new.tokenizer.encode(" the quick größe")
    assert old.greedy_tokens(noise, max_new_tokens=10) == new.greedy_tokens(noise, max_new_tokens=10)
