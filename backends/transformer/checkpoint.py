"""Tensors from safetensors files by name, one at a time, with the exact key set and shapes demanded.

A tensor that is missing, has another shape or is not needed is an error that names it: a model that runs with
uninitialised or mixed-up weights gives plausible noise instead of failing. Knows no model; never reads a pickle.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from backends.interface import ModelUnavailable
from backends.model_files import read_json

# What a damaged header can make the library throw.
_UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, KeyError, ArithmeticError, AttributeError)
_LONGEST_FILE_NAME = 255  # characters, in an index
_NAMED_AT_MOST = 8  # tensors listed in one error message


class Checkpoint:
    """A set of named tensors. `take` remembers what was used, `finish` insists that nothing is left over."""

    def __init__(self, source: str, readers: Mapping[str, Callable[[], Tensor]]) -> None:
        self.source, self._readers, self._used = source, dict(readers), set[str]()

    @classmethod
    def from_files(cls, files: Sequence[Path]) -> Checkpoint:
        """All tensors of the files. Raises ModelUnavailable for an unreadable file or a name that occurs twice."""
        readers: dict[str, Callable[[], Tensor]] = {}
        for file in files:
            for name in _names(file):
                if name in readers:
                    raise ModelUnavailable(f"tensor {name} occurs in more than one file of {file.parent}")
                readers[name] = partial(_read, file, name)
        return cls(", ".join(sorted({str(file.parent) for file in files})), readers)

    @classmethod
    def from_folder(cls, folder: Path, index: str = "model.safetensors.index.json") -> Checkpoint:
        """The shards that `index` lists if it is there, else every *.safetensors file of the folder."""
        return cls.from_files(shards(folder, index))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], source: str = "memory") -> Checkpoint:
        return cls(source, {name: partial(_same, tensor) for name, tensor in tensors.items()})

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._readers)

    def under(self, prefix: str) -> Checkpoint:
        """The tensors whose names start with `prefix`, without it."""
        readers = {
            name.removeprefix(prefix): reader for name, reader in self._readers.items() if name.startswith(prefix)
        }
        return Checkpoint(self.source, readers)

    def joined(self, other: Checkpoint) -> Checkpoint:
        """The tensors of both."""
        return Checkpoint(self.source, {**self._readers, **other._readers})

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name. Raises ModelUnavailable, naming it, if it is missing or has another shape."""
        if name not in self._readers:
            raise ModelUnavailable(f"the checkpoint in {self.source} lacks tensor {name} {list(shape)}")
        tensor = self._readers[name]()
        if tuple(tensor.shape) != shape:
            raise ModelUnavailable(
                f"tensor {name} in {self.source} has shape {list(tensor.shape)}, "
                f"the configuration asks for {list(shape)}"
            )
        self._used.add(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, for dimensions that no configuration tells. Raises ModelUnavailable if it is missing."""
        self.demand([name])
        return tuple(self._readers[name]().shape)

    def reader(self, rename: Callable[[str], str]) -> Callable[[str, tuple[int, ...]], Tensor]:
        """`take` under other names: rename maps a canonical name of the model to the checkpoint's."""
        return lambda name, shape: self.take(rename(name), shape)

    def demand(self, names: Iterable[str]) -> None:
        """Raise ModelUnavailable naming those of `names` that are missing, all at once."""
        missing = [name for name in names if name not in self._readers]
        if missing:
            raise ModelUnavailable(f"the checkpoint in {self.source} lacks {_listed(missing)}")

    def finish(self, ignore: Iterable[str] = ()) -> None:
        """Raise ModelUnavailable for tensors that were not taken and match none of the regular expressions `ignore`."""
        patterns = [re.compile(pattern) for pattern in ignore]
        left = [name for name in sorted(self.names - self._used) if not any(p.fullmatch(name) for p in patterns)]
        if left:
            raise ModelUnavailable(
                f"the checkpoint in {self.source} holds {_listed(left)}, which this model does not have"
            )


def shards(folder: Path, index: str = "model.safetensors.index.json") -> list[Path]:
    """The weight files of a folder. Raises ModelUnavailable if there are none or one of the index is missing."""
    if not folder.is_dir():
        raise ModelUnavailable(f"there is no folder {folder}")
    listing = folder / index
    if not listing.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelUnavailable(f"{folder} holds no *.safetensors file")
        return files
    files = [folder / name for name in sorted(set(_weight_map(listing).values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelUnavailable(f"{folder} lacks the weight file {_listed(missing)}, which {index} lists")
    return files


def llama_names(prefix: str = "model.") -> Callable[[str], str]:
    """Canonical names to those of transformers' Llama: "layers.0.q" -> "model.layers.0.self_attn.q_proj.weight"."""
    return renamed(
        prefix,
        {
            "attention_norm": "input_layernorm.weight",
            "q": "self_attn.q_proj.weight",
            "k": "self_attn.k_proj.weight",
            "v": "self_attn.v_proj.weight",
            "o": "self_attn.o_proj.weight",
            "mlp_norm": "post_attention_layernorm.weight",
            "gate": "mlp.gate_proj.weight",
            "up": "mlp.up_proj.weight",
            "down": "mlp.down_proj.weight",
        },
        norm="norm.weight",
    )


def renamed(prefix: str, parts: Mapping[str, str], norm: str, layers: str = "layers.") -> Callable[[str], str]:
    """A rename from the names of a layer's nine parts, the final norm, and what stands before a layer's number."""

    def rename(name: str) -> str:
        if name == "norm":
            return prefix + norm
        _, layer, part = name.split(".")
        return f"{prefix}{layers}{layer}.{parts[part]}"

    return rename


def _names(file: Path) -> list[str]:
    try:
        with safe_open(str(file), "pt") as handle:
            return list(handle.keys())
    except _UNREADABLE as error:
        raise ModelUnavailable(f"{file} is not a readable safetensors file: {error!r}") from error


def _read(file: Path, name: str) -> Tensor:
    """The tensor in a memory map of its own, freed with it: one map for all would keep all that was read."""
    try:
        with safe_open(str(file), "pt") as handle:
            tensor: Tensor = handle.get_tensor(name)
    except _UNREADABLE as error:
        raise ModelUnavailable(f"tensor {name} of {file} cannot be read: {error!r}") from error
    return tensor


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _weight_map(listing: Path) -> dict[str, str]:
    table = read_json(listing).get("weight_map")
    if not isinstance(table, dict) or not all(_is_file_name(name) for name in table.values()):
        raise ModelUnavailable(f"{listing} does not map names of tensors to names of files beside it")
    return table


def _is_file_name(name: object) -> bool:
    """Whether it can name a file in the folder of the index, and none elsewhere."""
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_FILE_NAME:
        return False
    return not any(sign in name for sign in "/\\:\0") and name not in (".", "..")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
