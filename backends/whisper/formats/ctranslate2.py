"""Whispers in CTranslate2's container (model.bin), as faster-whisper publishes them: found by content, read in place.

Owns the container's layout and the names in it, and tells them in the words of the published layout: its tensors (which
all are rows of the stored ones, so nothing is copied), its config.json and its generation_config.json. Little endian
throughout: a version, the model's kind, its variables one after another, then aliases. Knows no engine.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.interface import ModelUnavailable
from backends.model_files import JoinedFile

_VERSION, _KIND, _REVISION = (
    6,
    "WhisperSpec",
    3,
)  # of the container and of Whisper in it, as CTranslate2 3 and 4 write them
_START = struct.pack("<IH", _VERSION, len(_KIND) + 1)[4:] + _KIND.encode() + b"\0"  # what stands behind the version
_TYPES = {0: "F32", 1: "I8", 2: "I16", 3: "I32", 4: "F16", 5: "BF16"}
_SIZES = {"F32": 4, "I8": 1, "I16": 2, "I32": 4, "F16": 2, "BF16": 2}
_ACTIVATIONS = {0: "relu", 3: "gelu"}
_MOST_VARIABLES, _MOST_DIMENSIONS = 100_000, 8
_ENGLISH_VOCABULARY = 51_864  # of the published English-only models, whose files list languages all the same
_LAST_INITIAL_TIMESTAMP = 50  # of every published generation config; the container does not keep it


@dataclass(frozen=True, slots=True)
class Variable:
    """A stored array: dtype in safetensors' words; offset: of its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * _SIZES[self.dtype]

    def rows(self, first: int, count: int) -> Variable:
        """Some rows, which lie together."""
        return Variable(self.dtype, (count, *self.shape[1:]), self.offset + first * self.row_bytes)


@dataclass(frozen=True, slots=True)
class Container:
    """What the head of a file tells: its variables by name, aliases followed."""

    file: JoinedFile
    variables: Mapping[str, Variable]

    def scalar(self, name: str, default: int | None = None) -> int:
        """A whole number that is stored as an array without dimensions. Raises ModelUnavailable if it is not there."""
        variable = self.variables.get(name)
        if variable is None and default is not None:
            return default
        if variable is None or variable.shape or variable.dtype not in ("I8", "I16", "I32"):
            raise ModelUnavailable(f"{self.file} has no number {name}")
        return int.from_bytes(self.file.read(variable.offset, _SIZES[variable.dtype]), "little", signed=True)

    def array(self, name: str, dimensions: int) -> Variable:
        """An array of so many dimensions. Raises ModelUnavailable with its name."""
        variable = self.variables.get(name)
        if variable is None or len(variable.shape) != dimensions:
            raise ModelUnavailable(f"{self.file} has no array {name} of {dimensions} dimensions")
        return variable


def is_ctranslate2(file: JoinedFile) -> bool:
    """Whether a file begins as a Whisper in this container does, of whatever version."""
    return file.size >= 4 + len(_START) and file.read(4, len(_START)) == _START


# --- The container ----------------------------------------------------------------------------------------------------


