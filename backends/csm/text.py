"""From the text of a request to token ids: what can be spoken, sentences, and the tokenizer of the CSM repository.

Marks of special tokens inside user text stay text: they are encoded like any other characters, and begin and end of an
utterance are added here. Knows no audio.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from backends.audio.sentences import packed_sentences
from backends.interface import InvalidInput, ModelUnavailable

LONGEST_TEXT = 4096  # characters of one request
SENTENCE = 240  # characters of one utterance, at most: quality drops on longer spans
_BOS_NAMES = ("<|begin_of_text|>", "<s>", "<bos>")
_EOS_NAMES = ("<|end_of_text|>", "</s>", "<eos>")
# Soft hyphen, joiners, direction and variation marks, byte order mark: they stand inside words and part nothing.
_INVISIBLE = re.compile("[\u00ad\u200c-\u200f\u2060\ufe00-\ufe0f\ufeff\u20e3]")


class SpeechTokenizer:
    """`[speaker]text` to ids between begin and end of text."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._tokenizer.encode_special_tokens = True  # "<|end_of_text|>" in a text is spelled out
        self._bos, self._eos = (_token(tokenizer, names, vocabulary) for names in (_BOS_NAMES, _EOS_NAMES))

    def utterance(self, speaker: int, text: str) -> list[int]:
        """Ids of one utterance. Raises InvalidInput for text that the model's vocabulary cannot hold."""
        ids: list[int] = self._tokenizer.encode(f"[{speaker}]{text}", add_special_tokens=False).ids
        if any(token >= self._vocabulary for token in ids):
            raise InvalidInput("the text needs tokens that this model does not have", param="input")
        return [self._bos, *ids, self._eos]


def load_tokenizer(file: Path, vocabulary: int) -> SpeechTokenizer:
    """The tokenizer.json of the model. Raises ModelUnavailable."""
    if not file.is_file():
        raise ModelUnavailable(f"the tokenizer {file} is missing; fetch it with: speech-gateway pull sesame/csm-1b")
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for token in values.get("added_tokens", ()):
            token["special"] = True  # so that none of them is recognised inside a text
        return SpeechTokenizer(Tokenizer.from_str(json.dumps(values)), vocabulary)
    except ModelUnavailable:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception for a broken file
        raise ModelUnavailable(f"{file} is not a usable tokenizer: {error}") from error


def _token(tokenizer: Tokenizer, names: tuple[str, ...], vocabulary: int) -> int:
    for name in names:
        token = tokenizer.token_to_id(name)
        if token is not None and token < vocabulary:
            return int(token)
    raise ModelUnavailable(f"the tokenizer has no token {names[0]}")


def normalize_text(text: str) -> str:
    """The text without what has no sound. Raises InvalidInput if nothing is left, or for too long a text."""
    if len(text) > LONGEST_TEXT:
        raise InvalidInput(f"the text has {len(text)} characters; at most {LONGEST_TEXT} can be spoken", param="input")
    joined = _INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    kept = "".join(" " if _silent(character) else character for character in joined)
    tidy = re.sub(r"[ \t]+", " ", kept).strip()
    if not any(character.isalnum() for character in tidy):
        raise InvalidInput("the text holds nothing that can be spoken", param="input")
    return tidy


def _silent(character: str) -> bool:
    """Emoji and other pictures, control and private characters; line ends stay, they separate sentences."""
    return character != "\n" and unicodedata.category(character) in {"So", "Sk", "Cc", "Cf", "Co", "Cs", "Cn"}


def utterances(text: str, longest: int = SENTENCE) -> list[str]:
    """The text in pieces of at most `longest` characters, cut at sentence ends if possible; short ones are joined."""
    return [" ".join(piece.split()) for piece in packed_sentences(text, longest, longest // 2)]
