"""Make a complete CSM deployment of small size with random weights: for the tests, for demonstrations, for CI.

    python scripts/make_tiny_csm.py models/tiny-csm --layout transformers

Everything that the real one has lies in the folder: config.json, weights in either key layout (transformers: two shards
with the codec inside; original: one file and Mimi beside it), tokenizer.json. It speaks noise, at the speed of the code
around the networks. The watermark lies apart, as it does in reality (tests/data/csm/silentcipher_tiny).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from backends.csm.codec_layouts import _transformers_name, moshi_config
from backends.csm.config import parse_config
from backends.csm.layouts import ORIGINAL, TRANSFORMERS, Layout
from backends.transformer import half_split, tensor_shapes

CODEBOOKS, BINS = 8, 32
TEXT = 320
ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0}
CODEC = {
    "model_type": "mimi",
    "hidden_size": 32,
    "num_filters": 4,
    "num_quantizers": CODEBOOKS,
    "codebook_size": BINS,
    "codebook_dim": 16,
    "vector_quantization_hidden_dimension": 16,
    "upsample_groups": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "sliding_window": 20,
    "sampling_rate": 24000,
}
CONFIG: dict[str, Any] = {
    "architectures": ["CsmForConditionalGeneration"],
    "model_type": "csm",
    "num_codebooks": CODEBOOKS,
    "vocab_size": BINS + 3,
    "text_vocab_size": TEXT,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_codebooks_embeddings": True,
    "rope_parameters": {**ROPE, "low_freq_factor": 0.125, "high_freq_factor": 0.5, "original_max_position_embeddings": 1024},
    "depth_decoder_config": {
        "num_codebooks": CODEBOOKS,
        "backbone_hidden_size": 64,
        "vocab_size": BINS + 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            **ROPE,
            "low_freq_factor": 0.001953125,
            "high_freq_factor": 0.0078125,
            "original_max_position_embeddings": 16,
        },
    },
    "codec_config": CODEC,
}
ORIGINAL_CONFIG = {
    "audio_num_codebooks": CODEBOOKS,
    "audio_vocab_size": BINS + 3,
    "text_vocab_size": TEXT,
    "backbone": {
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "embed_dim": 64,
        "head_dim": 16,
        "intermediate_dim": 128,
        "max_seq_len": 2048,
    },
    "decoder": {
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "embed_dim": 32,
        "head_dim": 8,
        "intermediate_dim": 64,
        "max_seq_len": 2048,
    },
}


def make_tiny_csm(folder: Path, layout: str = "transformers", seed: int = 0) -> Path:
    """Write the deployment into `folder`; the same seed gives the same model in both layouts."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "tokenizer.json")
    codec = codec_tensors(seed)
    if layout == "transformers":
        tensors = language_tensors(TRANSFORMERS, seed)
        tensors["depth_decoder.model.embed_tokens.weight"] = tensors[TRANSFORMERS.audio].clone()
        tensors |= {f"codec_model.{name}": tensor for name, tensor in transformers_codec(codec).items()}
        write_shards(folder, tensors)
        config: dict[str, Any] = CONFIG
    else:
        save_file(language_tensors(ORIGINAL, seed), folder / "model.safetensors")
        save_file(codec, folder / "mimi.safetensors")
        config = {**ORIGINAL_CONFIG, "codec_config": CODEC}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def language_tensors(layout: Layout, seed: int) -> dict[str, Tensor]:
    """The random language model in one of the layouts: the q and k rows follow the layout's rope convention."""
    config, generator = parse_config(CONFIG), torch.Generator().manual_seed(seed)
    tensors = {}
    for stack, rename in ((config.backbone, layout.backbone), (config.decoder, layout.decoder)):
        for name, shape in tensor_shapes(stack):
            tensor = torch.randn(shape, generator=generator)
            tensor = 1 + 0.1 * tensor if len(shape) == 1 else tensor * shape[1] ** -0.5
            part = name.rpartition(".")[2]
            if part in ("q", "k") and not layout.interleaved:
                tensor = half_split(tensor, stack.heads if part == "q" else stack.kv_heads)
            tensors[rename(name)] = tensor.contiguous()
    width, inner, audio = config.backbone.width, config.decoder.width, config.audio_vocabulary
    tensors[layout.text] = torch.randn(config.text_vocabulary, width, generator=generator)
    tensors[layout.audio] = torch.randn(config.codebooks * audio, width, generator=generator)
    tensors[layout.projection] = torch.randn(inner, width, generator=generator) * width**-0.5
    tensors[layout.first_head] = torch.randn(audio, width, generator=generator) * 0.4
    tensors[layout.other_heads] = torch.randn(config.codebooks - 1, inner, audio, generator=generator) * 0.5
    return tensors


def codec_tensors(seed: int) -> dict[str, Tensor]:
    """A random Mimi in moshi's published names, at the loudness of speech."""
    os.environ.setdefault("NO_TORCH_COMPILE", "1")
    from moshi.models.loaders import get_mimi

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = get_mimi(None, moshi_config(CODEC), num_codebooks=CODEBOOKS)
        for name, tensor in network.state_dict().items():
            if name.endswith("embedding_sum"):
                tensor.normal_()
            elif name.endswith(("cluster_usage", "_initialized")):
                tensor.fill_(1.0)
            elif "layer_scale" in name:
                tensor.fill_(0.1)
            elif name.startswith("decoder.model.") and name.endswith("bias"):
                tensor.zero_()  # else the biases outweigh the codes and every frame hums alike
        codes = torch.randint(0, BINS, (1, CODEBOOKS, 25))
        with torch.inference_mode():
            loudness = network.decode(codes).std()
        last = network.decoder.model[-1].conv.conv
        last.weight.data *= 0.1 / loudness
    names = {"in_projs.0.weight": "in_proj_weight", "out_projs.0.weight": "out_proj.weight"}
    state = {}
    for name, tensor in network.state_dict().items():
        for ours, published in names.items():
            name = name.replace(ours, published)
        state[name] = tensor.clone().contiguous()
    return state


def transformers_codec(codec: dict[str, Tensor]) -> dict[str, Tensor]:
    """moshi's names and rows -> those that transformers publishes."""
    heads, renamed = CODEC["num_attention_heads"], {}
    for name, tensor in codec.items():
        if not name.endswith("in_proj_weight"):
            renamed[_transformers_name(name)] = tensor
            continue
        for which, part in zip("qkv", tensor.chunk(3), strict=True):
            rows = part if which == "v" else half_split(part, int(str(heads)))
            renamed[_transformers_name(name).replace("in_proj_weight", f"{which}_proj.weight")] = rows.contiguous()
    return renamed


def write_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Two files and the index under the published, unusual stem."""
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    weight_map = {}
    for number, half in enumerate(halves, start=1):
        file = f"transformers-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, folder / file)
        weight_map |= dict.fromkeys(half, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "transformers.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_tokenizer(file: Path) -> None:
    """Bytes as tokens, with the special tokens of the CSM repository."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layout", choices=("transformers", "original"), default="transformers")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(make_tiny_csm(arguments.folder, arguments.layout, arguments.seed))


if __name__ == "__main__":
    main()
