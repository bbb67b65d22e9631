"""A published Whisper's shape and its generation rules, read from config.json and generation_config.json, or from what
stands for them in a CTranslate2 folder or in whisper.cpp's file.

Knows no weights and no text; the tokenizer fills what an old generation config leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.data_packages import read_record
from backends.interface import ModelUnavailable
from backends.model_files import CONTAINER, JoinedFile, read_json
from backends.whisper.audio import HOP, SECONDS_PER_TIMESTAMP
from backends.whisper.formats.ctranslate2 import (
    Container,
    is_ctranslate2,
    published_config,
    published_generation_config,
    read_container,
)
from backends.whisper.formats.ggml import ggml_of
from backends.whisper.formats.ggml_vocabulary import rules as ggml_rules

# Far beyond every Whisper there is, and small enough to be refused before anything is built.
_MOST: dict[str, int] = {
    "width": 1 << 15,
    "mels": 1 << 10,
    "encoder_layers": 256,
    "encoder_heads": 1 << 10,
    "encoder_ffn": 1 << 17,
    "decoder_layers": 256,
    "decoder_heads": 1 << 10,
    "decoder_ffn": 1 << 17,
    "vocabulary": 1 << 20,
    "source_positions": 1 << 16,
    "target_positions": 1 << 16,
}


@dataclass(frozen=True, slots=True)
class ModelDimensions:
    """The network's shape. source_positions: encoder output length (1500 = 30 s); target_positions: longest
    decoding."""

    width: int
    mels: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn: int
    decoder_layers: int
    decoder_heads: int
    decoder_ffn: int
    vocabulary: int
    source_positions: int
    target_positions: int
    activation: str
    tied: bool

    @property
    def mel_frames(self) -> int:
        return 2 * self.source_positions

    @property
    def window_samples(self) -> int:
        return self.mel_frames * HOP

    @property
    def window_seconds(self) -> float:
        return self.source_positions * SECONDS_PER_TIMESTAMP

    @property
    def head_width(self) -> int:
        return self.width // self.decoder_heads


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """What the generation config says about tokens; None or empty where the file is silent.

    forced: what older files put behind the start token; only tells whether the model knows languages and tasks.
    """

    start: int | None
    end: int | None
    languages: dict[str, int]
    tasks: dict[str, int]
    no_timestamps: int | None
    previous: int | None
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    alignment_heads: tuple[tuple[int, int], ...]
    multilingual: bool | None
    forced: tuple[int, ...]
    max_initial_timestamp: int | None


def container_of(folder: Path) -> Container | None:
    """The folder's weights if they are a CTranslate2 file, by content and not by name; safetensors beside it win.

    Raises ModelUnavailable if the file is damaged.
    """
    if any(folder.glob("*.safetensors")) or (folder / "model.safetensors.index.json").is_file():
        return None
    own = folder / CONTAINER
    file = JoinedFile(own) if own.is_file() else read_record(folder).get(CONTAINER)
    return read_container(file) if file is not None and is_ctranslate2(file) else None


def read_dims(folder: Path) -> ModelDimensions:
    """The shape of the model in `folder`. Raises ModelUnavailable if it is not a Whisper."""
    raw, source = _shape(folder)
    kind = raw.get("model_type")
    if kind != "whisper":
        raise ModelUnavailable(f"{folder} holds a model of type {kind!r}, not a Whisper")
    try:
        dims = _dims(raw)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelUnavailable(f"{source} lacks or garbles {error}") from error
    sizes = {name: value for name, value in asdict(dims).items() if type(value) is int and value < 1}
    if sizes:
        raise ModelUnavailable(f"{source} has sizes below 1: {sizes}")
    if beyond := {name: value for name, value in asdict(dims).items() if value > _MOST.get(name, value)}:
        limits = ", ".join(f"{name} {value} (at most {_MOST[name]})" for name, value in beyond.items())
        raise ModelUnavailable(f"{source} has sizes beyond every Whisper: {limits}")
    if dims.activation not in {"gelu", "relu"}:
        raise ModelUnavailable(f"{folder}: activation_function {dims.activation!r} is not supported (gelu or relu)")
    if dims.width % dims.decoder_heads or dims.width % dims.encoder_heads:
        raise ModelUnavailable(f"{folder}: d_model {dims.width} is not a multiple of the number of heads")
    return dims


def _shape(folder: Path) -> tuple[Mapping[str, Any], object]:
    """The keys of config.json that tell the shape, and the file that they are from."""
    if (container := container_of(folder)) is not None:
        return published_config(container), container.file
    if (ggml := ggml_of(folder)) is not None:
        return ggml.config, ggml.file
    return read_json(folder / "config.json"), folder / "config.json"


def _dims(raw: Mapping[str, Any]) -> ModelDimensions:
    return ModelDimensions(
        width=int(raw["d_model"]),
        mels=int(raw.get("num_mel_bins", 80)),
        encoder_layers=int(raw["encoder_layers"]),
        encoder_heads=int(raw["encoder_attention_heads"]),
        encoder_ffn=int(raw["encoder_ffn_dim"]),
        decoder_layers=int(raw["decoder_layers"]),
        decoder_heads=int(raw["decoder_attention_heads"]),
        decoder_ffn=int(raw["decoder_ffn_dim"]),
        vocabulary=int(raw["vocab_size"]),
        source_positions=int(raw.get("max_source_positions", 1500)),
        target_positions=int(raw.get("max_target_positions", 448)),
        activation=str(raw.get("activation_function", "gelu")),
        tied=bool(raw.get("tie_word_embeddings", True)),
    )


def read_generation_config(folder: Path) -> GenerationConfig:
    """generation_config.json over the generation keys that older repositories keep in config.json.

    Raises ModelUnavailable if a value is not of its kind.
    """
    if (ggml := ggml_of(folder)) is not None:
        vocabulary = ggml.config["vocab_size"]
        return _rules(published_generation_config(*ggml_rules(ggml.words, vocabulary), vocabulary))
    raw = read_json(folder / "config.json")
    if (container := container_of(folder)) is not None:
        vocabulary = published_config(container)["vocab_size"]
        try:
            raw = published_generation_config(raw, read_json(folder / "tokenizer.json"), vocabulary)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelUnavailable(f"config.json or tokenizer.json in {folder} is garbled: {error}") from error
    elif (folder / "generation_config.json").is_file():
        raw = raw | {
            key: value for key, value in read_json(folder / "generation_config.json").items() if value is not None
        }
    try:
        return _rules(raw)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ModelUnavailable(f"the generation config in {folder} is garbled: {error}") from error


def _rules(raw: dict[str, Any]) -> GenerationConfig:
    return GenerationConfig(
        start=_id(raw.get("decoder_start_token_id")),
        end=_first(raw.get("eos_token_id")),
        languages={str(name).strip("<|>"): int(token) for name, token in (raw.get("lang_to_id") or {}).items()},
        tasks={str(name): int(token) for name, token in (raw.get("task_to_id") or {}).items()},
        no_timestamps=_id(raw.get("no_timestamps_token_id")),
        previous=_id(raw.get("prev_sot_token_id")),
        suppressed=_ids(raw.get("suppress_tokens")),
        suppressed_first=_ids(raw.get("begin_suppress_tokens")),
        alignment_heads=tuple((_index(layer), _index(head)) for layer, head in raw.get("alignment_heads") or ()),
        multilingual=raw.get("is_multilingual"),
        forced=_ids([token for _, token in raw.get("forced_decoder_ids") or () if token is not None]),
        max_initial_timestamp=_id(raw.get("max_initial_timestamp_index")),
    )


def _index(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no index")
    return value


def _id(value: object) -> int | None:
    return None if value is None else _index(value)


def _first(value: object) -> int | None:
    """Of several end tokens the first one ends the answer."""
    if isinstance(value, list):
        return _id(value[0]) if value else None
    return _id(value)


def _ids(value: list[int] | None) -> tuple[int, ...]:
    return tuple(int(token) for token in value or () if int(token) >= 0)
