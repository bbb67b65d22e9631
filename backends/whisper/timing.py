"""When was each word said? From cross-attention by dynamic time warping.

The weights of the alignment heads are normalised and smoothed as the Whisper paper's reference implementation does it.
The best monotonous path through a segment's tokens and audio positions then gives each token its beginning. Unlike
there, the path stays within the segment's own times, and no token gets less time than its letters take. Knows no
engine.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backends.interface import Word
from backends.whisper.audio import SECONDS_PER_TIMESTAMP
from backends.whisper.config import GenerationConfig, ModelDimensions
from backends.whisper.network import Floats
from backends.whisper.tokenizer import WhisperTokenizer

_MEDIAN_WIDTH = 7  # positions
_POSITIONS_PER_LETTER = 2  # 40 ms: nobody says more than 25 letters a second
_LEAST_SHARE = 0.5  # of the time that a token's letters would have at an even pace
_UNSPACED = {"zh", "ja", "th", "lo", "my", "yue", "km", "bo"}  # written without spaces between words
_NAMED_SIGNS = "%&#@\u00a7"  # punctuation to Unicode, but words to a speaker
_LONGEST_TYPICAL = 0.7  # seconds; of openai-whisper, as the two factors
_MOST_WORDS, _PAUSE_WORDS = 2, 4  # medians
_SENTENCE_ENDS = frozenset(".。!！?？")
_LEADING = "\"'“¿([{-‘«"
_TRAILING = "\"'.。,，!！?？:：”)]}、’»;…"
PUNCTUATION = _LEADING + _TRAILING


def alignment_heads(rules: GenerationConfig, dims: ModelDimensions) -> tuple[tuple[int, int], ...]:
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
    """Words with their leading space; punctuation belongs to the word it touches. Joined texts are the decoded
    whole."""
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


def word_times(
    groups: Sequence[TokenGroup], starts: Floats, logprobs: Sequence[float], offset: float, texts: Sequence[str]
) -> list[Word]:
    """Words at their times. starts: seconds [tokens + 1], the last one the end; logprobs, texts: one per token."""
    words, at = [], 0
    for group in groups:
        count = len(group.tokens)
        text = group.text.strip()
        if text:
            probability = float(np.exp(np.mean(logprobs[at : at + count])))
            begin, end = float(starts[at]), float(starts[at + _spoken(texts[at : at + count])])
            words.append(Word(text, round(offset + begin, 3), round(offset + max(begin, end), 3), probability))
        at += count
    return words


def shorten_after_pauses(pieces: Sequence[Sequence[Word]], begin: float) -> list[list[Word]]:
    """A window's words, those after a pause begun later: attention to the pause counts as theirs otherwise.

    As in openai-whisper, a word that opens a sentence, or a segment after a pause of four median words, lasts no longer
    than two of them; a median above 0.7 s counts as 0.7 s. begin: seconds at which the window begins.
    """
    durations = [word.end - word.start for words in pieces for word in words if word.end > word.start]
    typical = min(_LONGEST_TYPICAL, float(np.median(durations))) if durations else 0.0
    shortened: list[list[Word]] = []
    before, opens = begin, False
    for words in pieces:
        shortened.append([])
        for index, word in enumerate(words):
            paused = index == 0 and word.end - before > _PAUSE_WORDS * typical
            start = word.end - _MOST_WORDS * typical
            late = word.start < start and (opens or paused)
            shortened[-1].append(replace(word, start=round(start, 3)) if late else word)
            before, opens = word.end, word.word[-1:] in _SENTENCE_ENDS
    return shortened


def _spoken(texts: Sequence[str]) -> int:
    """How many of a word's tokens are spoken: punctuation at its end stands for the pause that follows."""
    count = len(texts)
    while count and not any(_is_spoken(character) for character in texts[count - 1]):
        count -= 1
    return count or len(texts)


def _is_spoken(character: str) -> bool:
    """Letters, digits, signs that have a name in speech, and the part of a letter whose other bytes are in another
    token."""
    return character in _NAMED_SIGNS or unicodedata.category(character)[0] not in "PZC"


def alignment(weights: Floats, positions: int) -> Floats:
    """How much each token is about each position, against the other tokens: float32 [tokens, positions].

    weights: probabilities [heads, tokens, positions of the window]; positions: those that hold audio, which are made to
    be all that a token attends to.
    """
    used = weights[:, :, : max(1, positions)]
    used = used / np.maximum(used.sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    spread = used.std(axis=1, keepdims=True)
    scaled = (used - used.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-10)
    matrix: Floats = _median(scaled).mean(axis=0)
    return matrix


def token_starts(matrix: Floats, texts: Sequence[str], start: float, end: float) -> Floats:
    """Beginnings of a segment's tokens and the end of the last one: seconds [tokens + 1], between `start` and `end`.

    matrix: the tokens' rows of `alignment`; texts: one per token.
    """
    last = max(1, min(matrix.shape[1], round(end / SECONDS_PER_TIMESTAMP)))
    first = min(round(start / SECONDS_PER_TIMESTAMP), last - 1)
    # What is before the first token and after the last one belongs to neither where they are less about it than others
    # are.
    silence = np.zeros((1, last - first))
    score = np.concatenate([silence, matrix[:, first:last], silence])
    path = best_path(score, [0, *_least(texts, last - first), 0])
    starts: Floats = np.clip((first + path[1:]) * SECONDS_PER_TIMESTAMP, start, end).astype(np.float32)
    return starts


def _least(texts: Sequence[str], positions: int) -> list[int]:
    """Positions that each token takes at least."""
    letters = [sum(character.isalnum() for character in text) for text in texts]
    even = _LEAST_SHARE * positions / max(1, sum(letters))
    return [int(count * min(_POSITIONS_PER_LETTER, even)) for count in letters]


def _median(values: Floats) -> Floats:
    """Median over 7 positions, mirrored at the ends."""
    half = _MEDIAN_WIDTH // 2
    if values.shape[-1] <= half:
        return values
    padded = np.pad(values, [(0, 0), (0, 0), (half, half)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN_WIDTH, axis=-1)
    result: Floats = np.partition(windows, half, axis=-1)[..., half]
    return result


def best_path(score: NDArray[np.float64], least: Sequence[int]) -> NDArray[np.int64]:
    """First column of every row when the columns are dealt out to the rows in order, at least least[i] of them to row
    i, so that the sum of the scores is largest. There are no fewer columns than `least` demands together."""
    rows, columns = score.shape
    column = np.arange(columns + 1)
    best = np.where(column == 0, 0.0, -np.inf)  # of all rows so far, when they end before a column
    begun = np.zeros((rows, columns + 1), np.int64)
    for row in range(rows):
        total = np.concatenate([[0.0], np.cumsum(score[row], dtype=np.float64)])
        ahead = best - total
        highest = np.maximum.accumulate(ahead)
        where = np.maximum.accumulate(np.where(ahead == highest, column, 0))
        short = columns + 1 - least[row]
        best = np.full(columns + 1, -np.inf)
        best[least[row] :] = highest[:short] + total[least[row] :]
        begun[row, least[row] :] = where[:short]
    starts, end = np.zeros(rows, np.int64), columns
    for row in reversed(range(rows)):
        starts[row] = end = begun[row, end]
    return starts
