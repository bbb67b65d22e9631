"""Reading tensors by name: everything that is wrong with a checkpoint is named."""

import json
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from backends.interface import ModelUnavailable
from backends.transformer.checkpoint import Checkpoint, llama_names, renamed


def write(file: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, file)
    return file


def test_reads_all_files_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", x=torch.ones(2))
    write(tmp_path / "b.safetensors", y=torch.zeros(3))
    checkpoint = Checkpoint.from_folder(tmp_path)
    assert checkpoint.names == {"x", "y"}
    assert checkpoint.take("x", (2,)).tolist() == [1, 1]


@pytest.mark.skipif(not hasattr(psutil.Process, "memory_maps"), reason="macOS does not tell")
def test_a_tensor_is_mapped_no_longer_than_somebody_holds_it(tmp_path: Path) -> None:
    """Loading takes the largest tensor beside the model, not the whole file; and Windows cannot replace a mapped
    file."""
    file = write(tmp_path / "a.safetensors", x=torch.ones(1 << 16), y=torch.ones(2))

    def mapped() -> bool:
        return any(Path(byte_range.path) == file for byte_range in psutil.Process().memory_maps())

    checkpoint = Checkpoint.from_folder(tmp_path)
    tensor = checkpoint.take("x", (1 << 16,))
    assert mapped()
    del tensor
    assert not mapped()


def test_reads_only_the_shards_of_the_index(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", x=torch.ones(2))
    write(tmp_path / "other.safetensors", x=torch.zeros(2))
    (tmp_path / "m.index.json").write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}), encoding="utf-8")
    assert Checkpoint.from_folder(tmp_path, "m.index.json").take("x", (2,)).tolist() == [1, 1]


def test_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.index.json").write_text(json.dumps({"weight_map": {"x": "gone-2.safetensors"}}), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match=r"gone-2\.safetensors"):
        Checkpoint.from_folder(tmp_path, "m.index.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("[1", "cannot be read"),
        ("[1]", "does not hold a JSON object"),
        ("{}", "does not map names of tensors"),
    ],
)
def test_broken_index(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "m.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelUnavailable, match=f"m.index.json {message}"):
        Checkpoint.from_folder(tmp_path, "m.index.json")


def test_broken_or_absent_files(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no \*\.safetensors"):
        Checkpoint.from_folder(tmp_path)
    with pytest.raises(ModelUnavailable, match="no folder"):
        Checkpoint.from_folder(tmp_path / "nowhere")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ModelUnavailable, match=r"cut\.safetensors is not a readable"):
        Checkpoint.from_folder(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        '{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}',
        '{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,1e400]}}',
        '{"x":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}',
        '{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        '{"x":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        '{"x":[]}',
        '{"x":null}',
        "[]",
        "null",
    ],
)
def test_odd_headers_are_refused(tmp_path: Path, header: str) -> None:
    encoded = header.encode()
    (tmp_path / "odd.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(4))
    with pytest.raises(ModelUnavailable, match=r"odd\.safetensors"):
        Checkpoint.from_folder(tmp_path).take("x", (1,))


@pytest.mark.parametrize(
    "listing",
    [
        '{"weight_map": {"x": "%s"}}' % ("a" * 100_000),
        '{"weight_map": {"x": 5}}',
        '{"weight_map": {"x": ["a"]}}',
        '{"weight_map": {"x": "../a.safetensors"}}',
        '{"weight_map": {"x": "a\\u0000b"}}',
        '{"weight_map": {"x": ""}}',
        '{"weight_map": ["a.safetensors"]}',
        '{"weight_map": "a.safetensors"}',
        "[]",
        "[" * 100_000,
    ],
    ids=range(10),
)
def test_odd_indexes_are_refused(tmp_path: Path, listing: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(listing, encoding="utf-8")
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors\.index\.json") as told:
        Checkpoint.from_folder(tmp_path)
    assert len(str(told.value)) < 1000


def test_a_name_in_two_files(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", x=torch.ones(2))
    write(tmp_path / "b.safetensors", x=torch.ones(2))
    with pytest.raises(ModelUnavailable, match="x occurs in more than one"):
        Checkpoint.from_folder(tmp_path)


def test_missing_misshapen_and_superfluous_tensors_are_named() -> None:
    checkpoint = Checkpoint.from_tensors({"x": torch.ones(2), "extra": torch.ones(1), "mask": torch.ones(1)})
    with pytest.raises(ModelUnavailable, match="lacks tensor y"):
        checkpoint.take("y", (2,))
    with pytest.raises(ModelUnavailable, match=r"tensor x .* shape \[2\], the configuration asks for \[3\]"):
        checkpoint.take("x", (3,))
    with pytest.raises(ModelUnavailable, match="lacks a, b"):
        checkpoint.demand(["a", "x", "b"])
    checkpoint.take("x", (2,))
    with pytest.raises(ModelUnavailable, match="holds extra, which"):
        checkpoint.finish(ignore=("ma.k",))
    checkpoint.take("extra", (1,))
    checkpoint.finish(ignore=("mask",))


def test_a_part_of_a_checkpoint() -> None:
    part = Checkpoint.from_tensors({"codec.x": torch.ones(1), "y": torch.ones(1)}).under("codec.")
    assert part.names == {"x"}
    part.take("x", (1,))
    part.finish()


def test_many_missing_names_are_counted() -> None:
    with pytest.raises(ModelUnavailable, match="and 4 more"):
        Checkpoint.from_tensors({}).demand([f"t{i}" for i in range(12)])


def test_renames() -> None:
    assert llama_names("model.")("layers.3.gate") == "model.layers.3.mlp.gate_proj.weight"
    assert llama_names("model.")("norm") == "model.norm.weight"
    assert renamed("m.", {"q": "wq"}, norm="ln", layers="blocks.")("layers.0.q") == "m.blocks.0.wq"
