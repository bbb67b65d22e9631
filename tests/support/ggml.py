"""Writes Whispers as whisper.cpp's files, from the published layout or from any folder that can be read here: what its
converter and its quantiser would make."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from backends.whisper.audio import mel_filters
from backends.whisper.checkpoint import Checkpoint, encoder_positions, expected_shapes
from backends.whisper.config import read_dims
from backends.whisper.tokenizer import WhisperTokenizer
from tests.support.openai_whisper_names import openai_whisper_name

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}
KINDS = tuple(TYPES)
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2002, "q4_1": 2003, "q8_0": 2007, "q5_0": 2008, "q5_1": 2009}


def quantised(values: np.ndarray, kind: str) -> bytes:
    """Rows of blocks of 32 values."""
    rows = values.astype(np.float32).reshape(-1, 32)
    bits, has_minimum = int(kind[1]), kind.endswith("_1")
    low = rows.min(axis=1, keepdims=True) if has_minimum else np.zeros((len(rows), 1), np.float32)
    if bits == 8:
        scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    elif has_minimum:
        scale = (rows.max(axis=1, keepdims=True) - low) / (2**bits - 1)
    else:  # the largest magnitude becomes the least number, which has one step more
        scale = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1) / -(2 ** (bits - 1))
    whole = np.rint((rows - low) / np.where(scale == 0, 1, scale)).astype(np.int64)
    parts = [scale.astype("<f2").view(np.uint8), *([low.astype("<f2").view(np.uint8)] if has_minimum else [])]
    if bits == 8:
        return np.hstack([*parts, whole.astype(np.int8).view(np.uint8)]).tobytes()
    offset = np.clip(whole + (0 if has_minimum else 2 ** (bits - 1)), 0, 2**bits - 1).astype(np.uint8)
    if bits == 5:
        parts.append(np.packbits(offset >> 4, axis=1, bitorder="little"))
    return np.hstack([*parts, (offset[:, :16] & 15) | (offset[:, 16:] & 15) << 4]).tobytes()


def tensor(name: str, values: np.ndarray, kind: str) -> bytes:
    """As the converter chooses: what has one dimension, positions and the convolutions' biases in float32, and only
    matrices quantised."""
    if values.ndim == 1 or name.endswith("positional_embedding"):
        kind = "f32"
    elif values.ndim == 3 and kind not in ("f32", "f16"):
        kind = "f16"
    if name.startswith("encoder.conv") and name.endswith("bias"):
        values = values[:, None]
    head = struct.pack(f"<3i{values.ndim}i", values.ndim, len(name), TYPES[kind], *values.shape[::-1])
    data = values.astype({"f32": "<f4", "f16": "<f2"}[kind]).tobytes() if kind in ("f32", "f16") else None
    return head + name.encode() + (quantised(values, kind) if data is None else data)


def head(folder: Path, words: Sequence[bytes], **changes: int) -> bytes:
    """Everything before the tensors. changes: of fields of the shape."""
    dims = read_dims(folder)
    shape = {
        "vocabulary": dims.vocabulary,
        "positions": dims.source_positions,
        "width": dims.width,
        "heads": dims.encoder_heads,
        "layers": dims.encoder_layers,
        "text_positions": dims.target_positions,
        "text_width": dims.width,
        "text_heads": dims.decoder_heads,
        "text_layers": dims.decoder_layers,
        "mels": dims.mels,
        "type": 1,
    } | changes
    filters = mel_filters(dims.mels)
    parts = [b"lmgg", struct.pack("<11i", *shape.values()), struct.pack("<2i", *filters.shape), filters.tobytes()]
    parts += [struct.pack("<i", len(words)), *(struct.pack("<I", len(word)) + word for word in words)]
    return b"".join(parts)


def words_of(folder: Path) -> list[bytes]:
    """The ordinary tokens."""
    tokenizer = WhisperTokenizer(folder)
    end = tokenizer.token_id("<|endoftext|>")
    return [tokenizer.token_bytes(number) for number in range(end or 0)]


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """By stored name, float32."""
    checkpoint, dims = Checkpoint(folder), read_dims(folder)
    found = {openai_whisper_name(name): checkpoint[name] for name in expected_shapes(dims)}
    return {**found, "encoder.positional_embedding": encoder_positions(checkpoint, dims)}


def file(folder: Path, kind: str = "f16", extra: Mapping[str, np.ndarray] | None = None, **changes: int) -> bytes:
    """The bytes of a ggml-*.bin. extra: tensors that replace those of the folder or come on top."""
    found = {**tensors(folder), **(extra or {})}
    changes = {"type": _FILE_TYPES[kind], **changes}
    return head(folder, words_of(folder), **changes) + b"".join(tensor(n, v, kind) for n, v in found.items())


def write_folder(source: Path, target: Path, kind: str = "f16") -> Path:
    """A folder with the model in `source` as one file of whisper.cpp's, and nothing else."""
    target.mkdir(parents=True, exist_ok=True)
    (target / f"ggml-{kind}.bin").write_bytes(file(source, kind))
    return target
