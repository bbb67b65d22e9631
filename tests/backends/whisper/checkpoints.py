"""Randomly initialised Whispers in the published layout, with the reference implementation beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

LANGUAGES = ("en", "zh", "de", "es")
CORPUS = [" the quick brown fox", " jumps over the lazy dog", " größe und maß", " 日本語", "hello, world."] * 3


@dataclass(frozen=True)
class Reference:
    folder: Path
    model: WhisperForConditionalGeneration
    ids: dict[str, int]

    def features(self, samples: np.ndarray) -> torch.Tensor:
        extractor = WhisperFeatureExtractor(feature_size=self.model.config.num_mel_bins)
        return extractor(samples, sampling_rate=16_000, return_tensors="pt")["input_features"]

    def logits(self, samples: np.ndarray, tokens: list[int]) -> np.ndarray:
        with torch.no_grad():
            return self.model(self.features(samples), decoder_input_ids=torch.tensor([tokens])).logits[0].numpy()


def build_tokenizer(multilingual: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    names = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES if multilingual)]
    names += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", special=False, normalized=False) for i in range(1501)])
    return tokenizer


def generation_config(ids: dict[str, int], multilingual: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "begin_suppress_tokens": [ids["Ġ"], ids["<|endoftext|>"]],
        "bos_token_id": ids["<|endoftext|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "is_multilingual": multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
        # Random weights like timestamps, at which the reference's generate cuts its answer and decodes anew.
        "suppress_tokens": [ids[c] for c in "#*@"]
        + [ids["<|startoftranscript|>"], ids["<|translate|>"]]
        + list(range(ids["<|0.00|>"], ids["<|0.00|>"] + 1501)),
    }
    if multilingual:
        config["lang_to_id"] = {f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES}
        config["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    else:
        config["forced_decoder_ids"] = [[1, ids["<|notimestamps|>"]]]
    return config


def make_checkpoint(
    folder: Path, *, seed: int = 0, multilingual: bool = True, shards: str = "", **shape: Any
) -> Reference:
    """A small random Whisper. shards: max_shard_size of save_pretrained, "" for one file; shape: WhisperConfig
    fields."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(multilingual)
    ids = tokenizer.get_vocab()
    fields = {
        "vocab_size": len(ids),
        "num_mel_bins": 80,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 96,
        "max_target_positions": 64,
        "pad_token_id": ids["<|endoftext|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "begin_suppress_tokens": None,
        "init_std": 0.3,
    }
    model = WhisperForConditionalGeneration(WhisperConfig(**(fields | shape))).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = generation_config(ids, multilingual)
    (folder / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    model.generation_config = GenerationConfig.from_dict(config)
    return Reference(folder, model, ids)
