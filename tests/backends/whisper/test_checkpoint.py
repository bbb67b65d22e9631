"""Bad weights are named; good ones are read in every published arrangement; graphs are cached and never stale."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import backends.whisper.onnx.cache as graph_cache
from backends.interface import ModelUnavailable
from backends.whisper.checkpoint import Checkpoint
from backends.whisper.config import read_dims
from backends.whisper.engine import load_whisper
from backends.whisper.onnx.cache import built_graphs
from backends.whisper.onnx.layers import GraphConfig
from tests.backends.whisper.checkpoints import Reference

ENGINES = ["onnx", "torch"]


@pytest.fixture
def folder(multilingual: Reference, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    target = tmp_path / "copy"
    shutil.copytree(multilingual.folder, target, ignore=shutil.ignore_patterns(".onnx", ".content-hash.json"))
    return target


@pytest.mark.parametrize("engine", ENGINES)
def test_missing_tensors_are_named(folder: Path, engine: str) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.decoder.layers.1.encoder_attn.k_proj.weight"], tensors["model.encoder.conv2.bias"]
    save_file(tensors, path)
    with pytest.raises(
        ModelUnavailable, match=r"lacks 2 tensors.*encoder\.conv2\.bias.*layers\.1\.encoder_attn\.k_proj"
    ):
        load_whisper(folder, engine=engine)


def test_misshapen_tensors_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.encoder.conv1.weight"] = tensors["model.encoder.conv1.weight"][:, :40].copy()
    save_file(tensors, path)
    with pytest.raises(ModelUnavailable, match=r"does not fit its config\.json: encoder\.conv1\.weight \(32, 40, 3\)"):
        load_whisper(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelUnavailable, match="truncated"):
        load_whisper(folder)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0notjson!"])
def test_a_file_that_is_no_safetensors_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors"):
        load_whisper(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match=r"model-00001-of-00002\.safetensors"):
        load_whisper(folder)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"no model\.safetensors"):
        load_whisper(folder)
    with pytest.raises(ModelUnavailable, match="no folder"):
        load_whisper(folder / "elsewhere")


def test_another_kind_of_model_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="'llama', not a Whisper"):
        load_whisper(folder)


@pytest.mark.parametrize(
    "key",
    [
        "encoder_layers",
        "decoder_layers",
        "d_model",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "vocab_size",
        "num_mel_bins",
        "max_source_positions",
        "max_target_positions",
    ],
)
@pytest.mark.parametrize("size", [1_000_000_000, 1e999, "1000000000", -1, 0, None, []])
def test_sizes_beyond_every_whisper_are_refused_at_once(folder: Path, key: str, size: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {key: size}), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match=r"sizes beyond every Whisper|below 1|lacks or garbles"):
        load_whisper(folder)


def safetensors_head(table: str) -> bytes:
    return len(table).to_bytes(8, "little") + table.encode()


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}',
        '{"dtype": "F32", "shape": [1], "data_offsets": [NaN, 4]}',
        '{"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}',
        '{"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}',
        '{"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}',
        '{"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}',
        '{"dtype": "F32", "shape": [1], "data_offsets": [0]}',
        '{"dtype": "F32", "shape": [1], "data_offsets": 4}',
        '{"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}',
        '{"dtype": "I64", "shape": [1], "data_offsets": [9, 4]}',
        '{"dtype": "F32", "shape": null, "data_offsets": [0, 4]}',
        "[]",
        "null",
        '"F32"',
    ],
)
def test_odd_heads_are_refused_in_words(folder: Path, entry: str) -> None:
    (folder / "model.safetensors").write_bytes(safetensors_head(f'{{"model.a": {entry}}}') + bytes(16))
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors"):
        load_whisper(folder)


def test_a_deeply_nested_head_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(safetensors_head("[" * 200_000))
    with pytest.raises(ModelUnavailable, match="broken header"):
        load_whisper(folder)


@pytest.mark.parametrize("name", ["x" * 100_000, "../model.safetensors", "a\0b", "", 7, None, "C:\\x", "a/b"])
def test_an_index_that_names_what_is_no_file_is_refused(folder: Path, name: object) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="garbled") as told:
        load_whisper(folder)
    assert len(str(told.value)) < 1000


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_broken_json_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{", encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        load_whisper(folder)


def test_missing_tokenizer_files_are_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json nor vocab\.json"):
        load_whisper(folder)


@pytest.mark.parametrize(
    ("preference", "told"),
    [
        ({"engine": "onnx", "device": "directml:0"}, "DmlExecutionProvider"),
        ({"engine": "onnx", "device": "cuda:0"}, "torch engine"),
        ({"engine": "onnx", "dtype": "bfloat16"}, "dtype 'bfloat16'"),
        ({"engine": "onnx", "dtype": "float16"}, "DirectML"),
        ({"engine": "torch", "dtype": "int4"}, "dtype 'int4'"),
        ({"engine": "torch", "device": "directml:0"}, "torch-directml"),
        ({"engine": "torch", "device": "mps"}, "no device mps"),
        ({"engine": "ggml"}, "no engine 'ggml'"),
    ],
)
@pytest.mark.skipif(sys.platform == "darwin", reason="this machine may have some of them")
def test_what_is_not_there_is_said(multilingual: Reference, preference: dict[str, str], told: str) -> None:
    with pytest.raises(ModelUnavailable, match=told):
        load_whisper(multilingual.folder, **preference)  # type: ignore[arg-type]


# --- Graph cache ------------------------------------------------------------------------------------------------------


def build(folder: Path, form: GraphConfig | None = None, cache: str = "") -> Path:
    return built_graphs(Checkpoint(folder), read_dims(folder), form or GraphConfig(), cache)


def test_graphs_are_built_once(folder: Path) -> None:
    first = build(folder)
    made = (first / "encoder.onnx").stat().st_mtime_ns
    assert first.parent == folder / ".onnx"
    assert build(folder) == first
    assert (first / "encoder.onnx").stat().st_mtime_ns == made


def test_each_form_has_its_own_graphs(folder: Path) -> None:
    forms = [
        GraphConfig(),
        GraphConfig("int8"),
        GraphConfig("int8", wide="rows-7"),
        GraphConfig(static=True, cache=64),
        GraphConfig("float16", static=True, cache=64),
    ]
    assert len({build(folder, form) for form in forms}) == len(forms)


def test_other_weights_are_another_graph(folder: Path) -> None:
    first = build(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.encoder.conv1.bias"] += 1
    save_file(tensors, path)
    assert build(folder) != first


def test_a_cut_graph_is_built_anew(folder: Path) -> None:
    first = build(folder)
    data = first / "decoder.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:100])
    assert build(folder) == first
    assert data.read_bytes() == whole


def test_graphs_of_another_version_are_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = build(folder)
    monkeypatch.setattr(graph_cache, "BUILDER_VERSION", graph_cache.BUILDER_VERSION + 1)
    new = build(folder)
    assert new != old
    assert not old.exists()


def test_what_a_killed_build_left_is_dropped_and_one_at_work_is_not(folder: Path) -> None:
    root = folder / ".onnx"
    for name, age in (("building-dead", 7200), ("building-busy", 60)):
        (root / name / "int8").mkdir(parents=True)
        (root / name / "int8" / "encoder.data").write_bytes(b"x")
        for path in (root / name / "int8" / "encoder.data", root / name / "int8", root / name):
            os.utime(path, (time.time() - age,) * 2)
    first = build(folder)
    assert {path.name for path in root.iterdir()} == {first.name, "building-busy"}


def test_graphs_in_a_folder_too_deep_for_windows_lie_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_cache, "_ON_WINDOWS", True)
    deep = folder.joinpath(*["深い" + "x" * 60] * 4)
    shutil.copytree(folder, deep, ignore=shutil.ignore_patterns("深い*", ".onnx"))
    short = len(str(tmp_path)) + 100 < 259  # a test folder may be deep itself
    if short:
        assert build(deep, cache=str(tmp_path / "short")).parent == tmp_path / "short"
    with pytest.raises(ModelUnavailable, match="too long for ONNX Runtime"):
        build(deep, cache=str(deep / "cache"))
    assert not (deep / ".onnx").exists()


def test_a_graph_of_the_right_size_without_sense_is_named(folder: Path) -> None:
    graph = build(folder) / "decoder.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    with pytest.raises(ModelUnavailable, match=f"delete .*{graph.parent.name} to have it built anew"):
        load_whisper(folder)


def test_a_folder_that_cannot_be_written_uses_the_cache_folder(folder: Path, tmp_path: Path) -> None:
    (folder / ".onnx").write_text("in the way", encoding="utf-8")
    cache = tmp_path / "cache"
    first = build(folder, cache=str(cache))
    assert first.parent == cache
    assert build(folder, cache=str(cache)) == first


def test_no_place_for_graphs_is_an_error(folder: Path, tmp_path: Path) -> None:
    (folder / ".onnx").write_text("in the way", encoding="utf-8")
    (tmp_path / "cache").write_text("in the way too", encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="cache_folder"):
        build(folder, cache=str(tmp_path / "cache"))


def test_the_content_decides_and_not_the_name(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "same"
    shutil.copytree(folder, copy)
    assert Checkpoint(copy).content_hash() == Checkpoint(folder).content_hash()
    memo = json.loads((copy / ".content-hash.json").read_text(encoding="utf-8"))
    memo["sha256"] = "remembered"
    (copy / ".content-hash.json").write_text(json.dumps(memo), encoding="utf-8")
    assert Checkpoint(copy).content_hash() == "remembered"
    with (copy / "model.safetensors").open("ab") as stream:
        stream.write(b"\0")
    assert Checkpoint(copy).content_hash() != "remembered"


def test_tensors_are_read_row_by_row(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    name = "decoder.embed_tokens.weight"
    rows = np.array([[3, 1], [2, 2]])
    assert np.array_equal(checkpoint.rows(name, rows), checkpoint[name][rows])
