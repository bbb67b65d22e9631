"""LoRA adapters: found on disk, read through peft, and merged into weights one matrix at a time.

peft wraps a model that holds no weights at all, so the base is never in memory twice; each merged matrix is computed in
float32. An adapter that does not fit the base model is an error that says so. Knows no prompts and no voices.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backends.interface import ModelUnavailable
from backends.model_files import read_json
from backends.transformer.bounds import MOST_WIDTH
from backends.transformer.config import TensorReader

CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PLAIN = {"peft_type": "LORA", "bias": "none"}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,256}")  # of modules, with whole numbers of layers
_MOST_NAMES = 10_000
_SHOWN = 120  # characters of a wrong value that an error repeats
# Kinds of LoRA that are more than a product added to a matrix.
_OTHER_KINDS = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "megatron_config",
)
# Initialisations that subtract from the base's weights.
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter changes. deltas: weight name in the base -> matrix to add; replaced: weight name -> whole
    tensor."""

    folder: Path
    base: str
    deltas: Mapping[str, Tensor]
    replaced: Mapping[str, Tensor]

    @property
    def changed(self) -> set[str]:
        """Names of the base's weights that the adapter changes."""
        return {*self.deltas, *self.replaced}

    def over(self, take: TensorReader) -> TensorReader:
        """A reader of base weights that gives them with this adapter merged in."""

        def merged(name: str, shape: tuple[int, ...]) -> Tensor:
            weight = take(name, shape)
            for part in (self.replaced.get(name), self.deltas.get(name)):
                if part is not None and tuple(part.shape) != shape:
                    raise ModelUnavailable(
                        f"{_misfit(self.folder, self.base)}: {name} is {list(part.shape)}, not {list(shape)}"
                    )
            weight = self.replaced.get(name, weight)
            delta = self.deltas.get(name)
            return weight if delta is None else weight.float() + delta

        return merged


def adapter_folders(name: str, folder: Path) -> dict[str, Path]:
    """Voice name -> adapter folder: the folder itself, its checkpoint-N folders, and adapters lying beside each other
    in it."""
    if not folder.is_dir():
        raise ModelUnavailable(f"there is no adapter folder {folder}")
    adapters = {name: folder} if (folder / CONFIG).is_file() else {}
    inner = sorted((path.parent for path in folder.glob(f"*/{CONFIG}")), key=lambda path: (_step(path), path.name))
    adapters.update({f"{name}-{path.name}": path for path in inner})
    if not adapters:
        raise ModelUnavailable(f"{folder} holds no adapter (no {CONFIG}, nor folders such as checkpoint-100 with one)")
    return adapters


def adapter_base(folder: Path) -> str:
    """The base model that an adapter folder names, "" if it names none."""
    return str(_config(folder).get("base_model_name_or_path") or "")


def read_adapter(folder: Path, base_config: Path) -> Adapter:
    """An adapter for the Llama whose config.json lies at `base_config`. Raises ModelUnavailable if it does not fit."""
    config = _config(folder)
    _plain(config, folder / CONFIG)
    base = str(config.get("base_model_name_or_path") or "")
    misfit, names = _misfit(folder, base), _tensor_names(folder)
    try:
        model, weight_names = _wrapped(folder, base_config)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, ImportError) as error:
        raise ModelUnavailable(f"{misfit} or is damaged: {error}") from error
    whole = {_base_name(name): name for name in names if "lora_" not in name}
    _exact_fit(model, [name for name in names if "lora_" in name], misfit)
    if unknown := [name for base_name, name in whole.items() if base_name not in weight_names]:
        raise ModelUnavailable(f"{misfit}: there is no place for {', '.join(unknown[:4])}")
    return Adapter(folder, base, _deltas(model), _whole(folder, whole))


def _plain(config: Mapping[str, Any], path: Path) -> None:
    """Raise ModelUnavailable for whatever is more than LoRA on matrices, naming the setting."""
    other = [key for key, value in _PLAIN.items() if config.get(key, value) != value]
    other += [key for key in _OTHER_KINDS if config.get(key)]
    if str(config.get("init_lora_weights")).lower().startswith(_CHANGES_THE_BASE):
        other.append("init_lora_weights")
    if other:
        raise ModelUnavailable(f"{path} has {other[0]} = {_shown(config[other[0]])}; only plain LoRA can be merged")
    for key, right, must in _MUST_BE:
        if not right(config.get(key)):
            raise ModelUnavailable(f"{path} has {key} = {_shown(config[key])}; it must be {must}")


