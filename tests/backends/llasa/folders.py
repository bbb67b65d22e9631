"""Where the parity data lies, and folders written from it for the tests."""

from __future__ import annotations

import functools
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DATA = Path(__file__).resolve().parents[2] / "data" / "llasa"


def write_codec(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = None) -> Path:
    """A codec folder with the given tensors; config: replaces the fixture's."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is None:
        shutil.copy(DATA / "codec" / "config.json", folder / "config.json")
        shutil.copy(DATA / "codec" / "semantic_config.json", folder / "semantic_config.json")
    else:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def write_tokenizer(folder: Path, reserved: int) -> dict[str, int]:
    """The fixture's tokenizer with `reserved` further tokens before the speech tokens. Returns the ids of all
    tokens."""
    tokenizer = json.loads((DATA / "lm" / "tokenizer.json").read_text(encoding="utf-8"))
    entries = tokenizer["added_tokens"]
    at = next(i for i, entry in enumerate(entries) if entry["content"] == "<|s_0|>")
    first = entries[at]["id"]
    for entry in entries[at:]:
        entry["id"] += reserved
    extra = [{**entries[at], "id": first + i, "content": f"<|reserved_{i}|>"} for i in range(reserved)]
    tokenizer["added_tokens"] = entries[:at] + extra + entries[at:]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}


def write_lm(folder: Path, *, seed: int = 0, reserved: int = 5, tied: bool = False, **config: Any) -> Path:
    """A random Llama of transformers' own making with a LLASA tokenizer; config: keys of LlamaConfig."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = max(write_tokenizer(folder, reserved).values()) + 1
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    rope["original_max_position_embeddings"] = 64
    shape = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 16,
    }
    chosen = {**shape, "max_position_embeddings": 2048, "rope_parameters": rope, **config}
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=tied, initializer_range=0.2, **chosen)
    )
    model.save_pretrained(folder)
    return folder


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Peft uses names that transformers has deprecated."""

    @functools.wraps(function)
    def quietly(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **kwargs)

    return quietly


@quiet
def write_adapter(folder: Path, base: Path, *, seed: int = 0, **lora: Any) -> Path:
    """A random adapter made by peft for the model in `base`; lora: keys of LoraConfig."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    chosen = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **lora}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**chosen))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
            elif "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    return folder
