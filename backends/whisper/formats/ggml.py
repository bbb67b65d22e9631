"""Whispers in whisper.cpp's files (ggml-*.bin): found by content, read in place.

Owns the file's layout and the names in it, and tells them in the words of the published layout. Little endian: a magic
number, the shape, mel filters (the usual ones, so passed over), the words of the vocabulary, then tensors up to the
end. Knows no engine; what follows from the words is `ggml_vocabulary`'s.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from backends.interface import ModelUnavailable
from backends.model_files import JoinedFile, ggml_files
from backends.whisper.formats.ggml_blocks import TYPES, row_bytes

_HEAD = struct.Struct("<4x11i")
_FILTERS = struct.Struct("<2i")
_FILTER_BINS = 201
_MOST_DIMENSIONS, _LONGEST_NAME, _LONGEST_WORD = 4, 128, 1024
_LAYER = re.compile(r"(encoder|decoder)\.blocks\.(\d{1,4})\.([a-z_]+(?:\.(?:query|key|value|out|0|2))?)\.(weight|bias)")
_PARTS = {
    "attn_ln": "self_attn_layer_norm",
    "cross_attn_ln": "encoder_attn_layer_norm",
    "mlp_ln": "final_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    **{
        f"{ours}.{word}": f"{published}.{letter}_proj"
        for ours, published in (("attn", "self_attn"), ("cross_attn", "encoder_attn"))
        for word, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out"))
    },
}
_OUTER = {
    "decoder.token_embedding.weight": "decoder.embed_tokens.weight",
    **{f"{side}.positional_embedding": f"{side}.embed_positions.weight" for side in ("encoder", "decoder")},
    **{f"encoder.conv{n}.{part}": f"encoder.conv{n}.{part}" for n in (1, 2) for part in ("weight", "bias")},
    **{f"encoder.ln_post.{part}": f"encoder.layer_norm.{part}" for part in ("weight", "bias")},
    **{f"decoder.ln.{part}": f"decoder.layer_norm.{part}" for part in ("weight", "bias")},
}


class Stored(NamedTuple):
    """A tensor of the file. dtype: in safetensors' words, or of `ggml_blocks`; offset: of its first byte."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Ggml:
    """config: the shape in the words of config.json; words: bytes of each ordinary token; tensors: by published
    name."""

    file: JoinedFile
    config: Mapping[str, Any]
    words: tuple[bytes, ...]
    tensors: Mapping[str, Stored]


def ggml_of(folder: Path) -> Ggml | None:
    """The folder's model if it is one of these files. Raises ModelUnavailable if there are several, or if it is
    damaged."""
    files = ggml_files(folder)
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ModelUnavailable(f"{folder} holds several models: {names}; put one into a folder of its own")
    return _read(files[0], files[0].stat().st_size, files[0].stat().st_mtime_ns) if files else None


@lru_cache(maxsize=2)
def _read(path: Path, size: int, changed: int) -> Ggml:
    """size, changed: so that another file of that name is read anew. The tensors themselves are not read."""
    file = JoinedFile(path)
    data = file.bytes_at(0, size).data
    try:
        vocabulary, positions, width, heads, layers, text_positions, text_width, *rest = _HEAD.unpack_from(data)
        text_heads, text_layers, mels, _ = rest
        words, at = _words(data, _HEAD.size + _filters(data, mels), vocabulary)
        tensors = dict(_tensors(data, at))
    except (struct.error, ValueError) as error:
        raise ModelUnavailable(f"{file} is truncated or damaged: {error}") from error
    if width != text_width:
        raise ModelUnavailable(f"{file}: encoder and decoder have widths {width} and {text_width}; they must be equal")
    config = {"model_type": "whisper", "d_model": width, "num_mel_bins": mels, "vocab_size": vocabulary}
    config |= {"max_source_positions": positions, "max_target_positions": text_positions}
    config |= {"encoder_layers": layers, "encoder_attention_heads": heads, "encoder_ffn_dim": 4 * width}
    config |= {"decoder_layers": text_layers, "decoder_attention_heads": text_heads, "decoder_ffn_dim": 4 * width}
    return Ggml(file, config, words, tensors)


def _filters(data: memoryview, mels: int) -> int:
    """Bytes of the mel filters behind the head."""
    rows, bins = _FILTERS.unpack_from(data, _HEAD.size)
    if (rows, bins) != (mels, _FILTER_BINS):
        raise ValueError(f"its mel filters are {rows} x {bins}, not {mels} x {_FILTER_BINS}")
    return _FILTERS.size + 4 * mels * _FILTER_BINS


def _words(data: memoryview, at: int, vocabulary: int) -> tuple[tuple[bytes, ...], int]:
    """The words, and where they end."""
    (count,) = struct.unpack_from("<i", data, at)
    if not 0 < count <= vocabulary:
        raise ValueError(f"it claims {count} words of {vocabulary}")
    at, words = at + 4, list[bytes]()
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, at)
        if length > min(_LONGEST_WORD, len(data) - at - 4):
            raise ValueError(f"a word at byte {at} claims {length} bytes")
        words.append(bytes(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return tuple(words), at


def _tensors(data: memoryview, at: int) -> Iterator[tuple[str, Stored]]:
    """Tensors by published name. The innermost dimension stands first in the file."""
    seen = set[str]()
    while at < len(data):
        dimensions, length, kind = struct.unpack_from("<3i", data, at)
        if not 0 < dimensions <= _MOST_DIMENSIONS or not 0 < length <= _LONGEST_NAME:
            raise ValueError(f"no tensor begins at byte {at}")
        shape = struct.unpack_from(f"<{dimensions}i", data, at + 12)[::-1]
        at += 12 + 4 * dimensions
        name, dtype = bytes(data[at : at + length]).decode("utf-8"), TYPES.get(kind)
        published = _published_name(name)
        if dtype is None or not published or published in seen or min(shape) < 1:
            raise ValueError(f"tensor {name[:80]!r} {shape} of type {kind} is none of a Whisper, or is there twice")
        seen.add(published)
        size = math.prod(shape[:-1]) * row_bytes(dtype, shape[-1])
        if (at := at + length) + size > len(data):
            raise ValueError(f"{name} needs {size} bytes at {at}, the file has {len(data)}")
        yield published, Stored(dtype, (math.prod(shape),) if name.endswith(".bias") else shape, at)
        at += size


def _published_name(name: str) -> str:
    """The published name of a stored tensor, "" for a stranger."""
    match = _LAYER.fullmatch(name)
    part = _PARTS.get(match[3]) if match else None
    return f"{match[1]}.layers.{match[2]}.{part}.{match[4]}" if match and part else _OUTER.get(name, "")
