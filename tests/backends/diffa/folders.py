"""Random DIFFA folders of any size in the published layouts, and the tiny one's place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parents[2] / "data" / "diffa"


def generations() -> dict[str, dict[str, Any]]:
    """Every expected generation by its key, those of the plain loop and the accelerated ones."""
    folder = DATA / "expected"
    plain = json.loads((folder / "generations.json").read_text(encoding="utf-8"))["audio"]
    return plain | json.loads((folder / "accelerated.json").read_text(encoding="utf-8"))


def write_llada(
    folder: Path, *, width: int = 48, layers: int = 4, heads: int = 6, kv_heads: int | None = None, hidden: int = 112,
    rows: int = 320, shards: int = 3, seed: int = 0, scale: float = 2.5, **changes: Any,
) -> Path:  # fmt: skip
    """A random LLaDA with the tiny one's tokenizer. scale: of the logits, so that answers are far from ties."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DATA / "llm" / name).read_bytes())
    config = json.loads((DATA / "llm" / "config.json").read_text(encoding="utf-8"))
    config |= {"d_model": width, "n_layers": layers, "n_heads": heads, "n_kv_heads": kv_heads or heads}
    config |= {"mlp_hidden_size": hidden, "vocab_size": rows, "embedding_size": rows} | changes
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = random_llada(width, layers, heads, kv_heads or heads, hidden, rows, seed, scale)
    names, weight_map = sorted(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        here = names[shard::shards]
        save_file({name: tensors[name] for name in here}, folder / file)
        weight_map |= dict.fromkeys(here, file)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    return folder


def random_llada(
    width: int, layers: int, heads: int, kv_heads: int, hidden: int, rows: int, seed: int, scale: float
) -> dict[str, Tensor]:
    """Tensors under the published names."""
    noise = torch.Generator().manual_seed(seed)

    def matrix(out: int, into: int) -> Tensor:
        return torch.randn(out, into, generator=noise) * into**-0.5

    keys = kv_heads * width // heads
    shapes = {"q_proj": (width, width), "k_proj": (keys, width), "v_proj": (keys, width), "attn_out": (width, width)}
    shapes |= {"ff_proj": (hidden, width), "up_proj": (hidden, width), "ff_out": (width, hidden)}
    prefix = "model.transformer."
    tensors = {
        f"{prefix}wte.weight": torch.randn(rows, width, generator=noise),
        f"{prefix}ln_f.weight": torch.ones(width),
    }
    tensors[f"{prefix}ff_out.weight"] = matrix(rows, width) * scale
    for layer in range(layers):
        block = f"{prefix}blocks.{layer}."
        tensors |= {f"{block}{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        for norm in ("attn_norm", "ff_norm"):
            tensors[f"{block}{norm}.weight"] = 1 + 0.1 * torch.randn(width, generator=noise)
    return tensors


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
