"""Whispers of the published shapes with random weights that say a fixed number of tokens, for benchmarks.

Every decoder position has a strong vector of its own, and the token that is due there has the same vector as its
embedding; so any engine says the script and ends, whatever the audio, while it computes everything a trained model
would.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from backends.languages import LANGUAGES

SHAPES = {  # width, layers, heads, mels, vocabulary
    "tiny": (384, 4, 6, 80, 51865),
    "base": (512, 6, 8, 80, 51865),
    "small": (768, 12, 12, 80, 51865),
    "large-v3": (1280, 32, 20, 128, 51866),
}
PROMPT = 3  # start, language, task; with timestamps


def published_tokenizer(languages: int = 99) -> Tokenizer:
    """The multilingual tokenizer, rebuilt from the rank file inside the openai-whisper package."""
    import whisper

    lines = (
        (Path(whisper.__file__).parent / "assets" / "multilingual.tiktoken").read_text(encoding="utf-8").splitlines()
    )
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines if line}
    letters = _byte_letters()
    vocabulary = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    merges = [pair for token in sorted(ranks, key=ranks.__getitem__) if (pair := _merge_of(token, ranks, letters))]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in list(LANGUAGES)[:languages])]
    names += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", special=False, normalized=False) for i in range(1501)])
    return tokenizer


def _byte_letters() -> dict[int, str]:
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + index) for index, byte in enumerate(others)}


def _merge_of(token: bytes, ranks: dict[bytes, int], letters: dict[int, str]) -> tuple[str, str] | None:
    """The two parts that were merged last into this token."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[i] + parts[i + 1], 1 << 30), i) for i in range(len(parts) - 1)]
        rank, at = min(pairs)
        if rank >= ranks[token]:
            return None
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    if len(parts) < 2:
        return None
    return tuple("".join(letters[byte] for byte in part) for part in parts)  # type: ignore[return-value]


def write_scripted(folder: Path, shape: str, tokens: int) -> None:
    """A checkpoint in the published layout that says `tokens` tokens (two of them times) and ends."""
    import torch  # here, so that whoever only wants to know a shape does not load it
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    width, layers, heads, mels, vocabulary = SHAPES[shape]
    tokenizer = published_tokenizer(vocabulary - 51766)
    first_time = tokenizer.token_to_id("<|0.00|>")
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    script = [first_time, *range(1000, 1000 + tokens - 2), first_time + 1400, tokenizer.token_to_id("<|endoftext|>")]
    decoder = model.model.decoder
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(torch.randn(len(script), width), dim=-1)
        places = range(PROMPT - 1, PROMPT - 1 + len(script))
        decoder.embed_positions.weight[places] = vectors * 30
        decoder.embed_tokens.weight[script] = vectors
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("endoftext", "startoftranscript", "notimestamps")}
    generation = GenerationConfig(
        bos_token_id=ids["endoftext"],
        decoder_start_token_id=ids["startoftranscript"],
        eos_token_id=ids["endoftext"],
        is_multilingual=True,
        lang_to_id={
            f"<|{code}|>": tokenizer.token_to_id(f"<|{code}|>") for code in list(LANGUAGES)[: vocabulary - 51766]
        },
        no_timestamps_token_id=ids["notimestamps"],
        pad_token_id=ids["endoftext"],
        task_to_id={task: tokenizer.token_to_id(f"<|{task}|>") for task in ("transcribe", "translate")},
    )
    generation.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=mels).save_pretrained(folder)
    note = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(note), encoding="utf-8")
