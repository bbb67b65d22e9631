"""The published layout of the miniature Whisper: tokenizer, generation config, safetensors in fp16, preprocessor config."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from backends.whisper.languages import LANGUAGES
from scripts.tiny_speech import PARTS

MELS = 80
TIMESTAMPS = 1501


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE in which every word of the vocabulary is one token, then Whisper's special tokens in their order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = {word for part in PARTS for pair in part for text in pair for word in text.split()}
    corpus = [f" {word}" for word in sorted(words)] * 4 + ["."]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False, min_frequency=2)
    tokenizer.train_from_iterator(corpus, trainer)
    names = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES)]
    names += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    times = [f"<|{index * 0.02:.2f}|>" for index in range(TIMESTAMPS)]
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in times])
    return tokenizer


def generation_config(tokenizer: Tokenizer, alignment_heads: list[list[int]]) -> GenerationConfig:
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("endoftext", "startoftranscript", "notimestamps")}
    specials = ("startoftranscript", "translate", "transcribe", "startoflm", "startofprev", "nospeech")
    return GenerationConfig(
        alignment_heads=alignment_heads,
        begin_suppress_tokens=[tokenizer.token_to_id("Ġ"), ids["endoftext"]],
        bos_token_id=ids["endoftext"],
        decoder_start_token_id=ids["startoftranscript"],
        eos_token_id=ids["endoftext"],
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": tokenizer.token_to_id(f"<|{code}|>") for code in LANGUAGES},
        max_initial_timestamp_index=50,
        max_length=448,
        no_timestamps_token_id=ids["notimestamps"],
        pad_token_id=ids["endoftext"],
        prev_sot_token_id=tokenizer.token_to_id("<|startofprev|>"),
        return_timestamps=False,
        suppress_tokens=[tokenizer.token_to_id(mark) for mark in "#*@~"]
        + [tokenizer.token_to_id(f"<|{name}|>") for name in specials],
        task_to_id={task: tokenizer.token_to_id(f"<|{task}|>") for task in ("transcribe", "translate")},
    )


def save(model: WhisperForConditionalGeneration, tokenizer: Tokenizer, heads: list[list[int]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = generation_config(tokenizer, heads)
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    WhisperFeatureExtractor(feature_size=MELS).save_pretrained(folder)
    note = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 1024, "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
