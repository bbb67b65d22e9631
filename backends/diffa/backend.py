"""DIFFA behind the backend contract: chat requests in, blocks of text out.

One step is one denoising step of every active job, in one ragged forward pass whatever their lengths and settings, so a
short question never waits for a long one and a cancelled job is gone at the next step.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.diffa.answer_text import AnswerText
from backends.diffa.audio_encoder import SHORTEST_SAMPLES, load_audio_encoder
from backends.diffa.checkpoint import read_config
from backends.diffa.conversation import AudioLengths, audio_of, prompt_messages
from backends.diffa.decoding import DecodingOptions, ResolvedOptions, deployment_defaults, resolve_request
from backends.diffa.info import DiffaOptions
from backends.diffa.llada import LladaConfig, llada_config, load_llada
from backends.diffa.model import Answer, DiffaModel
from backends.diffa.offload import Offload
from backends.diffa.placement import choose_offload, choose_precision, name_of
from backends.diffa.prompt import build_prompt
from backends.diffa.tokens import Tokenizer
from backends.interface import (
    ASR_SAMPLE_RATE,
    AudioPart,
    Capabilities,
    ChatRequest,
    Done,
    Event,
    InvalidInput,
    Message,
    ModelFiles,
    ModelUnavailable,
    Placement,
    Progress,
    Request,
    TextDelta,
    TextPart,
    Usage,
)
from backends.transformer.kernel_checks import fallbacks
from backends.weights import model_folder


@dataclass(eq=False, slots=True)
class DiffaJob:
    """One question in progress. usage: without the output tokens; notes: for the client; seconds: by stage."""

    answer: Answer
    text: AnswerText
    usage: Usage
    seed: int
    notes: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the answer is complete: the model is done, or a stop text has ended it before."""
        return self.answer.done or self.text.stopped


class DiffaBackend:
    """See DiffaOptions for what a deployment can set. model: after `load`."""

    model: DiffaModel
    _defaults: DecodingOptions

    def __init__(self) -> None:
        self._options = DiffaOptions()
        self._active: set[DiffaJob] = set()

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        options = self._options = DiffaOptions(**model.options)
        self._defaults = deployment_defaults(asdict(options))
        torch.set_num_threads(max(1, placement.threads))
        folder = model.folder or _folder(model.model, model.models_dir)
        whisper = _folder(options.whisper_model, model.models_dir)
        adapter = _folder(options.adapter_model, model.models_dir)
        device, config = torch.device(placement.device), llada_config(folder)
        audio_encoder = load_audio_encoder(whisper, adapter, config.stack.width, device)
        encoder_bytes = sum(p.numel() * p.element_size() for p in audio_encoder.parameters())
        kind = choose_precision(placement, config)
        offload = choose_offload(placement, config, kind, encoder_bytes, options.offload == "auto")
        llada = load_llada(folder, kind, device, offload)
        self.model = DiffaModel(Tokenizer(folder, read_config(folder)), audio_encoder, llada)
        return Capabilities(
            engine="torch",
            device=placement.device,
            dtype=name_of(kind),
            max_batch=options.max_batch,
            detail=self._detail(config, offload),
        )

    def canary(self) -> Request:
        """A second of silence and a question, answered with four tokens."""
        question = Message("user", (AudioPart(np.zeros(ASR_SAMPLE_RATE, np.float32)), TextPart("Hello?")))
        return ChatRequest((question,), options={"preset": "mmsu"})

    def start(self, request: Request) -> DiffaJob:
        if not isinstance(request, ChatRequest):
            raise InvalidInput("this deployment answers questions about audio; use the chat completions route")
        resolved = resolve_request(request, self._defaults)
        began = time.perf_counter()
        job = self._begin(request, resolved)
        job.seconds["audio"] = time.perf_counter() - began
        self._active.add(job)
        return job

    def step(self, jobs: Sequence[DiffaJob]) -> Iterable[tuple[DiffaJob, Event]]:
        began = time.perf_counter()
        logits = self.model.logits([job.answer for job in jobs])
        for job, rows in zip(jobs, logits, strict=True):
            blocks_before = job.answer.denoising.blocks_done
            job.answer.denoising.take(rows)
            job.seconds["denoise"] = job.seconds.get("denoise", 0.0) + (time.perf_counter() - began) / len(jobs)
            for event in _events(job, blocks_before):
                yield job, event

    def close(self, job: DiffaJob) -> None:
        self._active.discard(job)

    def footprint(self) -> int:
        """Weights, and the keys and values of the answers in progress."""
        caches = (job.answer.sequence.cache for job in self._active)
        return self.model.bytes() + sum(cache.bytes() for cache in caches if cache is not None)

    def _begin(self, request: ChatRequest, resolved: ResolvedOptions) -> DiffaJob:
        model = self.model
        messages = prompt_messages(request, self._options.system_prompt)
        prompt, audio = build_prompt(model.tokenizer, messages), audio_of(messages)
        audio_tokens = sum(model.audio_encoder.tokens(len(samples)) for samples in audio)
        # Before any audio is encoded: an hour of it would be refused anyway.
        model.check_length(prompt, audio_tokens, resolved.options)
        seed = secrets.randbits(32) if request.seed is None else request.seed
        embeddings = [model.speech_embeddings(samples) for samples in audio]
        answer = model.begin(prompt, embeddings, resolved.options, seed)
        lengths = AudioLengths(tuple(map(len, audio)), model.audio_encoder.piece_samples, SHORTEST_SAMPLES)
        usage = Usage(len(prompt.ids) + audio_tokens, input_audio_tokens=audio_tokens, audio_seconds=lengths.seconds)
        notes = resolved.notes + lengths.notes()
        return DiffaJob(answer, AnswerText(model.tokenizer, request.stop), usage, seed, notes)

    def _detail(self, config: LladaConfig, offload: Offload | None) -> Mapping[str, Any]:
        return {
            "decoding": asdict(self._defaults),
            "positions": config.stack.max_positions,
            "layers": config.stack.layers,
            "layers_offloaded": len(offload.layers) if offload else 0,
            "kernels": fallbacks(),
        }


def _events(job: DiffaJob, blocks_before: int) -> Iterator[Event]:
    """The events of one step: progress, the text of a block that is finished, and Done at the end."""
    denoising = job.answer.denoising
    yield Progress(denoising.steps_done, denoising.steps_planned)
    if denoising.blocks_done > blocks_before:
        delta = job.text.add(_finished_ids(job, blocks_before))
        if job.over:
            delta += job.text.finish()
        if delta:
            yield TextDelta(delta)
    if job.over:
        yield _done(job)


def _finished_ids(job: DiffaJob, block: int) -> list[int]:
    length = job.answer.denoising.options.block_length
    ids: list[int] = job.answer.denoising.ids[block * length : (block + 1) * length].tolist()
    return ids


def _done(job: DiffaJob) -> Done:
    usage = replace(job.usage, output_tokens=job.text.tokens)
    return Done(job.text.text, None, job.text.finish_reason, usage, job.seed, dict(job.seconds), job.notes)


def _folder(name: str, models_dir: Path) -> Path:
    """The folder of one of the three models. Raises ModelUnavailable if it is not there."""
    folder = model_folder(models_dir, name)
    if not folder.is_dir():
        raise ModelUnavailable(
            f"the weights of {name} are missing: there is no folder {folder}; the pull command fetches them"
        )
    return folder
