"""The parts of one Whisper checkpoint, and each single step that they can do: encode, detect, align, inspect.

Owns network, tokenizer and generation rules. Knows no recording and no fallback; `window_decoder` puts the steps
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backends.interface import InvalidInput
from backends.whisper.active_window import ActiveWindow
from backends.whisper.audio import HOP, checked_samples, log_mel, recorded_mel
from backends.whisper.config import GenerationConfig, ModelDimensions, read_generation_config
from backends.whisper.decoding import log_softmax
from backends.whisper.logit_filters import LogitFilter, Suppress, SuppressFirst, Timestamps
from backends.whisper.network import EncoderOutput, Floats, Network
from backends.whisper.timing import alignment, alignment_heads
from backends.whisper.tokenizer import SpecialTokens, WhisperTokenizer, checked_language, special_tokens

Task = Literal["transcribe", "translate"]


class WhisperModel:
    """Network, tokenizer and generation rules of one checkpoint."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.network = network
        self.dims: ModelDimensions = network.dims
        self.tokenizer = WhisperTokenizer(folder)
        self.rules: GenerationConfig = read_generation_config(folder)
        self.special: SpecialTokens = special_tokens(self.rules, self.tokenizer, self.dims)
        self._heads = alignment_heads(self.rules, self.dims)

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

    # --- Steps -----------------------------------------------------------------------------------------------------

    def encode(
        self,
        pieces: Sequence[NDArray[np.float32]],
        network: Network | None = None,
        frames: Sequence[int] = (),
        zero_filled: Sequence[bool] = (),
    ) -> list[EncoderOutput]:
        """The encoded audio of each piece, which is one window's. network: one of the replicas; frames: of each window,
        0 = the model's own; zero_filled: whether each is filled up as openai-whisper does it, else with silence, as
        transformers does."""
        count = len(pieces)
        mels = [
            (recorded_mel if zeros else log_mel)(checked_samples(piece), self.dims.mels, length or self.dims.mel_frames)
            for piece, length, zeros in zip(pieces, frames or [0] * count, zero_filled or [False] * count, strict=True)
        ]
        return (network or self.network).encode(mels)

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

    @property
    def has_timestamps(self) -> bool:
        """Whether the vocabulary has timestamps."""
        return self.special.first_timestamp < self.dims.vocabulary

    def logit_filters(self, *, timestamps: bool) -> list[LogitFilter]:
        """The rules that every decoded token is held to, in their order."""
        rules: list[LogitFilter] = [Suppress(self.rules.suppressed), SuppressFirst(self.rules.suppressed_first)]
        if timestamps:
            rules.append(Timestamps(self.special, self.rules.max_initial_timestamp))
        return rules

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without their times."""
        return self.tokenizer.decode(token for token in tokens if token < self.special.first_timestamp)

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
