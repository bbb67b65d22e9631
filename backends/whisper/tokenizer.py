"""Text to tokens and back for published Whisper vocabularies, and the special tokens by their meaning.

Reads tokenizer.json, the older vocab.json + merges.txt + added_tokens.json, or the words in whisper.cpp's file. Knows
no model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from backends.interface import InvalidInput, ModelUnavailable
from backends.languages import LANGUAGES, language_code, wants_detection
from backends.model_files import read_json
from backends.whisper.config import GenerationConfig, ModelDimensions
from backends.whisper.formats.ggml import ggml_of
from backends.whisper.formats.ggml_vocabulary import added_tokens, merges, ordinary

_MARKER = re.compile(r"<\|.*\|>", re.DOTALL)
_MULTILINGUAL_VOCABULARY = 51_865  # the smallest published vocabulary with languages


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids by meaning. None where a vocabulary has no such token; languages: code -> id, empty for English-only
    models."""

    start: int
    end: int
    no_timestamps: int | None
    first_timestamp: int
    previous: int | None
    no_speech: int | None
    transcribe: int | None
    translate: int | None
    languages: dict[str, int]

    @property
    def multilingual(self) -> bool:
        return bool(self.languages)

    def prompt(self, language: str | None, task: str, *, timestamps: bool) -> list[int]:
        """The decoder's beginning: start, language, task, and no-timestamps where wanted.

        Raises InvalidInput for a task that the model does not know.
        """
        tokens = [self.start]
        task_token = {"transcribe": self.transcribe, "translate": self.translate if self.multilingual else None}.get(
            task
        )
        if task_token is None and task != "transcribe":
            raise InvalidInput(f"this Whisper cannot {task}", param="task", code="invalid_value")
        if self.multilingual:
            tokens += [self.languages[language or "en"], *([] if task_token is None else [task_token])]
        if not timestamps and self.no_timestamps is not None:
            tokens.append(self.no_timestamps)
        return tokens


class WhisperTokenizer:
    """Byte-level BPE. Text never turns into special tokens, so a caller's prompt cannot steer the decoder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _read(folder)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        self._added = {
            number: token.content
            for number, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special or _MARKER.fullmatch(token.content)
        }
        self._plain_added = {
            number: token.content
            for number, token in self._tokenizer.get_added_tokens_decoder().items()
            if number not in self._added
        }
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text."""
        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [token for token in tokens if token not in self._added]

    def token_id(self, marker: str) -> int | None:
        number: int | None = self._tokenizer.token_to_id(marker)
        return number

    def is_text(self, token: int) -> bool:
        return token not in self._added and self._tokenizer.id_to_token(token) is not None

    def token_bytes(self, token: int) -> bytes:
        """UTF-8 bytes of one token, possibly an incomplete character; empty for special tokens."""
        if token not in self._bytes:
            self._bytes[token] = self._compute_bytes(token)
        return self._bytes[token]

    def _compute_bytes(self, token: int) -> bytes:
        if token in self._plain_added:
            return self._plain_added[token].encode()
        content = self._tokenizer.id_to_token(token)
        if content is None or token in self._added:
            return b""
        alphabet = _byte_of_character()
        if all(character in alphabet for character in content):
            return bytes(alphabet[character] for character in content)
        encoded: bytes = content.encode()
        return encoded

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of the tokens without special ones; broken UTF-8 becomes the replacement character."""
        return b"".join(self.token_bytes(token) for token in tokens).decode("utf-8", errors="replace")


def _read(folder: Path) -> Tokenizer:
    whole = folder / "tokenizer.json"
    try:
        if whole.is_file():
            return Tokenizer.from_file(str(whole))
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return _from_parts(folder)
        if (ggml := ggml_of(folder)) is not None:
            return _from_words(ggml.words, added_tokens(ggml.words, ggml.config["vocab_size"]))
    except ModelUnavailable:
        raise
    except Exception as error:  # the library raises bare Exception for broken files
        raise ModelUnavailable(f"the tokenizer in {folder} cannot be read: {error}") from error
    raise ModelUnavailable(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt; pull the model again")


def _from_parts(folder: Path) -> Tokenizer:
    """The layout of older repositories. Added tokens join the vocabulary first, which fixes their ids."""
    vocabulary = {str(token): int(number) for token, number in read_json(folder / "vocab.json").items()}
    added: dict[str, int] = {}
    if (folder / "added_tokens.json").is_file():
        added = {str(token): int(number) for token, number in read_json(folder / "added_tokens.json").items()}
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    joined = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    markers = {*added, *(token for token in vocabulary if _MARKER.fullmatch(token))}
    return _byte_level(vocabulary | added, joined, markers)


def _from_words(words: Sequence[bytes], added: Mapping[str, int]) -> Tokenizer:
    """Of whisper.cpp's file, which keeps the bytes of each word and nothing else."""
    character = {byte: char for char, byte in _byte_of_character().items()}
    written = {word: "".join(character[byte] for byte in word) for word in ordinary(words)}
    vocabulary = {written[word]: number for number, word in enumerate(ordinary(words))}
    joined = [(written[one], written[other]) for one, other in merges(words)]
    return _byte_level(vocabulary | dict(added), joined, added)


