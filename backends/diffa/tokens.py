"""Text to ids and back with the checkpoint's own tokenizer.

Owns the special ids and the neutralising of special-token strings in text that a user wrote. Knows nothing of prompts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from backends.interface import ModelUnavailable

BOS, EOS, EOT, MASK = "<|startoftext|>", "<|endoftext|>", "<|eot_id|>", "<|mdm_mask|>"
HEADER_START, HEADER_END = "<|start_header_id|>", "<|end_header_id|>"


class Tokenizer:
    """Byte-level BPE from tokenizer.json; nothing is added to what is encoded."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        """config: of the language model, whose eos_token_id and mask_token_id win over the names. Raises
        ModelUnavailable."""
        try:
            self._fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception
            raise ModelUnavailable(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
        self._fast.no_truncation()
        self._fast.no_padding()
        missing = [name for name in (BOS, HEADER_START, HEADER_END, EOT) if self._fast.token_to_id(name) is None]
        if missing:
            raise ModelUnavailable(f"{folder / 'tokenizer.json'} has no token {', '.join(missing)}")
        self.eos = self._id(config.get("eos_token_id"), EOS, folder)
        self.mask = self._id(config.get("mask_token_id"), MASK, folder)
        self.eot = self._id(None, EOT, folder)
        added = sorted(
            (token.content for token in self._fast.get_added_tokens_decoder().values()), key=len, reverse=True
        )
        # A look-ahead, so that overlapping occurrences are found too.
        self._special = re.compile("(?=" + "|".join(re.escape(name) for name in added) + ")")

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""
        return frozenset((self.eos, self.eot))

    def special_cuts(self, text: str, offset: int = 0) -> list[int]:
        """Where `text` must be cut so that no special-token string in it survives; positions are moved by `offset`."""
        return [offset + match.start() + 1 for match in self._special.finditer(text)]

    def encode(self, text: str, cuts: Iterable[int] = ()) -> list[int]:
        """Ids of `text`, whose parts between `cuts` (character positions) are encoded each alone."""
        edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
        parts = (text[start:stop] for start, stop in pairwise(edges))
        return [token for part in parts for token in self._fast.encode(part, add_special_tokens=False).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens; ids that have no token give nothing."""
        return self._fast.decode(list(ids), skip_special_tokens=True)

    def until_end(self, ids: Sequence[int]) -> list[int]:
        """`ids` before the first end token."""
        return cut_at(ids, self.ends)

    def answer_text(self, ids: Sequence[int]) -> str:
        """What a person reads of an answer: cut at the first end token, without surrounding white space."""
        return self.decode(self.until_end(ids)).strip()

    def _id(self, configured: Any, name: str, folder: Path) -> int:
        token = configured if isinstance(configured, int) else self._fast.token_to_id(name)
        if token is None:
            raise ModelUnavailable(f"{folder} tells no id for {name}: neither config.json nor tokenizer.json")
        return int(token)


def cut_at(ids: Sequence[int], ends: Collection[int]) -> list[int]:
    """`ids` before the first one that is in `ends`."""
    stop = next((index for index, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[:stop])
