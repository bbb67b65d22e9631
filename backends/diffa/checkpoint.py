"""Opening a model folder, whatever way its weights are stored.

Owns the order of preference (sharded or single safetensors, then the published pickle under weights_only) and the
reading of config.json. Which tensors are demanded is the caller's business.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backends.interface import ModelUnavailable
from backends.model_files import read_json
from backends.transformer.checkpoint import Checkpoint, shards

_SINGLE, _PICKLE = "model.safetensors", "pytorch_model.bin"


def open_checkpoint(folder: Path) -> Checkpoint:
    """The folder's tensors by name. Raises ModelUnavailable if it holds none or they cannot be read."""
    if (folder / f"{_SINGLE}.index.json").is_file():
        return Checkpoint.from_folder(folder)
    if (folder / _SINGLE).is_file():
        return Checkpoint.from_files([folder / _SINGLE])
    pickles = [] if any(folder.glob("*.safetensors")) else _pickles(folder)
    if not pickles:
        return Checkpoint.from_folder(folder)
    tensors = {name: tensor for file in pickles for name, tensor in read_pickle(file).items()}
    return Checkpoint.from_tensors(tensors, str(folder))


def _pickles(folder: Path) -> list[Path]:
    """The published pickle, or the shards that its index lists. Raises ModelUnavailable if one is missing."""
    if (folder / f"{_PICKLE}.index.json").is_file():
        return shards(folder, f"{_PICKLE}.index.json")
    return [folder / _PICKLE] if (folder / _PICKLE).is_file() else []


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ModelUnavailable."""
    return read_json(folder / "config.json")


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


def fill(module: nn.Module, checkpoint: Checkpoint, prefix: str = "", rename: Mapping[str, str] | None = None) -> None:
    """Put the checkpoint's tensors, in float32, into a module that was made on the meta device.

    rename: the module's own names -> those after `prefix` in the checkpoint. Raises ModelUnavailable naming what is
    missing or has another shape.
    """
    names = {name: prefix + (rename or {}).get(name, name) for name in module.state_dict()}
    checkpoint.demand(names.values())
    shapes = {name: tuple(empty.shape) for name, empty in module.state_dict().items()}
    # A copy: a mapped file must not stay open, or change under the model.
    tensors = {name: checkpoint.take(names[name], shapes[name]).to(torch.float32, copy=True) for name in names}
    module.load_state_dict(tensors, assign=True)
