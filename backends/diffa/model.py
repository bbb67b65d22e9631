"""The whole of DIFFA: audio side, tokenizer and language model, and the answering of questions.

`load_diffa` opens the three published folders. `begin` and `logits` serve many answers at once; `answer` does the same
for one, with its defaults by the exact loop of the reference. Knows no requests, no worker and no HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.diffa.audio_encoder import AudioEncoder, EncodedAudio, load_audio_encoder
from backends.diffa.checkpoint import read_config
from backends.diffa.decoding import DecodingOptions
from backends.diffa.denoise import Denoising
from backends.diffa.llada import Llada, Pass, SequenceState, load_llada
from backends.diffa.offload import Offload
from backends.diffa.prompt import Prompt, build_prompt, question_messages
from backends.diffa.tokens import Tokenizer
from backends.interface import InvalidInput, ModelUnavailable
from backends.transformer.linear import Precision
from backends.transformer.sampling import request_generator

SYSTEM_PROMPT = "You are a helpful voice assistant."


@dataclass(slots=True)
class Answer:
    """An answer in progress: what the language model holds of it, and how far it is denoised."""

    sequence: SequenceState
    denoising: Denoising

    @property
    def done(self) -> bool:
        return self.denoising.done


@dataclass(frozen=True, slots=True)
class AnswerResult:
    """token_ids: all max_new_tokens ids (after an early stop the end token); forward_passes: sequences computed, so two
    per step with guidance; text: cut at the first end token, stripped."""

    token_ids: list[int]
    forward_passes: int
    prompt_ids: list[int]
    text: str


class DiffaModel:
    """A loaded DIFFA."""

    def __init__(self, tokenizer: Tokenizer, audio_encoder: AudioEncoder, llada: Llada) -> None:
        self.tokenizer, self.audio_encoder, self.llada = tokenizer, audio_encoder, llada

    def encode(self, samples: Any) -> EncodedAudio:
        """samples: float32 [time] at 16 kHz. Raises InvalidInput for empty audio."""
        return self.audio_encoder.encode(np.asarray(samples, np.float32))

    def speech_embeddings(self, samples: Any) -> Tensor:
        """Audio of any length -> float32 [n, width]: 64 acoustic and 12.5 semantic embeddings per second, per
        window."""
        return self.encode(samples).embeddings

    def prompt_embeddings(self, prompt: Prompt, audio: Sequence[Tensor], *, masked: bool = False) -> Tensor:
        """Prompt with audio spliced in -> [positions, width]. masked: every text id is the mask (the unguided
        prompt)."""
        ids = torch.tensor(prompt.ids)
        text = self.llada.embed(torch.full_like(ids, self.tokenizer.mask) if masked else ids)
        edges = [0, *prompt.splices, len(ids)]
        parts = [text[edges[0] : edges[1]]]
        for number, embeddings in enumerate(audio, 1):
            parts += [embeddings.to(text), text[edges[number] : edges[number + 1]]]
        return torch.cat(parts)

    def first_logits(self, samples: Any, prompt_ids: Sequence[int], splice_index: int | None, n_masks: int) -> Tensor:
        """float32 [prompt + audio + n_masks, vocabulary], everything seen by everything, mask not suppressed."""
        prompt, audio = self._finished_prompt(samples, prompt_ids, splice_index)
        masks = self.llada.embed(torch.full((n_masks,), self.tokenizer.mask))
        logits = self.llada.logits(torch.cat([self.prompt_embeddings(prompt, audio), masks]))
        return logits.float().clone()  # a plain tensor, which callers may change in place

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of new ids: cut at the first end token, without special tokens, stripped."""
        return self.tokenizer.answer_text([int(token) for token in ids])

    def check_length(self, prompt: Prompt, audio_tokens: int, options: DecodingOptions) -> None:
        """Raise InvalidInput if prompt, audio embeddings and answer need more positions than the model has."""
        needed, limit = len(prompt.ids) + audio_tokens + options.max_new_tokens, self.llada.max_positions
        if needed > limit:
            raise InvalidInput(
                f"{len(prompt.ids)} text tokens, {audio_tokens} audio tokens and {options.max_new_tokens} new tokens "
                f"are {needed}; this model has {limit} positions",
                param="messages",
                code="context_length_exceeded",
            )

    def begin(self, prompt: Prompt, audio: Sequence[Tensor], options: DecodingOptions, seed: int = 0) -> Answer:
        """State of a new answer, nothing computed yet. Raises InvalidInput for broken rules or too long a prompt."""
        options.checked()
        self.check_length(prompt, sum(len(embeddings) for embeddings in audio), options)
        # float64 noise for a whole block and vocabulary: drawn where it is used, except on devices without float64.
        noise_device = self.llada.device if self.llada.device.type == "cuda" else "cpu"
        noise = request_generator(seed, noise_device) if options.temperature > 0 else None
        tokens = self.tokenizer
        denoising = Denoising(options, tokens.mask, tokens.ends, tokens.eos, self.llada.device, noise)
        rows = [self.prompt_embeddings(prompt, audio, masked=masked) for masked in (False, True)[: denoising.rows]]
        cached = options.cache != "none"
        return Answer(self.llada.sequence(torch.stack(rows), options.max_new_tokens, cached=cached), denoising)

    def logits(self, answers: Sequence[Answer]) -> list[Tensor]:
        """What the next denoising step of each answer needs, computed in one forward pass for all."""
        return self.llada.block_logits(
            [Pass(answer.sequence, answer.denoising.ids, answer.denoising.window()) for answer in answers]
        )

    def answer(
        self,
        samples: Any,
        question: str = "",
        system_prompt: str = SYSTEM_PROMPT,
        *,
        prompt_ids: Sequence[int] | None = None,
        splice_index: int | None = None,
        seed: int = 0,
        **decoding: Any,
    ) -> AnswerResult:
        """Answer one question about one clip, float32 [time] at 16 kHz (None: a question without audio).

        prompt_ids, splice_index: a finished prompt instead of a question, and the index before which the audio goes;
        decoding: the fields of DecodingOptions. Raises InvalidInput where there is neither audio nor a question.
        """
        options = DecodingOptions(**decoding).checked()
        if samples is None and not question.strip() and not prompt_ids:
            raise InvalidInput("there is nothing to answer: neither audio nor a question", param="messages")
        prompt, audio = (
            self._question(samples, question, system_prompt)
            if prompt_ids is None
            else self._finished_prompt(samples, prompt_ids, splice_index)
        )
        answer = self.begin(prompt, audio, options, seed)
        while not answer.done:
            answer.denoising.take(self.logits([answer])[0])
        ids = answer.denoising.ids.tolist()
        return AnswerResult(ids, answer.denoising.forward_passes, list(prompt.ids), self.decode_text(ids))

    def bytes(self) -> int:
        """Bytes of all weights on the device."""
        return self.llada.bytes() + sum(p.numel() * p.element_size() for p in self.audio_encoder.parameters())

    def _question(self, samples: Any, question: str, system_prompt: str) -> tuple[Prompt, list[Tensor]]:
        """The prompt of a question, and the embeddings to splice into it."""
        prompt = build_prompt(self.tokenizer, question_messages(question, system_prompt, samples))
        return prompt, [] if samples is None else [self.speech_embeddings(samples)]

    def _finished_prompt(
        self, samples: Any, prompt_ids: Sequence[int], splice_index: int | None
    ) -> tuple[Prompt, list[Tensor]]:
        """A prompt given as ids, and the embeddings to splice into it. Raises InvalidInput for an impossible index."""
        ids = tuple(int(token) for token in prompt_ids)
        if samples is None:
            return Prompt(ids), []
        if splice_index is None or not 0 <= splice_index <= len(ids):
            raise InvalidInput(
                f"splice_index must be 0 to {len(ids)} where audio is given with prompt_ids", param="splice_index"
            )
        return Prompt(ids, (int(splice_index),)), [self.speech_embeddings(samples)]


def load_diffa(
    llm_dir: Path | str,
    whisper_dir: Path | str,
    adapter_dir: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    weights: str = "dense",
    offload: Offload | None = None,
) -> DiffaModel:
    """The model of three folders: LLaDA, Whisper, DIFFA adapters. Raises ModelUnavailable naming what is missing.

    dtype: of the language model; the audio side is always float32; weights: "dense" or "int8" matrices; offload: layers
    that stay in the processor's memory.
    """
    folders = llm, whisper, adapter = Path(llm_dir), Path(whisper_dir), Path(adapter_dir)
    for folder in folders:
        if not folder.is_dir():
            raise ModelUnavailable(f"there is no folder {folder}")
    device = torch.device(device)
    tokenizer = Tokenizer(llm, read_config(llm))
    llada = load_llada(llm, Precision(dtype, weights), device, offload)
    return DiffaModel(tokenizer, load_audio_encoder(whisper, adapter, llada.width, device), llada)
