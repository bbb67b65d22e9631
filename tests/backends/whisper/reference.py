"""The reference implementation, openai-whisper, with the weights and the vocabulary of one of our folders.

It gets our spectrograms of windows cut out of the recording as ours are: it would take them out of one spectrogram of
the whole recording, whose edges and loudest bin are others. What follows from a window can then be compared token by
token. Of a recording of one window its own spectrogram is the same, which `own_spectrogram` uses.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tiktoken
import torch
import whisper
from whisper.model import ModelDimensions
from whisper.timing import find_alignment
from whisper.tokenizer import Tokenizer

from backends.whisper.audio import HOP, WINDOW_SAMPLES, log_mel, recorded_mel
from backends.whisper.checkpoint import Checkpoint, encoder_positions, expected_shapes
from backends.whisper.engine import Whisper
from tests.support.openai_whisper_names import openai_whisper_name

_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class Network(whisper.model.Whisper):
    """is_multilingual and num_languages are guessed from the size of the vocabulary otherwise."""

    is_multilingual = True
    num_languages = 0


class OpenaiWhisper:
    """ours: the model whose rules, vocabulary and alignment heads are taken; folder: its weights."""

    def __init__(self, ours: Whisper, folder: Path) -> None:
        self._ours = ours
        self.encoding = _encoding(ours)
        self.network = _network(ours, folder)

    def tokenizer(self, language: str) -> Tokenizer:
        return Tokenizer(self.encoding, self.network.num_languages, language=language, task="transcribe")

    @staticmethod
    def _window(samples: np.ndarray, numbers: torch.Tensor) -> torch.Tensor:
        """The spectrogram of the window whose frames have these numbers, filled up as ours is."""
        start = (int(numbers[0, 0, 0]) - 1) * HOP
        return torch.from_numpy(recorded_mel(samples[start : start + WINDOW_SAMPLES], numbers.shape[1]))[None]

    def transcribe(self, samples: np.ndarray, language: str, *, own_spectrogram: bool = False) -> list[dict[str, Any]]:
        """Segments of the whole recording, decoded greedily and without a fallback."""
        transcribing, decoding = sys.modules["whisper.transcribe"], sys.modules["whisper.decoding"]
        encode = self.network.encoder.forward
        with ExitStack() as stack:
            if not own_spectrogram:
                stack.enter_context(patch.object(transcribing, "log_mel_spectrogram", _frame_numbers))
                stack.enter_context(
                    patch.object(self.network.encoder, "forward", lambda mel: encode(self._window(samples, mel)))
                )
            for module in (transcribing, decoding):
                stack.enter_context(patch.object(module, "get_tokenizer", lambda *_, **__: self.tokenizer(language)))
            answer = transcribing.transcribe(
                self.network,
                samples,
                language=language,
                temperature=0.0,
                fp16=False,
                suppress_tokens=list(self._ours.rules.suppressed),
            )
        return [segment for segment in answer["segments"] if segment["text"]]

    def alignment(self, samples: np.ndarray, language: str, text: list[int]) -> np.ndarray:
        """What its time warping gets: [tokens + the end's row, positions]."""
        seen: list[torch.Tensor] = []

        def look(cost: torch.Tensor) -> np.ndarray:
            seen.append(cost)
            return np.tile(np.arange(len(cost)), (2, 1))

        mel = torch.from_numpy(log_mel(samples, self._ours.dims.mels))
        with patch.object(sys.modules["whisper.timing"], "dtw", look):
            find_alignment(self.network, self.tokenizer(language), text, mel, len(samples) // HOP)
        return -seen[0].numpy()


def _network(ours: Whisper, folder: Path) -> Network:
    dims, checkpoint = ours.dims, Checkpoint(folder)
    audio = (dims.mels, dims.source_positions, dims.width, dims.encoder_heads, dims.encoder_layers)
    text = (dims.vocabulary, dims.target_positions, dims.width, dims.decoder_heads, dims.decoder_layers)
    network = Network(ModelDimensions(*audio, *text))
    tensors = {openai_whisper_name(name): torch.from_numpy(checkpoint[name]) for name in expected_shapes(dims)}
    tensors["encoder.positional_embedding"] = torch.from_numpy(encoder_positions(checkpoint, dims))
    network.load_state_dict(tensors)
    heads = torch.zeros(dims.decoder_layers, dims.decoder_heads, dtype=torch.bool)
    for layer, head in ours.rules.alignment_heads:
        heads[layer, head] = True
    network.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
    network.num_languages = len(ours.special.languages)
    return network.eval()


def _encoding(ours: Whisper) -> tiktoken.Encoding:
    end, size = ours.special.end, ours.dims.vocabulary
    ranks = {ours.tokenizer.token_bytes(number): number for number in range(end)}
    first = ours.special.first_timestamp  # the times are what published tokenizers leave out
    marks = {ours.tokenizer._tokenizer.id_to_token(number): number for number in range(end, min(first, size))}
    marks = {("<|nospeech|>" if number == ours.special.no_speech else name): number for name, number in marks.items()}
    marks |= {f"<|{0.02 * (number - first):.2f}|>": number for number in range(first, size)}
    return tiktoken.Encoding(
        "ours", explicit_n_vocab=size, pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=marks
    )


def _frame_numbers(samples: np.ndarray, mels: int, padding: int) -> torch.Tensor:
    """In place of a spectrogram: the number of every frame, from 1 on. The reference pads what it cuts out with
    zeros."""
    frames = (len(samples) + padding) // HOP
    return torch.arange(1, frames + 1, dtype=torch.float32).expand(mels, frames)
