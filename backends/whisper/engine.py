"""A loaded Whisper: the network with its tokenizer and rules, and what can be asked of it.

`load_whisper` is the door for tools and checks; the worker's backend adds jobs and events around the same object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backends.audio.vad import SpeechDetector
from backends.interface import Chunking, InvalidInput, ModelUnavailable, Segment, Word
from backends.whisper.audio import HOP, SAMPLE_RATE, log_mel
from backends.whisper.checkpoint import Checkpoint, check
from backends.whisper.config import Dims, GenerationRules, read_dims, read_rules
from backends.whisper.decoding import WindowResult, WindowTask, decode_windows, log_softmax
from backends.whisper.fallback import Thresholds, climb
from backends.whisper.logit_filters import Rule, Suppress, SuppressFirst, Timestamps
from backends.whisper.network import Floats, Memory, Network
from backends.whisper.segments import Piece
from backends.whisper.speech_segments import Gate, Stretch, speech_stretches, whole
from backends.whisper.timing import alignment, alignment_heads, split_words, token_starts, word_times
from backends.whisper.tokenizer import SpecialTokens, WhisperTokenizer, checked_language, special_tokens
from backends.whisper.transcription import Transcription, Window

Task = Literal["transcribe", "translate"]
_LOUDEST = 1e9  # full scale is 1; the squares of more would overflow


@dataclass(frozen=True, slots=True)
class Wish:
    """What one transcription asks for.

    language: Whisper's code or None (detect); temperatures: the ladder, one rung = no ladder; max_tokens: of one window.
    """

    language: str | None = None
    task: str = "transcribe"
    prompt: str = ""
    temperatures: tuple[float, ...] = (0.0,)
    words: bool = False
    max_tokens: int = 448


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole recording as text."""

    text: str
    language: str | None
    segments: tuple[Segment, ...] = ()
    words: tuple[Word, ...] = ()


@dataclass(slots=True)
class WindowInWork:
    """A window of some recording with what its job wishes; memory: the encoded audio."""

    recording: Transcription
    window: Window
    wish: Wish
    memory: Memory | None = field(default=None)


