"""The weights of a Whisper on disk: safetensors (one file or shards), CTranslate2's container or whisper.cpp's file,
read lazily as memory maps.

Owns the tensor names of the published layout and the check that all of them are there. Knows no engine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.data_packages import recorded_digest
from backends.interface import ModelUnavailable
from backends.model_files import CONTAINER, JoinedFile, read_json, safetensors_head, shard_names
from backends.whisper.config import ModelDimensions, container_of
from backends.whisper.formats.ctranslate2 import Container, Variable, published_tensors
from backends.whisper.formats.ggml import ggml_of
from backends.whisper.formats.ggml_blocks import BLOCK_BYTES, dequantised, row_bytes

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_QUANTISED = {"I8": "<i1", "I16": "<i2"}  # floats only with a scale
_NAMES_SHOWN = 8
_ENCODER_POSITIONS = "encoder.embed_positions.weight"


@dataclass(frozen=True, slots=True)
class _Entry:
    """scale: of quantised rows, by which each is to be divided."""

    file: JoinedFile
    dtype: str
    shape: tuple[int, ...]
    offset: int
    scale: _Entry | None = None

    def raw(self) -> NDArray[Any]:
        """The memory map itself (bfloat16 appears as uint16, blocks as the bytes of each row); a copy if it lies across
        the end of a part."""
        if self.dtype in BLOCK_BYTES:
            rows, length = math.prod(self.shape[:-1]), row_bytes(self.dtype, self.shape[-1])
            return self.file.bytes_at(self.offset, rows * length).reshape(*self.shape[:-1], length)
        element = np.dtype(_DTYPES.get(self.dtype) or _QUANTISED[self.dtype])
        count = math.prod(self.shape or (1,))
        return self.file.bytes_at(self.offset, count * element.itemsize).view(element).reshape(self.shape or (1,))


class Checkpoint:
    """Tensors by their published name without the `model.` prefix; `checkpoint[name]` is float32, copied out of the
    map."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        container = container_of(folder)
        self._is_container = container is not None
        self._entries: dict[str, _Entry] = {}
        self._tables: dict[str, NDArray[Any]] = {}
        if container is not None:
            self.files = list(container.file.parts)
            self._entries.update(_stored_entries(container))
        elif ggml := ggml_of(folder):
            self.files = list(ggml.file.parts)
            self._entries.update({name: _Entry(ggml.file, *stored) for name, stored in ggml.tensors.items()})
        else:
            self.files = _weight_files(folder)
            for path in self.files:
                self._entries.update(_read_header(path))
        # Tied weights are stored once, under either name.
        if "proj_out.weight" in self._entries:
            self._entries.setdefault("decoder.embed_tokens.weight", self._entries["proj_out.weight"])

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def is_float(self, name: str) -> bool:
        return self._entries[name].dtype in (*_DTYPES, *BLOCK_BYTES) or self._entries[name].scale is not None

    def has_own_head(self) -> bool:
        """Is there an output matrix whose values are not those of the embedding?"""
        head, table = self._entries.get("proj_out.weight"), self._entries["decoder.embed_tokens.weight"]
        if head is None or head == table:
            return False
        if head.shape != table.shape:
            return True
        return not np.array_equal(head.raw(), table.raw())

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        entry = self._entries[name]
        values = _as_float32(entry.raw(), entry.dtype)
        return values if entry.scale is None else _scaled(values, entry.scale.raw())

    def row_steps(self, name: str) -> NDArray[np.float32] | None:
        """The size of one step of each row of a matrix that is stored in int8: float32 [rows]; None for other
        matrices."""
        scale = self._entries[name].scale
        return np.float32(1) / _as_float32(scale.raw(), scale.dtype) if scale is not None and scale.shape else None

    def rows(self, name: str, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows of a matrix; only their pages are read. Its map is kept: this is asked for every token."""
        entry = self._entries[name]
        if name not in self._tables:
            self._tables[name] = entry.raw()
        values = _as_float32(self._tables[name][index], entry.dtype)
        if entry.scale is None:
            return values
        scale = _as_float32(entry.scale.raw(), entry.scale.dtype)
        return np.divide(values, scale[index][..., None] if entry.scale.shape else scale, dtype=np.float32)

    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def content_hash(self) -> str:
        """SHA-256 over the weight files' content; remembered by size and time in the folder if that can be written."""
        if self._is_container and (known_digest := recorded_digest(self.folder, CONTAINER)):
            return known_digest
        marks = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in self.files]
        memo = self.folder / ".content-hash.json"
        try:
            known = json.loads(memo.read_text(encoding="utf-8"))
            if known["files"] == marks:
                return str(known["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            known = None  # never computed here, or not readable: computed below
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        try:
            memo.write_text(json.dumps({"files": marks, "sha256": digest.hexdigest()}), encoding="utf-8")
        except OSError:
            return digest.hexdigest()  # a read-only folder: hashed anew at the next start
        return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    """model.safetensors, else the shards of its index, else the one safetensors file there is."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            files = [folder / name for name in sorted(shard_names(read_json(index)))]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelUnavailable(f"{index} is garbled: {error}; pull the model again") from error
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise ModelUnavailable(f"{folder} lacks weight files: {_some(missing)}; pull the model again")
        return files
    others = sorted(folder.glob("*.safetensors"))
    if len(others) != 1:
        names = ", ".join(path.name for path in others) or "none"
        raise ModelUnavailable(f"{folder} has no model.safetensors (safetensors files: {names}); pull the model again")
    return others


def _read_header(path: Path) -> dict[str, _Entry]:
    """The tensors of a safetensors file by name. Raises ModelUnavailable for a broken one."""
    try:
        table, base = safetensors_head(path)
        return dict(_entries(JoinedFile(path), table, base))
    except EOFError as error:
        raise ModelUnavailable(f"{path} is truncated or not a safetensors file; pull the model again") from error
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError) as error:
        raise ModelUnavailable(f"{path} has a broken header: {error}") from error


def _entries(file: JoinedFile, table: Mapping[str, Any], base: int) -> Iterator[tuple[str, _Entry]]:
    """Tensors of other types than floats (counters, masks) may lie beside the weights; nobody reads them."""
    for name, item in table.items():
        shape = tuple(int(n) for n in item["shape"])
        first, last = (int(n) for n in item["data_offsets"])
        element = _DTYPES.get(item["dtype"])
        wanted = last - first if element is None else math.prod(shape) * np.dtype(element).itemsize
        if last - first != wanted or first < 0 or wanted < 0:
            raise ModelUnavailable(f"{file}: tensor {name[:80]} has a wrong length")
        if base + last > file.size:
            raise ModelUnavailable(
                f"{file} is truncated ({file.size} bytes, {base + last} needed); pull the model again"
            )
        yield name.removeprefix("model."), _Entry(file, item["dtype"], shape, base + first)


def _stored_entries(container: Container) -> Iterator[tuple[str, _Entry]]:
    """The tensors of a CTranslate2 file. Raises ModelUnavailable for a bias that our network does not add."""

    def entry(variable: Variable, scale: _Entry | None = None) -> _Entry:
        return _Entry(container.file, variable.dtype, variable.shape, variable.offset, scale)

    for name, tensor in published_tensors(container):
        stored = entry(tensor.values, None if tensor.scale is None else entry(tensor.scale))
        if not tensor.must_be_zero:
            yield name, stored
        elif stored.raw().any():
            raise ModelUnavailable(f"{container.file}: {name} is not zero, which no published Whisper has")


def _as_float32(raw: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        wide: NDArray[np.float32] = (raw.astype(np.uint32) << 16).view(np.float32)
        return wide
    if dtype in BLOCK_BYTES:
        return dequantised(raw, dtype)
    return np.array(raw, dtype=np.float32)


def _scaled(values: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Quantised rows as floats; one scale for each row or for all."""
    result: NDArray[np.float32] = values / scale.reshape(-1, *[1] * (values.ndim - 1))
    return result


def expected_shapes(dims: ModelDimensions) -> dict[str, tuple[int, ...]]:
    """Every tensor that a Whisper of this shape needs, by published name without prefix."""
    width = dims.width
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.conv1.weight": (width, dims.mels, 3),
        "encoder.conv1.bias": (width,),
        "encoder.conv2.weight": (width, width, 3),
        "encoder.conv2.bias": (width,),
        "decoder.embed_tokens.weight": (dims.vocabulary, width),
        "decoder.embed_positions.weight": (dims.target_positions, width),
    }
    shapes |= _norm("encoder.layer_norm", width) | _norm("decoder.layer_norm", width)
    for layer in range(dims.encoder_layers):
        prefix = f"encoder.layers.{layer}"
        shapes |= _attention(f"{prefix}.self_attn", width) | _feed_forward(prefix, width, dims.encoder_ffn)
        shapes |= _norm(f"{prefix}.self_attn_layer_norm", width)
    for layer in range(dims.decoder_layers):
        prefix = f"decoder.layers.{layer}"
        shapes |= _attention(f"{prefix}.self_attn", width) | _attention(f"{prefix}.encoder_attn", width)
        shapes |= _norm(f"{prefix}.self_attn_layer_norm", width) | _norm(f"{prefix}.encoder_attn_layer_norm", width)
        shapes |= _feed_forward(prefix, width, dims.decoder_ffn)
    if not dims.tied:
        shapes["proj_out.weight"] = (dims.vocabulary, width)
    return shapes


def _norm(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": (width,), f"{prefix}.bias": (width,)}


def _attention(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    """The key projection has no bias."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}.{name}_proj.weight": (width, width) for name in ("q", "k", "v", "out")
    }
    return shapes | {f"{prefix}.{name}_proj.bias": (width,) for name in ("q", "v", "out")}


def _feed_forward(prefix: str, width: int, ffn: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}.fc1.weight": (ffn, width),
        f"{prefix}.fc1.bias": (ffn,),
        f"{prefix}.fc2.weight": (width, ffn),
        f"{prefix}.fc2.bias": (width,),
    }
    return shapes | _norm(f"{prefix}.final_layer_norm", width)


def check(checkpoint: Checkpoint, dims: ModelDimensions) -> None:
    """Raise ModelUnavailable with the names of missing or misshapen tensors, or of those that are no floats."""
    expected = expected_shapes(dims)
    missing = [name for name in expected if name not in checkpoint]
    if missing:
        raise ModelUnavailable(
            f"{checkpoint.folder} lacks {len(missing)} tensors: {_some(missing)}; pull the model again"
        )
    if "proj_out.weight" in checkpoint:
        expected["proj_out.weight"] = (dims.vocabulary, dims.width)
    strange = [name for name in (*expected, _ENCODER_POSITIONS) if name in checkpoint and not checkpoint.is_float(name)]
    if strange:
        raise ModelUnavailable(f"{checkpoint.folder}: not of a float type: {_some(strange)}")
    wrong = [f"{name} {checkpoint.shape(name)}" for name, shape in expected.items() if checkpoint.shape(name) != shape]
    if wrong:
        raise ModelUnavailable(f"{checkpoint.folder} does not fit its config.json: {_some(wrong)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def encoder_positions(checkpoint: Checkpoint, dims: ModelDimensions) -> NDArray[np.float32]:
    """The encoder's position table [positions, width]; sinusoids where the file leaves them out."""
    name = _ENCODER_POSITIONS
    if name in checkpoint:
        if checkpoint.shape(name) != (dims.source_positions, dims.width):
            raise ModelUnavailable(f"{checkpoint.folder} does not fit its config.json: {name} {checkpoint.shape(name)}")
        return checkpoint[name]
    half = dims.width // 2
    rates = np.exp(-np.log(10_000) / (half - 1) * np.arange(half))
    angles = np.arange(dims.source_positions)[:, None] * rates[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def head_name(checkpoint: Checkpoint, dims: ModelDimensions) -> str:
    """The tensor that makes logits: the token embedding, unless the config unties them or the file holds another one
    (transformers ties no weights that differ, whatever the config says)."""
    return "proj_out.weight" if not dims.tied or checkpoint.has_own_head() else "decoder.embed_tokens.weight"