def _byte_level(
    vocabulary: Mapping[str, int], joined: Sequence[tuple[str, str]], markers: Collection[str]
) -> Tokenizer:
    """markers: the special tokens, which are part of the vocabulary."""
    tokenizer = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=list(joined)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ordered = sorted(markers, key=lambda token: vocabulary[token])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ordered])
    return tokenizer


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """The printable stand-ins of byte-level BPE: visible Latin-1 bytes are themselves, the others follow from 256
    on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(visible)]
    return {chr(byte): byte for byte in visible} | {chr(256 + index): byte for index, byte in enumerate(others)}


def special_tokens(rules: GenerationConfig, tokenizer: WhisperTokenizer, dims: ModelDimensions) -> SpecialTokens:
    """The generation config's ids, completed from the tokenizer.

    Raises ModelUnavailable if neither names the start or end, or if the config names a token beyond the vocabulary.
    """

    def pick(number: int | None, *markers: str) -> int | None:
        if number is None:
            ids = (tokenizer.token_id(marker) for marker in markers)
            return next((token for token in ids if token is not None and token < dims.vocabulary), None)
        return _inside(number, dims)

    start, end = pick(rules.start, "<|startoftranscript|>"), pick(rules.end, "<|endoftext|>")
    if start is None or end is None:
        raise ModelUnavailable("neither generation_config.json nor the tokenizer names the start and end tokens")
    no_timestamps = pick(rules.no_timestamps, "<|notimestamps|>")
    transcribe = pick(rules.tasks.get("transcribe"), "<|transcribe|>")
    translate = pick(rules.tasks.get("translate"), "<|translate|>")
    languages = {code: _inside(number, dims) for code, number in rules.languages.items()} or _language_tokens(
        tokenizer, dims
    )
    multilingual = _is_multilingual(rules, dims, {transcribe, translate, *languages.values()})
    return SpecialTokens(
        start=start,
        end=end,
        no_timestamps=no_timestamps,
        first_timestamp=dims.vocabulary if no_timestamps is None else no_timestamps + 1,
        previous=pick(rules.previous, "<|startofprev|>"),
        no_speech=pick(None, "<|nospeech|>", "<|nocaptions|>"),
        transcribe=transcribe,
        translate=translate,
        languages=languages if multilingual else {},
    )


def _inside(number: int, dims: ModelDimensions) -> int:
    if number >= dims.vocabulary:
        raise ModelUnavailable(f"the generation config names token {number}, but the vocabulary has {dims.vocabulary}")
    return number


def _is_multilingual(rules: GenerationConfig, dims: ModelDimensions, prompting: set[int | None]) -> bool:
    """prompting: tokens of languages and tasks, which the files of English-only models define too but never force."""
    if rules.multilingual is not None:
        return bool(rules.multilingual)
    return bool(rules.languages) or dims.vocabulary >= _MULTILINGUAL_VOCABULARY or bool(prompting & set(rules.forced))


def _language_tokens(tokenizer: WhisperTokenizer, dims: ModelDimensions) -> dict[str, int]:
    ids = {code: tokenizer.token_id(f"<|{code}|>") for code in LANGUAGES}
    return {code: number for code, number in ids.items() if number is not None and number < dims.vocabulary}


def checked_language(special: SpecialTokens, given: str | None, param: str = "language") -> str | None:
    """Whisper's code for a requested language; None = detect. Raises InvalidInput for one the model does not know."""
    if given is None or wants_detection(given):
        return None
    code = language_code(given)
    known: Sequence[str] = list(special.languages) or ["en"]
    if code is None or code not in known:
        shown = ", ".join(sorted(known)) if len(known) <= 12 else f"{len(known)} languages, ISO 639-1 codes"
        raise InvalidInput(
            f"language {given!r} is not one of this model's ({shown})", param=param, code="invalid_language"
        )
    return code