class Whisper:
    """Network, tokenizer and generation rules of one checkpoint."""

    def __init__(self, folder: Path, network: Network, thresholds: Thresholds | None = None) -> None:
        self.network = network
        self.dims: Dims = network.dims
        self.tokenizer = WhisperTokenizer(folder)
        self.rules: GenerationRules = read_rules(folder)
        self.special: SpecialTokens = special_tokens(self.rules, self.tokenizer, self.dims)
        self.thresholds = thresholds or Thresholds()
        self._heads = alignment_heads(self.rules, self.dims)
        self._detector: SpeechDetector | None = None

    # --- Inspection ------------------------------------------------------------------------------------------------

    def logits(self, samples: NDArray[np.float32], tokens: Sequence[int]) -> Floats:
        """Raw logits after each of `tokens` (the whole decoder input): float32 [len(tokens), vocabulary].

        samples: [time] at 16 kHz, cut or padded to one window. Nothing is suppressed. Raises InvalidInput for tokens that are
        not in the vocabulary, and for more of them than the decoder has positions.
        """
        given = np.array([list(tokens)], np.int64)
        if given.size > self.dims.target_positions:
            raise InvalidInput(f"{given.size} tokens, but the decoder has {self.dims.target_positions} positions", param="tokens")
        if ((given < 0) | (given >= self.dims.vocabulary)).any():
            raise InvalidInput(f"tokens lie between 0 and {self.dims.vocabulary - 1}", param="tokens")
        result: Floats = self.network.decode(self.encode([samples])).feed(given)[0]
        return result

    def greedy_tokens(
        self, samples: NDArray[np.float32], language: str = "en", task: Task = "transcribe", max_new_tokens: int = 440
    ) -> list[int]:
        """Likeliest continuation of the prompt start, language, task, no-timestamps, under the suppress lists.

        Returns only the new tokens, without the end token: what transformers' generate returns for one window. No gate, no
        fallback, no timestamp rules.
        """
        prompt = self.special.prompt(checked_language(self.special, language), task, timestamps=False)
        decoding = self.network.decode(self.encode([samples]))
        room = min(max_new_tokens, self.dims.target_positions - len(prompt))
        tokens: list[int] = []
        logits = decoding.feed(np.array([prompt], np.int64), len(prompt) - 1)
        while len(tokens) < room:
            row = np.array(logits[:, -1], np.float32)
            for rule in self.token_rules(timestamps=False):
                rule.apply(row, [tokens])
            token = int(row[0].argmax())
            if token == self.special.end:
                break
            tokens.append(token)
            if len(tokens) < room:
                logits = decoding.feed(np.array([[token]], np.int64))
        return tokens

    def transcribe(
        self,
        samples: NDArray[np.float32],
        language: str | None = None,
        task: Task = "transcribe",
        word_timestamps: bool = False,
        temperature: float | Sequence[float] = 0.0,
        *,
        prompt: str = "",
        vad: bool = True,
        chunking: Chunking | None = None,
    ) -> Transcript:
        """The whole recording. A single temperature means no fallback ladder; a sequence is the ladder.

        Raises InvalidInput for a language or task that the model does not know, and for temperatures that are none.
        """
        ladder = tuple(float(rung) for rung in np.atleast_1d(np.asarray(temperature, np.float64)))
        if not ladder or not all(0 <= rung < np.inf for rung in ladder):
            raise InvalidInput(f"temperature {temperature!r} is not a number from 0 on, or a ladder of them", param="temperature")
        wish = Wish(checked_language(self.special, language), task, prompt, ladder, word_timestamps)
        self.special.prompt(wish.language, task, timestamps=True)  # refuses an unknown task before silence hides it
        recording = self.recording(samples, gate=Gate.of(chunking, 0.5) if vad else None)
        segments: list[Segment] = []
        # The first window alone tells the language, where nobody did.
        while windows := recording.next_windows(1 if wish.language is None else self.network.max_batch):
            items = [WindowInWork(recording, window, wish) for window in windows]
            self.work(items)
            wish = replace(wish, language=items[0].wish.language)
            segments.extend(recording.finished_segments())
        words = tuple(word for segment in segments for word in segment.words)
        return Transcript("".join(segment.text for segment in segments).strip(), wish.language, tuple(segments), words)

    # --- Steps -----------------------------------------------------------------------------------------------------

    def encode(self, pieces: Sequence[NDArray[np.float32]], network: Network | None = None) -> list[Memory]:
        """Each piece is one window's audio. network: one of the lanes."""
        dims = self.dims
        mels = [log_mel(_checked(piece), dims.mels, dims.mel_frames) for piece in pieces]
        return (network or self.network).encode(mels)

    def recording(
        self,
        samples: NDArray[np.float32],
        *,
        gate: Gate | None,
        carry_prompt: bool = True,
        logprobs: bool = False,
    ) -> Transcription:
        """A transcription in its first state; gate None: everything is decoded."""
        stretches = whole(samples) if gate is None else self._gated(samples, gate)
        return Transcription(
            samples,
            stretches,
            self.dims.window_samples,
            self.tokenizer,
            self.special,
            carry_prompt=carry_prompt,
            logprobs=logprobs,
        )

    def _gated(self, samples: NDArray[np.float32], gate: Gate) -> Iterator[Stretch]:
        if self._detector is None:
            self._detector = SpeechDetector()
        return speech_stretches(samples, self._detector, gate, self.dims.window_seconds)

    def detect_language(self, memory: Memory, network: Network | None = None) -> tuple[str, float]:
        """The likeliest language of a window and its probability among the languages; English-only models know one."""
        if not self.special.multilingual:
            return "en", 1.0
        logits = (network or self.network).decode([memory]).feed(np.array([[self.special.start]], np.int64))[0, -1]
        codes = list(self.special.languages)
        logprobs = log_softmax(logits[[self.special.languages[code] for code in codes]])
        best = int(logprobs.argmax())
        return codes[best], float(np.exp(logprobs[best]))

    def work(self, windows: Sequence[WindowInWork]) -> None:
        """Decode windows of any recordings together and hand the results back to them. A language that nobody named is
        detected, and stands in the item's wish afterwards."""
        lanes = self.network.lanes(len(windows))
        parts = [windows[place :: len(lanes)] for place in range(len(lanes))]
        if len(lanes) == 1:
            results = [self._results(lanes[0], windows)]
        else:
            with ThreadPoolExecutor(len(lanes), "whisper") as threads:
                results = list(threads.map(self._results, lanes, parts))
        for part, found in zip(parts, results, strict=True):
            for item, result in zip(part, found, strict=True):
                self._settle(item, result)

    def _results(self, network: Network, windows: Sequence[WindowInWork]) -> list[WindowResult]:
        """From audio to tokens, in one lane."""
        pieces = [item.recording.audio(item.window) for item in windows]
        for item, memory in zip(windows, self.encode(pieces, network), strict=True):
            item.memory = memory
            if item.wish.language is None:
                item.wish = replace(item.wish, language=self.detect_language(memory, network)[0])
        tasks = [self._task(item) for item in windows]
        ladders = [item.wish.temperatures for item in windows]
        return climb(tasks, ladders, self.thresholds, partial(self._decode_batch, network), self._text)

    def _task(self, item: WindowInWork) -> WindowTask:
        prompt = self.special.prompt(item.wish.language, item.wish.task, timestamps=self._timed)
        context = self._context(item)
        if item.memory is None:
            raise ValueError("a window is encoded before it is decoded")
        room = self.dims.target_positions - len(context) - len(prompt)
        limit = min(self.dims.target_positions // 2, room, item.wish.max_tokens)
        return WindowTask(item.memory, (*context, *prompt), len(context), max_tokens=limit, seed=item.window.start)

    def _context(self, item: WindowInWork) -> list[int]:
        """<|startofprev|> and the end of what the user or the window before said; at most half the positions."""
        if self.special.previous is None:
            return []
        given = self.tokenizer.encode(f" {item.wish.prompt.strip()}") if item.wish.prompt.strip() else []
        before = [*given, *item.window.context]
        room = self.dims.target_positions // 2 - 1
        return [self.special.previous, *before[-room:]] if before and room > 0 else []

    @property
    def _timed(self) -> bool:
        """Does the vocabulary have timestamps?"""
        return self.special.first_timestamp < self.dims.vocabulary

    def token_rules(self, *, timestamps: bool) -> list[Rule]:
        rules: list[Rule] = [Suppress(self.rules.suppressed), SuppressFirst(self.rules.suppressed_first)]
        if timestamps:
            rules.append(Timestamps(self.special, self.rules.max_initial_timestamp))
        return rules

    def _decode_batch(self, network: Network, tasks: Sequence[WindowTask]) -> list[WindowResult]:
        size, rules = network.max_batch, self.token_rules(timestamps=self._timed)
        parts = [tasks[first : first + size] for first in range(0, len(tasks), size)]
        return [result for part in parts for result in decode_windows(network, self.special, rules, part)]

    def _text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(token for token in tokens if token < self.special.first_timestamp)

    def _settle(self, item: WindowInWork, result: WindowResult) -> None:
        if not result.tokens or self.thresholds.is_silence(result):
            item.recording.skip(item.window)
            return
        words = self._words(item, result) if item.wish.words else []
        item.recording.accept(item.window, result, words)

    # --- Word times ------------------------------------------------------------------------------------------------

    def _words(self, item: WindowInWork, result: WindowResult) -> list[list[Word]]:
        """The words of each piece, at their times in the recording."""
        pieces = item.recording.pieces(item.window, result)
        texts = [item.recording.text_tokens(piece) for piece in pieces]
        matrix = self.alignment(item, [token for text in texts for token in text])
        ends = np.cumsum([0, *map(len, texts)])
        rows = [matrix[begin:end] for begin, end in pairwise(ends)]
        return [self._piece_words(item, result, piece, part) for piece, part in zip(pieces, rows, strict=True)]

    def alignment(self, item: WindowInWork, text: Sequence[int]) -> Floats:
        """How much each token of a window's text is about each position of its audio: [tokens, positions].

        Tokens beyond the decoder's last position have no row.
        """
        prompt = self.special.prompt(item.wish.language, item.wish.task, timestamps=False)
        known = list(text[: self.dims.target_positions - len(prompt) - 1])
        positions = max(1, item.window.length // (2 * HOP))
        if not known or item.memory is None:
            return np.zeros((0, positions), np.float32)
        weights = self.network.cross_weights(item.memory, [*prompt, *known, self.special.end], self._heads)
        # A token's time is read where it is predicted, one row earlier; the weights' rows are inputs.
        return alignment(weights, positions)[len(prompt) - 1 : len(prompt) - 1 + len(known)]

    def _piece_words(self, item: WindowInWork, result: WindowResult, piece: Piece, rows: Floats) -> list[Word]:
        tokens = item.recording.text_tokens(piece)[: len(rows)]
        texts = [self.tokenizer.decode([token]) for token in tokens]
        starts = token_starts(rows, texts, piece.start, piece.end)
        groups = split_words(tokens, self.tokenizer, item.wish.language)
        return word_times(groups, starts, item.recording.text_logprobs(piece, result), item.window.start / SAMPLE_RATE, texts)


def _checked(piece: NDArray[np.float32]) -> Floats:
    """Samples as float32 [time]. Raises InvalidInput for what is no sound: it would become text all the same."""
    samples = np.asarray(piece, np.float32)
    if samples.ndim != 1:
        raise InvalidInput("audio is one channel: samples of shape [time]", param="samples")
    if not (np.abs(samples) < _LOUDEST).all():
        raise InvalidInput("audio holds values that are no samples (not finite, or beyond all bounds)", param="samples")
    return samples


def load_whisper(
    model_dir: Path | str,
    engine: str = "onnx",
    device: str = "cpu",
    dtype: str = "float32",
    *,
    threads: int = 1,
    max_batch: int = 8,
    cache_folder: str = "",
    thresholds: Thresholds | None = None,
) -> Whisper:
    """Load a published Whisper folder. Raises ModelUnavailable with the names of what is missing."""
    folder = Path(model_dir)
    if not folder.is_dir():
        raise ModelUnavailable(f"there is no folder {folder}; pull the model first")
    dims = read_dims(folder)
    check(Checkpoint(folder), dims)
    network: Network
    if engine == "onnx":
        from backends.whisper.onnx.engine import OnnxNetwork

        network = OnnxNetwork(
            folder, dims, device=device, dtype=dtype, threads=threads, max_batch=max_batch, cache_folder=cache_folder
        )
    elif engine == "torch":
        from backends.whisper.torch.engine import TorchNetwork

        network = TorchNetwork(folder, dims, device=device, dtype=dtype, threads=threads, max_batch=max_batch)
    else:
        raise ModelUnavailable(f"Whisper has no engine {engine!r} (onnx or torch)")
    return Whisper(folder, network, thresholds)
