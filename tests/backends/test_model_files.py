"""The head of a safetensors file, which is read in one place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from backends.model_files import safetensors_end, safetensors_head

BACKENDS = Path(__file__).resolve().parents[2] / "backends"


def headed(path: Path, head: bytes) -> Path:
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    return path


def test_the_head_lists_the_tensors_and_where_they_begin(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.ones(1, np.float32)}, file, metadata={"format": "pt"})
    table, base = safetensors_head(file)
    assert sorted(table) == ["a", "b"]
    assert base + max(entry["data_offsets"][1] for entry in table.values()) == file.stat().st_size
    assert safetensors_end(file) == file.stat().st_size


@pytest.mark.parametrize("data", [b"", b"\x01", (100).to_bytes(8, "little") + b"{}", b"\xff" * 40])
def test_a_head_that_the_file_cannot_hold(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(EOFError):
        safetensors_head(tmp_path / "x")


@pytest.mark.parametrize("head", [b"{", b"[]", b"\xff", b"[" * 200_000])
def test_a_head_that_is_no_json_object(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as told:
        safetensors_head(headed(tmp_path / "x", head))
    assert not isinstance(told.value, EOFError)


@pytest.mark.parametrize("entry", [1, {}, {"data_offsets": [0]}, {"data_offsets": [0, -1]}, {"data_offsets": [0, "1"]}])
def test_an_entry_without_an_end(tmp_path: Path, entry: object) -> None:
    with pytest.raises(ValueError, match=r"garbled|no whole number"):
        safetensors_end(headed(tmp_path / "x", json.dumps({"a": entry}).encode()))


def test_no_other_module_reads_the_head_itself() -> None:
    found = [path.name for path in BACKENDS.rglob("*.py") if "read(8)" in path.read_text("utf-8")]
    assert found == ["model_files.py"]
