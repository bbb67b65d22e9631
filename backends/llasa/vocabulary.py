"""Token ids: the tokenizer of a LLASA folder, its markers, and the speech tokens that stand for codes.

Ids are looked up by name and checked, never assumed: checkpoints differ. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from backends.interface import InvalidInput, ModelUnavailable
from backends.llasa.text import neutralised

MARKERS = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|TEXT_UNDERSTANDING_START|>",
    "<|TEXT_UNDERSTANDING_END|>",
    "<|SPEECH_GENERATION_START|>",
    "<|SPEECH_GENERATION_END|>",
)
_SPEECH = re.compile(r"<\|s_(\d+)\|>")


class Vocabulary:
    """Ids by name.

    speech_start: <|s_0|>; speech_count: number of codes; start, stop: around speech; text_start: before the text to
    speak; pad: fills rows; size: ids in all.
    """

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        self._tokenizer = tokenizer
        missing = [name for name in MARKERS if tokenizer.token_to_id(name) is None]
        if missing:
            raise ModelUnavailable(
                f"the tokenizer in {source} lacks {', '.join(missing)}: this is not a LLASA checkpoint"
            )
        ids = tokenizer.get_vocab(with_added_tokens=True)
        speech = {int(match.group(1)): number for name, number in ids.items() if (match := _SPEECH.fullmatch(name))}
        self.speech_start, self.speech_count = _contiguous(speech, source)
        self.stop: int = ids["<|SPEECH_GENERATION_END|>"]
        self.start: int = ids["<|SPEECH_GENERATION_START|>"]
        self.pad: int = ids["<|eot_id|>"]
        self.text_start: int = ids["<|TEXT_UNDERSTANDING_START|>"]
        self.size = max(ids.values()) + 1
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._added = [name for name in added if neutralised(name)]  # the others go with neutralised() already

    @classmethod
    def from_folder(cls, folder: Path) -> Vocabulary:
        """Raises ModelUnavailable for a tokenizer that is missing, unreadable, or not LLASA's."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelUnavailable(f"{folder} holds no tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for a broken file
            raise ModelUnavailable(f"{path} is not a readable tokenizer: {error}") from error
        return cls(tokenizer, str(folder))

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered prompt, in which markers stand as text; nothing is added to it."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def without_tokens(self, text: str) -> str:
        """Text in which no added token is left, whatever it looks like."""
        while hit := next((name for name in self._added if name in text), None):
            text = text.replace(hit, "")
        return text

    def speech_ids(self, codes: Iterable[int]) -> list[int]:
        """Ids of codes. Raises InvalidInput for a code that this model has no token for."""
        listed = [int(code) for code in codes]
        if listed and not 0 <= min(listed) <= max(listed) < self.speech_count:
            raise InvalidInput(f"codes must lie in 0..{self.speech_count - 1}, not {min(listed)}..{max(listed)}")
        return [self.speech_start + code for code in listed]

    def known_codes(self, codes: Iterable[int]) -> list[int]:
        """Those codes that this model has a token for."""
        return [code for code in codes if 0 <= code < self.speech_count]

    def is_speech(self, token: int) -> bool:
        return self.speech_start <= token < self.speech_start + self.speech_count

    def speech_mask(self, tokens: Tensor) -> Tensor:
        """Which tokens are speech, bool of the same shape and device."""
        return (tokens >= self.speech_start) & (tokens < self.speech_start + self.speech_count)

    def kept_codes(self, tokens: Tensor, count: int) -> Tensor:
        """The codes of the `count` speech tokens among int64 [time], in order and on the device, without reading
        any."""
        order = torch.argsort((~self.speech_mask(tokens)).to(torch.uint8), stable=True)
        return tokens[order[:count]] - self.speech_start

    def codes(self, ids: Iterable[int] | Tensor) -> list[int]:
        """Codes of the speech tokens up to the first stop token; anything else is passed over.

        ids: numbers, or an int tensor of any shape and device: it is masked there, and only codes are brought here.
        """
        tokens = ids.flatten() if isinstance(ids, Tensor) else torch.tensor(list(ids), dtype=torch.int64)
        ended = (tokens == self.stop).cumsum(0)
        codes = tokens - self.speech_start
        speech: list[int] = codes[(ended == 0) & (codes >= 0) & (codes < self.speech_count)].tolist()
        return speech


def _contiguous(speech: dict[int, int], source: str) -> tuple[int, int]:
    """Id of the first speech token and how many there are. Raises ModelUnavailable unless they count up without a
    gap."""
    if 0 not in speech:
        raise ModelUnavailable(
            f"the tokenizer in {source} has no speech tokens (<|s_0|> ...): this is not a LLASA checkpoint"
        )
    start = speech[0]
    for code in range(len(speech)):
        if speech.get(code) != start + code:
            raise ModelUnavailable(f"the speech tokens of the tokenizer in {source} are not contiguous at <|s_{code}|>")
    return start, len(speech)
