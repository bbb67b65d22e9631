"""From windows of audio to text: encode, detect the language, decode with fallbacks, judge the prompt, time the words.

Owns the order of these steps for windows of any recordings, and the replicas of the network that share them. Knows no
job and no event; the recordings take the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np

from backends.interface import Word
from backends.whisper.active_window import ActiveWindow
from backends.whisper.audio import SAMPLE_RATE
from backends.whisper.context import PromptWriter
from backends.whisper.decoding import WindowResult, WindowTask, decode_tasks
from backends.whisper.fallback import Thresholds, decode_with_fallback
from backends.whisper.model import WhisperModel
from backends.whisper.network import Floats, Network
from backends.whisper.prompts import is_echo, is_fuller, is_made_up
from backends.whisper.segments import Chunk
from backends.whisper.timing import shorten_after_pauses, split_words, token_starts, word_times
from backends.whisper.transcription import Transcription


class WindowDecoder:
    """Decodes windows with one model. thresholds: when an answer counts as silence, and when it is decoded again."""

    def __init__(self, model: WhisperModel, thresholds: Thresholds) -> None:
        self._model, self._thresholds = model, thresholds
        self.prompts = PromptWriter(model.tokenizer, model.special, model.dims.target_positions)

    def decode(self, windows: Sequence[ActiveWindow]) -> None:
        """Decode windows of any recordings together and hand the results back to them. A language that nobody named is
        detected, and stands in the item's options afterwards."""
        replicas = self._model.network.replicas(len(windows), short=all(item.frames for item in windows))
        parts = [windows[first :: len(replicas)] for first in range(len(replicas))]
        if len(replicas) == 1:
            results = [self._results(replicas[0], windows)]
        else:
            with ThreadPoolExecutor(len(replicas), "whisper") as threads:
                results = list(threads.map(self._results, replicas, parts))
        for part, part_results in zip(parts, results, strict=True):
            for item, result in zip(part, part_results, strict=True):
                self.hand_back(item, result)

    def _results(self, network: Network, windows: Sequence[ActiveWindow]) -> list[WindowResult]:
        """From audio to tokens, on one replica."""
        pieces = [item.recording.audio(item.window) for item in windows]
        frames = [item.frames for item in windows]
        zero_filled = [item.recording.zero_filled for item in windows]
        encoded = self._model.encode(pieces, network, frames, zero_filled)
        for item, encoder_output in zip(windows, encoded, strict=True):
            item.encoder_output = encoder_output
            options = item.decoding_options
            if options.language is None:
                language, _ = self._model.detect_language(encoder_output, network, options.languages)
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
            self._thresholds,
            partial(self.decode_batch, network),
            self._model.text,
        )

    def _task(self, item: ActiveWindow) -> WindowTask:
        options = item.decoding_options
        timestamps = options.timestamps and self._model.has_timestamps
        prompt = self._model.special.prompt(options.language, options.task, timestamps=timestamps)
        prompt += options.forced
        context = self.prompts.before(item)
        if item.encoder_output is None:
            raise ValueError("a window is encoded before it is decoded")
        room = self._model.dims.target_positions - len(context) - len(prompt)
        return WindowTask(
            item.encoder_output,
            (*context, *prompt),
            len(context),
            max_tokens=min(self._model.dims.target_positions // 2, room, options.max_tokens),
            seed=item.window.start,
            forced=len(options.forced),
            timestamps=timestamps,
            frames=item.frames,
        )

    def decode_batch(self, network: Network, tasks: Sequence[WindowTask]) -> list[WindowResult]:
        """Decode tasks together, once each."""
        return decode_tasks(
            network, self._model.special, lambda times: self._model.logit_filters(timestamps=times), tasks
        )

    # --- The prompt's part in an answer ----------------------------------------------------------------------------

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
        return "" if self._thresholds.is_silence(result) else self._model.text(result.tokens)

    # --- Results ---------------------------------------------------------------------------------------------------

    def hand_back(self, item: ActiveWindow, result: WindowResult) -> None:
        """Give a window's result to its recording: nothing where it is silence, else with what was left out and the
        words."""
        if not result.tokens or self._thresholds.is_silence(result):
            item.recording.skip(item.window)
            return
        recording = item.recording
        if isinstance(recording, Transcription) and (rest := recording.left_out(item.window, result)):
            result = rest.cut(self._model.alignment(item, rest.text))
        words = self._words(item, result) if item.decoding_options.words else []
        recording.accept(item.window, result, words)

    def _words(self, item: ActiveWindow, result: WindowResult) -> list[list[Word]]:
        """The words of each piece, at their times in the recording."""
        recording = item.recording
        if not isinstance(recording, Transcription):
            return []  # words have times in a recording only
        pieces = recording.pieces(item.window, result)
        texts = [recording.text_tokens(piece) for piece in pieces]
        matrix = self._model.alignment(item, [token for text in texts for token in text])
        ends = np.cumsum([0, *map(len, texts)])
        rows = [matrix[begin:end] for begin, end in pairwise(ends)]
        words = [
            self._piece_words(recording, item, result, piece, part) for piece, part in zip(pieces, rows, strict=True)
        ]
        return shorten_after_pauses(words, item.window.start / SAMPLE_RATE)

    def _piece_words(
        self, recording: Transcription, item: ActiveWindow, result: WindowResult, piece: Chunk, rows: Floats
    ) -> list[Word]:
        tokens = recording.text_tokens(piece)[: len(rows)]
        texts = [self._model.tokenizer.decode([token]) for token in tokens]
        starts = token_starts(rows, texts, piece.start, piece.end)
        groups = split_words(tokens, self._model.tokenizer, item.decoding_options.language)
        return word_times(
            groups, starts, recording.text_logprobs(piece, result), item.window.start / SAMPLE_RATE, texts
        )
