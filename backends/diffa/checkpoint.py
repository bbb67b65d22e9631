"""Reading named tensors out of a model folder, whatever way its weights are stored.

Owns the order of preference (sharded or single safetensors, then a pickle under weights_only) and the errors of a broken
folder. Knows no architecture: callers ask for names and get tensors, or an error that names what is missing.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backends.interface import ModelUnavailable

_NAMED_IN_MESSAGE = 8


class Checkpoint:
    """All tensors of one folder; nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelUnavailable for a folder without weights, with a missing shard or with an unreadable file."""
        self.folder = folder
        self._file_of = _index(folder)
        self._pickles: dict[Path, Mapping[str, Tensor]] = {}

    def names(self) -> set[str]:
        return set(self._file_of)

    def load(self, names: Iterable[str], convert: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """The tensors called `names`, in the stored dtype unless `convert` changes them. Raises ModelUnavailable."""
        wanted = list(names)
        self.require(wanted)
        tensors: dict[str, Tensor] = {}
        for file in dict.fromkeys(self._file_of[name] for name in wanted):
            here = [name for name in wanted if self._file_of[name] == file]
            for name, tensor in self._read(file, here):
                tensors[name] = convert(tensor) if convert else tensor
        return tensors

    def require(self, names: Iterable[str]) -> None:
        """Raises ModelUnavailable naming those of `names` that the folder lacks."""
        missing = [name for name in names if name not in self._file_of]
        if missing:
            raise ModelUnavailable(f"{self.folder} lacks {len(missing)} tensors: {_some(missing)}")

    def _read(self, file: Path, names: list[str]) -> Iterable[tuple[str, Tensor]]:
        if file.suffix != ".safetensors":
            pickled = self._pickles.setdefault(file, read_pickle(file))
            return [(name, pickled[name]) for name in names]
        return _read_safetensors(file, names)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ModelUnavailable."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelUnavailable(f"{path} does not hold a JSON object")
    return config


def read_pickle(file: Path) -> Mapping[str, Tensor]:
    """Tensors of a torch.save file. Anything in it but plain tensors is refused (weights_only)."""
    try:
        # The published file may carry a copy of the whole language model: mapped, it costs no memory.
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ModelUnavailable(f"{file} is not a file of plain tensors and was refused: {error}") from error
    if not isinstance(loaded, Mapping):
        raise ModelUnavailable(f"{file} does not hold a table of tensors")
    return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}


def _index(folder: Path) -> dict[str, Path]:
    """Tensor name -> file, from the best format that the folder has."""
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return _from_index(index)
        if (folder / stem).is_file():
            return dict.fromkeys(_names_in(folder / stem), folder / stem)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelUnavailable(f"{folder} holds no weights (model.safetensors, its index, or pytorch_model.bin)")
    return {name: file for file in files for name in _names_in(file)}


def _from_index(index: Path) -> dict[str, Path]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"{index} cannot be read: {error!r}") from error
    # Shards lie beside their index; a path that leads elsewhere is not followed.
    shards = {shard: index.parent / Path(shard).name for shard in weight_map.values()}
    missing = sorted(shard for shard, file in shards.items() if not file.is_file())
    if missing:
        raise ModelUnavailable(f"{index.parent} lacks the shards {_some(missing)}")
    return {name: shards[shard] for name, shard in weight_map.items()}


def _names_in(file: Path) -> list[str]:
    if file.suffix != ".safetensors":
        return list(read_pickle(file))
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(f"{file} cannot be read: {error}") from error


def _read_safetensors(file: Path, names: list[str]) -> Iterable[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            for name in names:
                yield name, opened.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(f"{file} cannot be read: {error}") from error


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMED_IN_MESSAGE])
    rest = len(names) - _NAMED_IN_MESSAGE
    return f"{shown} and {rest} more" if rest > 0 else shown