class _Reader:
    """Reads forwards and refuses to read beyond the end."""

    def __init__(self, file: JoinedFile) -> None:
        self._file, self.at = file, 0

    def skip(self, count: int) -> int:
        """Returns where the bytes begin that are passed over."""
        begin = self.at
        if count > self._file.size - begin:
            raise ModelUnavailable(
                f"{self._file} is truncated: {count} bytes belong at {begin}, the file has {self._file.size}"
            )
        self.at += count
        return begin

    def number(self, count: int) -> int:
        return int.from_bytes(self._file.read(self.skip(count), count), "little")

    def text(self) -> str:
        """Its length, which includes a closing zero, then the bytes."""
        length = self.number(2)
        raw = self._file.read(self.skip(length), length)
        if not raw.endswith(b"\0"):
            raise ModelUnavailable(f"{self._file} is damaged: no name ends at byte {self.at}")
        try:
            return raw[:-1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelUnavailable(f"{self._file} is damaged: the name at byte {self.at} is no UTF-8") from error


def read_container(file: JoinedFile) -> Container:
    """The head of a file; the arrays themselves are not read. Raises ModelUnavailable with what is wrong."""
    reader = _Reader(file)
    version, kind, revision = reader.number(4), reader.text(), reader.number(4)
    if (version, kind, revision) != (_VERSION, _KIND, _REVISION):
        raise ModelUnavailable(
            f"{file} is a CTranslate2 file of version {version}, kind {kind[:40]!r}, revision {revision}; known "
            f"is {_KIND!r}"
            f" in version {_VERSION}, revision {_REVISION}: convert the model anew"
        )
    variables: dict[str, Variable] = {}
    for _ in range(_count(reader, file)):
        name, variable = _variable(reader, file)
        if name in variables:
            raise ModelUnavailable(f"{file} is damaged: it has {name[:80]!r} twice")
        variables[name] = variable
    for _ in range(_count(reader, file)):
        alias, name = reader.text(), reader.text()
        if name not in variables or alias in variables:
            raise ModelUnavailable(f"{file} is damaged: its alias {alias[:80]!r} leads nowhere")
        variables[alias] = variables[name]
    if reader.at != file.size:
        raise ModelUnavailable(f"{file} has {file.size - reader.at} bytes behind its end")
    return Container(file, variables)


def _count(reader: _Reader, file: JoinedFile) -> int:
    count = reader.number(4)
    if count > _MOST_VARIABLES:
        raise ModelUnavailable(f"{file} is damaged: it claims {count} entries")
    return count


def _variable(reader: _Reader, file: JoinedFile) -> tuple[str, Variable]:
    name, rank = reader.text(), reader.number(1)
    if rank > _MOST_DIMENSIONS:
        raise ModelUnavailable(f"{file} is damaged: {name[:80]!r} claims {rank} dimensions")
    shape = tuple(reader.number(4) for _ in range(rank))
    kind, length = reader.number(1), reader.number(4)
    dtype = _TYPES.get(kind)
    if dtype is None:
        raise ModelUnavailable(f"{file}: {name[:80]!r} is of the unknown type {kind}")
    if length != math.prod(shape) * _SIZES[dtype]:
        raise ModelUnavailable(f"{file} is damaged: {name[:80]!r} {shape} of {dtype} has {length} bytes")
    return name, Variable(dtype, shape, reader.skip(length))


# --- In the words of the published layout -----------------------------------------------------------------------------


def published_config(container: Container) -> dict[str, Any]:
    """The keys of config.json that tell the shape. Raises ModelUnavailable for what our network does not compute."""
    for name, needed in (("pre_norm", 1), ("scale_embeddings", 0), ("alibi", 0), ("start_from_zero_embedding", 0)):
        if container.scalar(f"decoder/{name}", needed) != needed:
            raise ModelUnavailable(f"{container.file}: decoder/{name} is not {needed}, which no published Whisper has")
    activation = container.scalar("decoder/activation", 3)
    if container.scalar("encoder/activation", activation) != activation or activation not in _ACTIVATIONS:
        raise ModelUnavailable(f"{container.file}: activation {activation} is not supported (0: ReLU, 3: GELU)")
    width, mels, _ = container.array("encoder/conv1/weight", 3).shape
    own_head = container.variables.get("decoder/projection/weight")
    table = container.array("decoder/embeddings/weight", 2)
    config = {
        "model_type": "whisper",
        "d_model": width,
        "num_mel_bins": mels,
        "vocab_size": table.shape[0],
        "max_source_positions": container.array("encoder/position_encodings/encodings", 2).shape[0],
        "max_target_positions": container.array("decoder/position_encodings/encodings", 2).shape[0],
        "activation_function": _ACTIVATIONS[activation],
        "tie_word_embeddings": own_head in (None, table),
    }
    for side in ("encoder", "decoder"):
        config[f"{side}_layers"] = _layers(container, side)
        config[f"{side}_attention_heads"] = container.scalar(f"{side}/num_heads")
        config[f"{side}_ffn_dim"] = container.array(f"{side}/layer_0/ffn/linear_0/weight", 2).shape[0]
    return config


def _layers(container: Container, side: str) -> int:
    numbers = {
        int(match[1]) for name in container.variables if (match := re.match(rf"{side}/layer_(\d{{1,9}})/", name))
    }
    if numbers != set(range(len(numbers))):
        raise ModelUnavailable(f"{container.file}: the {side} has gaps among its {len(numbers)} layers")
    return len(numbers)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A published tensor: rows of a stored array; scale: of quantised ones, by which each row (or, without dimensions,
    the whole) is to be divided; must_be_zero: a bias that the published layout does not have."""

    values: Variable
    scale: Variable | None = None
    must_be_zero: bool = False


_LINEAR = {  # stored name within a layer -> published names, whose rows lie one below the other
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
_NORMS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
}
_OUTER = {
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
    "position_encodings/encodings": "embed_positions.weight",
    "embeddings/weight": "embed_tokens.weight",
    **{f"conv{n}/{part}": f"conv{n}.{part}" for n in (1, 2) for part in ("weight", "bias")},
}
_PARTS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
_STORED = re.compile(r"(encoder|decoder)/(?:layer_(\d+)/)?(.+)")


def published_tensors(container: Container) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by its published name without prefix. Names that no Whisper has are an error, as are missing
    scales."""
    for name, variable in container.variables.items():
        if not variable.shape or name.endswith("_scale"):
            continue
        if name == "decoder/projection/weight":
            yield "proj_out.weight", Tensor(variable, _scale(container, name, variable))
            continue
        names = _published_names(name)
        if not names:
            raise ModelUnavailable(f"{container.file} has the array {name[:80]!r}, which is no part of a Whisper")
        yield from _split(container, name, variable, names)


def _published_names(name: str) -> list[str]:
    """The published names of a stored array, [] for a stranger."""
    match = _STORED.fullmatch(name)
    if match is None:
        return []
    side, layer, inner = match.groups()
    if layer is None:
        return [f"{side}.{_OUTER[inner]}"] if inner in _OUTER else []
    stem, _, part = inner.rpartition("/")
    targets = _LINEAR.get(stem, ()) if part in ("weight", "bias") else (_NORMS[stem],) if stem in _NORMS else ()
    return [f"{side}.layers.{layer}.{target}.{_PARTS[part]}" for target in targets] if part in _PARTS else []


def _split(container: Container, name: str, variable: Variable, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    count, left = divmod(variable.shape[0], len(names))
    if left:
        raise ModelUnavailable(
            f"{container.file}: {name} {variable.shape} does not hold {len(names)} arrays of one size"
        )
    scale = _scale(container, name, variable)
    for index, published in enumerate(names):
        own = scale.rows(index * count, count) if scale is not None and scale.shape else scale
        yield published, Tensor(variable.rows(index * count, count), own, published.endswith("k_proj.bias"))


def _scale(container: Container, name: str, variable: Variable) -> Variable | None:
    """The scale of a quantised array: one for each row of int8, one for all of int16."""
    stored = container.variables.get(f"{name}_scale")
    if name == "decoder/projection/weight" and stored is None:
        stored = container.variables.get("decoder/embeddings/weight_scale")
    needed = {"I8": (variable.shape[0],), "I16": ()}.get(variable.dtype)
    if needed is None:
        return None
    if stored is None or stored.shape != needed or stored.dtype != "F32":
        raise ModelUnavailable(f"{container.file}: the scale of {name} is missing or of another shape")
    return stored


def published_generation_config(
    own: Mapping[str, Any], tokenizer: Mapping[str, Any], vocabulary: int
) -> dict[str, Any]:
    """generation_config.json from the config.json beside a container and from tokenizer.json.

    The first holds suppressed tokens, alignment heads and the ids of languages; the names of those, and the other
    special tokens, are the added tokens of the second. Raises ValueError, TypeError, KeyError for garbled files.
    """
    added = {str(token["content"]): int(token["id"]) for token in tokenizer.get("added_tokens") or ()}
    languages = set(own.get("lang_ids") or ())
    found = {
        name: number
        for name, number in added.items()
        if number in languages and re.fullmatch(r"<\|[a-z]{2,3}\|>", name)
    }
    several = bool(found) and vocabulary != _ENGLISH_VOCABULARY
    return {
        "decoder_start_token_id": added.get("<|startoftranscript|>"),
        "eos_token_id": added.get("<|endoftext|>"),
        "no_timestamps_token_id": added.get("<|notimestamps|>"),
        "prev_sot_token_id": added.get("<|startofprev|>"),
        "lang_to_id": found if several else {},
        "task_to_id": {task: added[f"<|{task}|>"] for task in ("transcribe", "translate") if f"<|{task}|>" in added},
        "is_multilingual": several,
        "suppress_tokens": own.get("suppress_ids"),
        "begin_suppress_tokens": own.get("suppress_ids_begin"),
        "alignment_heads": own.get("alignment_heads"),
        "max_initial_timestamp_index": _LAST_INITIAL_TIMESTAMP,
    }
