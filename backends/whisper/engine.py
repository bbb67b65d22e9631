"""A loaded Whisper: the network with its tokenizer and rules, and what can be asked of it.

`load_whisper` is the door for tools and checks; the worker's backend adds jobs and events around the same object.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backends.audio.vad import SpeechDetector
from backends.interface import Chunking, InvalidInput, ModelUnavailable, Segment, Word
from backends.whisper.active_window import ActiveWindow, DecodingOptions
from backends.whisper.audio import HOP, SAMPLE_RATE, checked_samples, log_mel
from backends.whisper.checkpoint import Checkpoint, check
from backends.whisper.config import GenerationConfig, ModelDimensions, read_dims, read_generation_config
from backends.whisper.context import PromptWriter
from backends.whisper.decoding import WindowResult, WindowTask, decode_tasks, log_softmax
from backends.whisper.fallback import Thresholds, decode_with_fallback
from backends.whisper.logit_filters import LogitFilter, Suppress, SuppressFirst, Timestamps
from backends.whisper.network import EncoderOutput, Floats, Network
from backends.whisper.prompts import is_echo, is_fuller, is_made_up
from backends.whisper.segments import Chunk
from backends.whisper.speech_segments import VadOptions, find_speech, whole
from backends.whisper.timing import (
    alignment,
    alignment_heads,
    shorten_after_pauses,
    split_words,
    token_starts,
    word_times,
)
from backends.whisper.tokenizer import SpecialTokens, WhisperTokenizer, checked_language, special_tokens
from backends.whisper.transcription import Transcription

Task = Literal["transcribe", "translate"]


@dataclass(frozen=True, slots=True)
class TranscriptionResult:
    """A whole recording as text."""

    text: str
    language: str | None
    segments: tuple[Segment, ...] = ()
    words: tuple[Word, ...] = ()


class Whisper:
    """Network, tokenizer and generation rules of one checkpoint."""

    def __init__(self, folder: Path, network: Network, thresholds: Thresholds | None = None) -> None:
        self.network = network
        self.dims: ModelDimensions = network.dims
        self.tokenizer = WhisperTokenizer(folder)
        self.rules: GenerationConfig = read_generation_config(folder)
        self.special: SpecialTokens = special_tokens(self.rules, self.tokenizer, self.dims)
        self.prompts = PromptWriter(self.tokenizer, self.special, self.dims.target_positions)
        self.thresholds = thresholds or Thresholds()
        self._heads = alignment_heads(self.rules, self.dims)
        self._detector: SpeechDetector | None = None

    # --- Inspection ------------------------------------------------------------------------------------------------

    def logits(self, samples: NDArray[np.float32], tokens: Sequence[int]) -> Floats:
        """Raw logits after each of `tokens` (the whole decoder input): float32 [len(tokens), vocabulary].

        samples: [time] at 16 kHz, cut or padded to one window. Nothing is suppressed. Raises InvalidInput for tokens
        that are not in the vocabulary, and for more of them than the decoder has positions.
        """
        given = np.array([list(tokens)], np.int64)
        if given.size > self.dims.target_positions:
            raise InvalidInput(
                f"{given.size} tokens, but the decoder has {self.dims.target_positions} positions", param="tokens"
            )
        if ((given < 0) | (given >= self.dims.vocabulary)).any():
            raise InvalidInput(f"tokens lie between 0 and {self.dims.vocabulary - 1}", param="tokens")
        result: Floats = self.network.decode(self.encode([samples])).feed(given)[0]
        return result

    def greedy_tokens(
        self, samples: NDArray[np.float32], language: str = "en", task: Task = "transcribe", max_new_tokens: int = 440
    ) -> list[int]:
        """Likeliest continuation of the prompt start, language, task, no-timestamps, under the suppress lists.

        Returns only the new tokens, without the end token: what transformers' generate returns for one window. No gate,
        no fallback, no timestamp rules.
        """
        prompt = self.special.prompt(checked_language(self.special, language), task, timestamps=False)
        decoding = self.network.decode(self.encode([samples]))
        room = min(max_new_tokens, self.dims.target_positions - len(prompt))
        tokens: list[int] = []
        logits = decoding.feed(np.array([prompt], np.int64), len(prompt) - 1)
        while len(tokens) < room:
            row = np.array(logits[:, -1], np.float32)
            for rule in self.logit_filters(timestamps=False):
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
    ) -> TranscriptionResult:
        """The whole recording. A single temperature means no fallback ladder; a sequence is the ladder.

        Raises InvalidInput for a language or task that the model does not know, and for temperatures that are none.
        """
        temperatures = tuple(float(attempt) for attempt in np.atleast_1d(np.asarray(temperature, np.float64)))
        if not temperatures or not all(0 <= attempt < np.inf for attempt in temperatures):
            raise InvalidInput(
                f"temperature {temperature!r} is not a number from 0 on, or a ladder of them", param="temperature"
            )
        known = checked_language(self.special, language)
        decoding_options = DecodingOptions(
            known, task=task, prompt=prompt, temperatures=temperatures, words=word_timestamps
        )
        self.special.prompt(
            decoding_options.language, task, timestamps=True
        )  # refuses an unknown task before silence hides it
        recording = self.recording(samples, vad_options=VadOptions.of(chunking, 0.5) if vad else None)
        segments: list[Segment] = []
        # The first window alone tells the language, where nobody did.
        while windows := recording.next_windows(1 if decoding_options.language is None else self.network.max_batch):
            items = [ActiveWindow(recording, window, decoding_options) for window in windows]
            self.work(items)
            decoding_options = replace(decoding_options, language=items[0].decoding_options.language)
            segments.extend(recording.finished_segments())
        words = tuple(word for segment in segments for word in segment.words)
        return TranscriptionResult(
            "".join(segment.text for segment in segments).strip(), decoding_options.language, tuple(segments), words
        )

    # --- Steps -----------------------------------------------------------------------------------------------------

    def encode(
        self, pieces: Sequence[NDArray[np.float32]], network: Network | None = None, frames: Sequence[int] = ()
    ) -> list[EncoderOutput]:
        """Each piece is one window's audio. network: one of the lanes; frames: of each window, 0 = the model's own."""
        dims = self.dims
        lengths = frames or [0] * len(pieces)
        mels = [
            log_mel(checked_samples(piece), dims.mels, length or dims.mel_frames)
            for piece, length in zip(pieces, lengths, strict=True)
        ]
        return (network or self.network).encode(mels)

    def recording(
        self,
        samples: NDArray[np.float32],
        *,
        vad_options: VadOptions | None,
        carry_prompt: bool = True,
        logprobs: bool = False,
    ) -> Transcription:
        """A transcription in its first state; gate None: everything is decoded."""
        if vad_options is None:
            speech_segments = whole(samples)
        else:
            speech_segments = find_speech(samples, self.detector(), vad_options, self.dims.window_seconds)
        return Transcription(
            samples,
            speech_segments,
            self.dims.window_samples,
            self.tokenizer,
            self.special,
            carry_prompt=carry_prompt,
            logprobs=logprobs,
        )

    def detector(self) -> SpeechDetector:
        """The speech detector, loaded once. Raises ModelUnavailable where it is missing."""
        if self._detector is None:
            self._detector = SpeechDetector()
        return self._detector

    def detect_language(
        self, encoder_output: EncoderOutput, network: Network | None = None, among: Sequence[str] = ()
    ) -> tuple[str, float]:
        """The likeliest language of a window and its probability among the languages; English-only models know one.

        among: codes of the model's that alone come into question, () = all.
        """
        if not self.special.multilingual:
            return "en", 1.0
        logits = (
            (network or self.network).decode([encoder_output]).feed(np.array([[self.special.start]], np.int64))[0, -1]
        )
        codes = list(among or self.special.languages)
        logprobs = log_softmax(logits[[self.special.languages[code] for code in codes]])
        best = int(logprobs.argmax())
        return codes[best], float(np.exp(logprobs[best]))

    def work(self, windows: Sequence[ActiveWindow]) -> None:
        """Decode windows of any recordings together and hand the results back to them. A language that nobody named is
        detected, and stands in the item's options afterwards."""
        replicas = self.network.replicas(len(windows))
        parts = [windows[place :: len(replicas)] for place in range(len(replicas))]
        if len(replicas) == 1:
            results = [self._results(replicas[0], windows)]
        else:
            with ThreadPoolExecutor(len(replicas), "whisper") as threads:
                results = list(threads.map(self._results, replicas, parts))
        for part, found in zip(parts, results, strict=True):
            for item, result in zip(part, found, strict=True):
                self._settle(item, result)

    def _results(self, network: Network, windows: Sequence[ActiveWindow]) -> list[WindowResult]:
        """From audio to tokens, in one lane."""
        pieces = [item.recording.audio(item.window) for item in windows]
        frames = [item.frames for item in windows]
        for item, encoder_output in zip(windows, self.encode(pieces, network, frames), strict=True):
            item.encoder_output = encoder_output
            options = item.decoding_options
            if options.language is None:
                language, _ = self.detect_language(encoder_output, network, options.languages)
                item.decoding_options = replace(options, language=language)
        results = self._decoded(network, windows)
        hidden = [index for index, result in enumerate(results) if self._is_echo(windows[index], result)]
        for index in hidden:
            windows[index].prompt_left_out = True
        again = self._decoded(network, [windows[index] for index in hidden]) if hidden else []
        for index, result in zip(hidden, again, strict=True):
            if self._is_better(windows[index], result, results[index]):
                results[index] = result
            else:
                windows[index].prompt_left_out = False
        return results

    def _decoded(self, network: Network, windows: Sequence[ActiveWindow]) -> list[WindowResult]:
        return decode_with_fallback(
            [self._task(item) for item in windows],
            [item.decoding_options.temperatures for item in windows],
            self.thresholds,
            partial(self._decode_batch, network),
            self._text,
        )

    def _is_echo(self, item: ActiveWindow, result: WindowResult) -> bool:
        """The answer is nothing, or nothing but the client's prompt and keywords."""
        options = item.decoding_options
        given = " ".join([options.prompt, *options.keywords]).strip()
        if not given or options.forced:  # what is forced was said already
            return False
        return is_echo(self._text_of(result), given)

    def _is_better(self, item: ActiveWindow, again: WindowResult, first: WindowResult) -> bool:
        """Whether the answer without prompt and keywords is to be believed: it has more, or nothing at all where the
        keywords made up the first."""
        now, before = self._text_of(again), self._text_of(first)
        return is_fuller(now, before) or (
            bool(before) and is_made_up(before, now, " ".join(item.decoding_options.keywords))
        )

    def _text_of(self, result: WindowResult) -> str:
        return "" if self.thresholds.is_silence(result) else self._text(result.tokens)

    def _task(self, item: ActiveWindow) -> WindowTask:
        options = item.decoding_options
        timestamps = options.timestamps and self._timed
        prompt = self.special.prompt(options.language, options.task, timestamps=timestamps)
        prompt += options.forced
        context = self.prompts.before(item)
        if item.encoder_output is None:
            raise ValueError("a window is encoded before it is decoded")
        room = self.dims.target_positions - len(context) - len(prompt)
        return WindowTask(
            item.encoder_output,
            (*context, *prompt),
            len(context),
            max_tokens=min(self.dims.target_positions // 2, room, options.max_tokens),
            seed=item.window.start,
            forced=len(options.forced),
            timestamps=timestamps,
            frames=item.frames,
        )

    @property
    def _timed(self) -> bool:
        """Does the vocabulary have timestamps?"""
        return self.special.first_timestamp < self.dims.vocabulary

    def logit_filters(self, *, timestamps: bool) -> list[LogitFilter]:
        rules: list[LogitFilter] = [Suppress(self.rules.suppressed), SuppressFirst(self.rules.suppressed_first)]
        if timestamps:
            rules.append(Timestamps(self.special, self.rules.max_initial_timestamp))
        return rules

    def _decode_batch(self, network: Network, tasks: Sequence[WindowTask]) -> list[WindowResult]:
        return decode_tasks(network, self.special, lambda times: self.logit_filters(timestamps=times), tasks)

    def _text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(token for token in tokens if token < self.special.first_timestamp)

    def _settle(self, item: ActiveWindow, result: WindowResult) -> None:
        if not result.tokens or self.thresholds.is_silence(result):
            item.recording.skip(item.window)
            return
        recording = item.recording
        if isinstance(recording, Transcription) and (rest := recording.left_out(item.window, result)):
            result = rest.cut(self.alignment(item, rest.text))
        words = self._words(item, result) if item.decoding_options.words else []
        recording.accept(item.window, result, words)

    # --- Word times ------------------------------------------------------------------------------------------------

    def _words(self, item: ActiveWindow, result: WindowResult) -> list[list[Word]]:
        """The words of each piece, at their times in the recording."""
        recording = item.recording
        if not isinstance(recording, Transcription):
            return []  # words have times in a recording only
        pieces = recording.pieces(item.window, result)
        texts = [recording.text_tokens(piece) for piece in pieces]
        matrix = self.alignment(item, [token for text in texts for token in text])
        ends = np.cumsum([0, *map(len, texts)])
        rows = [matrix[begin:end] for begin, end in pairwise(ends)]
        words = [
            self._piece_words(recording, item, result, piece, part) for piece, part in zip(pieces, rows, strict=True)
        ]
        return shorten_after_pauses(words, item.window.start / SAMPLE_RATE)

    def alignment(self, item: ActiveWindow, text: Sequence[int]) -> Floats:
        """How much each token of a window's text is about each position of its audio: [tokens, positions].

        Tokens beyond the decoder's last position have no row.
        """
        prompt = self.special.prompt(item.decoding_options.language, item.decoding_options.task, timestamps=False)
        known = list(text[: self.dims.target_positions - len(prompt) - 1])
        positions = max(1, item.window.length // (2 * HOP))
        if not known or item.encoder_output is None:
            return np.zeros((0, positions), np.float32)
        weights = self.network.cross_weights(item.encoder_output, [*prompt, *known, self.special.end], self._heads)
        # A token's time is read where it is predicted, one row earlier; the weights' rows are inputs.
        return alignment(weights, positions)[len(prompt) - 1 : len(prompt) - 1 + len(known)]

    def _piece_words(
        self, recording: Transcription, item: ActiveWindow, result: WindowResult, piece: Chunk, rows: Floats
    ) -> list[Word]:
        tokens = recording.text_tokens(piece)[: len(rows)]
        texts = [self.tokenizer.decode([token]) for token in tokens]
        starts = token_starts(rows, texts, piece.start, piece.end)
        groups = split_words(tokens, self.tokenizer, item.decoding_options.language)
        return word_times(
            groups, starts, recording.text_logprobs(piece, result), item.window.start / SAMPLE_RATE, texts
        )


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