def _plain_names(value: object) -> bool:
    """None, or a list of names: peft takes a string for a regular expression, which can search for ever."""
    if value is None:
        return True
    if not isinstance(value, list) or len(value) > _MOST_NAMES:
        return False
    return all(isinstance(name, str) and _NAME.fullmatch(name) for name in value)


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_WIDTH


def _is_factor(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _table_of(right: Callable[[object], bool]) -> Callable[[object], bool]:
    """None, or plain names with numbers for which `right` holds: peft searches for these names as regular expressions,
    too."""

    def check(value: object) -> bool:
        return value is None or (
            isinstance(value, dict) and _plain_names(list(value)) and all(map(right, value.values()))
        )

    return check


_MUST_BE: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("target_modules", _plain_names, "a list of plain names of modules"),
    ("exclude_modules", _plain_names, "a list of plain names of modules"),
    ("modules_to_save", _plain_names, "a list of plain names of modules"),
    (
        "layers_pattern",
        lambda value: _plain_names([value] if isinstance(value, str) else value),
        "plain names of modules",
    ),
    ("r", lambda value: value is None or _is_rank(value), "a whole number above 0"),
    ("lora_alpha", lambda value: value is None or _is_factor(value), "a finite number above 0"),
    ("rank_pattern", _table_of(_is_rank), "plain names of modules with whole numbers above 0"),
    ("alpha_pattern", _table_of(_is_factor), "plain names of modules with finite numbers above 0"),
    ("megatron_core", lambda value: value in (None, "megatron.core"), "left at its usual value"),
)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _wrapped(folder: Path, base_config: Path) -> tuple[Any, set[str]]:
    """The base architecture without weights, wrapped by peft with the adapter's tensors in place; names of its
    weights."""
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        base = LlamaForCausalLM(LlamaConfig.from_json_file(str(base_config)))
    _weightless(base)
    weight_names = set(base.state_dict())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, str(folder), low_cpu_mem_usage=True, torch_device="cpu")
    missing = [str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message)]
    if missing:
        raise ValueError(missing[0])
    return model, weight_names


def _weightless(model: torch.nn.Module) -> None:
    """Give every parameter its shape but one number of memory: peft puts adapter tensors where the base's are."""
    nothing = torch.zeros(1)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(nothing.expand(parameter.shape), requires_grad=False))


def _exact_fit(model: Any, names: list[str], misfit: str) -> None:
    """Raise ModelUnavailable unless tensors and parameters match; an adapter of a deeper model has tensors to spare."""
    state = model.state_dict()
    empty = [name for name, tensor in state.items() if "lora_" in name and tensor.is_meta]
    if empty:
        raise ModelUnavailable(f"{misfit}: it has nothing for {', '.join(empty[:4])}")
    # The file leaves out the adapter's name; an embedding's factors are parameters themselves, without ".weight".
    spare = [name for name in names if re.sub(r"(\.weight|)$", r".default\1", name, count=1) not in state]
    if spare:
        raise ModelUnavailable(f"{misfit}: there is no place for {', '.join(spare[:4])}")


def _misfit(folder: Path, base: str) -> str:
    return f"the adapter in {folder} was made for another base model ({base or 'not named'})"


def _tensor_names(folder: Path) -> list[str]:
    path = folder / _WEIGHTS
    if not path.is_file():
        raise ModelUnavailable(f"{folder} holds no {_WEIGHTS} (pickled adapters are not read)")
    try:
        with safe_open(str(path), "pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError, ValueError, TypeError, ArithmeticError) as error:
        raise ModelUnavailable(f"{path} is not a readable safetensors file: {error}") from error


def _base_name(name: str) -> str:
    """The name in the base model of a tensor that replaces one: of a trained module, or of resized embeddings."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _whole(folder: Path, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The replacing tensors by their names in the base. names: in the base -> in the adapter's file."""
    with safe_open(str(folder / _WEIGHTS), "pt") as file:
        return {base_name: file.get_tensor(name) for base_name, name in names.items()}


def _deltas(model: Any) -> dict[str, Tensor]:
    deltas: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            with torch.inference_mode():
                delta = sum(module.get_delta_weight(active) for active in module.active_adapters)
            deltas[f"{name.removeprefix('base_model.model.')}.weight"] = delta.float()
    return deltas


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / CONFIG)


def _step(path: Path) -> int:
    number = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(number.group(1)) if number else -1
