"""When was each word said? From cross-attention by dynamic time warping.

The weights of the alignment heads are normalised and smoothed, and the cheapest monotonous path through tokens and audio
positions gives each token its beginning (the method of the Whisper paper's reference implementation). Knows no engine.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.interface import Word
from backends.whisper.audio import SECONDS_PER_TIMESTAMP
from backends.whisper.config import Dims, GenerationRules
from backends.whisper.network import Floats
from backends.whisper.tokenizer import WhisperTokenizer

_MEDIAN_WIDTH = 7  # positions
_UNSPACED = {"zh", "ja", "th", "lo", "my", "yue", "km", "bo"}  # written without spaces between words
_LEADING = "\"'“¿([{-‘«"
_TRAILING = "\"'.。,，!！?？:：”)]}、’»;…"


def alignment_heads(rules: GenerationRules, dims: Dims) -> tuple[tuple[int, int], ...]:
    """(layer, head) pairs from the generation config; else all heads of the decoder's upper half."""
    known = [(la, h) for la, h in rules.alignment_heads if la < dims.decoder_layers and h < dims.decoder_heads]
    if known:
        return tuple(known)
    layers = range(dims.decoder_layers // 2, dims.decoder_layers)
    return tuple((layer, head) for layer in layers for head in range(dims.decoder_heads))


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """Tokens of one word, with the text between them and the next word."""

    text: str
    tokens: tuple[int, ...]


def split_words(tokens: Sequence[int], tokenizer: WhisperTokenizer, language: str | None) -> list[TokenGroup]:
    """Words with their leading space; punctuation belongs to the word it touches. Joined texts are the decoded whole."""
    groups = _characters(tokens, tokenizer)
    if language not in _UNSPACED:
        groups = _spaced(groups)
    return _with_punctuation(groups)


def _characters(tokens: Sequence[int], tokenizer: WhisperTokenizer) -> list[TokenGroup]:
    """The shortest runs of tokens that are whole UTF-8 characters."""
    groups: list[TokenGroup] = []
    pending: list[int] = []
    for token in tokens:
        pending.append(token)
        raw = b"".join(tokenizer.token_bytes(number) for number in pending)
        try:
            groups.append(TokenGroup(raw.decode("utf-8"), tuple(pending)))
            pending = []
        except UnicodeDecodeError:
            continue  # the character goes on in the next token
    if pending:
        groups.append(TokenGroup(tokenizer.decode(pending), tuple(pending)))
    return groups


def _spaced(pieces: Sequence[TokenGroup]) -> list[TokenGroup]:
    words: list[TokenGroup] = []
    for piece in pieces:
        stripped = piece.text.strip()
        alone = bool(stripped) and all(character in string.punctuation for character in stripped)
        if words and not words[-1].text.strip():  # a lone space opens the word that follows
            words[-1] = _joined(words[-1], piece)
        elif not words or piece.text.startswith(" ") or alone:
            words.append(piece)
        else:
            words[-1] = _joined(words[-1], piece)
    return words


def _joined(left: TokenGroup, right: TokenGroup) -> TokenGroup:
    return TokenGroup(left.text + right.text, left.tokens + right.tokens)


def _with_punctuation(words: Sequence[TokenGroup]) -> list[TokenGroup]:
    merged: list[TokenGroup] = []
    opening: TokenGroup | None = None
    for word in words:
        if opening is not None:
            word = _joined(opening, word)
            opening = None
        stripped = word.text.strip()
        if stripped and word.text.startswith(" ") and all(character in _LEADING for character in stripped):
            opening = word
        elif merged and not word.text.startswith(" ") and all(character in _TRAILING for character in stripped):
            merged[-1] = _joined(merged[-1], word)
        else:
            merged.append(word)
    return [*merged, *([opening] if opening is not None else [])]


def word_times(groups: Sequence[TokenGroup], starts: Floats, logprobs: Sequence[float], offset: float) -> list[Word]:
    """Words at their times. starts: seconds [tokens + 1], the last one the end; logprobs: one per token."""
    words, at = [], 0
    for group in groups:
        count = len(group.tokens)
        text = group.text.strip()
        if text:
            probability = float(np.exp(np.mean(logprobs[at : at + count])))
            begin, end = float(starts[at]), float(starts[at + count])
            words.append(Word(text, round(offset + begin, 3), round(offset + max(begin, end), 3), probability))
        at += count
    return words


def token_starts(weights: Floats, before: int, count: int, positions: int) -> Floats:
    """Beginning of `count` tokens after the first `before`, and of what follows them: seconds [count + 1].

    weights: probabilities [heads, tokens, positions of the window]; positions: those that hold audio.
    """
    used = weights[:, :, : max(1, positions)]
    spread = used.std(axis=1, keepdims=True)
    scaled = (used - used.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-10)
    matrix = _median(scaled).mean(axis=0)[before : before + count + 1]
    rows, columns = _cheapest_path(-matrix.astype(np.float64))
    jumps = np.flatnonzero(np.diff(rows, prepend=-1))
    starts: Floats = (columns[jumps] * SECONDS_PER_TIMESTAMP).astype(np.float32)
    return starts


def _median(values: Floats) -> Floats:
    """Median over 7 positions, mirrored at the ends."""
    half = _MEDIAN_WIDTH // 2
    if values.shape[-1] <= half:
        return values
    padded = np.pad(values, [(0, 0), (0, 0), (half, half)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN_WIDTH, axis=-1)
    result: Floats = np.partition(windows, half, axis=-1)[..., half]
    return result


def _cheapest_path(cost: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Dynamic time warping from the first to the last cell; row and column of every step of the path.

    Worked by antidiagonals, so that each is one array operation.
    """
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    trace = np.zeros((rows + 1, columns + 1), np.int8)
    for diagonal in range(2, rows + columns + 1):
        row = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        column = diagonal - row
        came = np.stack([total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]])
        best = np.where((came[0] < came[1]) & (came[0] < came[2]), 0, np.where((came[1] < came[0]) & (came[1] < came[2]), 1, 2))
        total[row, column] = cost[row - 1, column - 1] + came[best, np.arange(len(row))]
        trace[row, column] = best
    trace[0, :], trace[:, 0] = 2, 1
    path, row_at, column_at = [], rows, columns
    while row_at > 0 or column_at > 0:
        path.append((row_at - 1, column_at - 1))
        step = trace[row_at, column_at]
        row_at, column_at = row_at - (step != 2), column_at - (step != 1)
    steps = np.array(path[::-1], np.int64)
    return steps[:, 0], steps[:, 1]
