"""LLASA behind the backend contract: load, start, one token per step for all text chunks of all jobs, close.

Owns the slots and their assignment to jobs. Prompts, text chunks and audio belong to the job (jobs.py), tokens to
decoding.py, and jobs whose clip has no codes yet to cloning.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from backends.audio.sentences import packed_sentences
from backends.interface import (
    Capabilities,
    Event,
    InvalidInput,
    ModelFiles,
    ModelUnavailable,
    Placement,
    Request,
    SpeechRequest,
)
from backends.llasa.adapters import CONFIG, adapter_base, adapter_folders
from backends.llasa.cloning import Cloning
from backends.llasa.codec import Codec, load_codec
from backends.llasa.compiling import try_compile, try_graphs
from backends.llasa.decoding import TokenLoop
from backends.llasa.dtypes import codec_dtype, language_dtype
from backends.llasa.info import LlasaOptions
from backends.llasa.jobs import SpeechJob
from backends.llasa.model import Llasa, load_llasa, new_seed
from backends.llasa.options import GenerationOptions, default_generation_options, read_generation_options
from backends.llasa.prompts import caption
from backends.llasa.text import is_japanese, neutralised, normalised_japanese
from backends.llasa.voices import BASE, Voices
from backends.transformer.kernel_checks import fallbacks
from backends.weights import model_folder

log = logging.getLogger(__name__)

_CANARY_TOKENS = 12
_ROWS = 2  # from two rows on, dense products do not depend on how many jobs there are (see Packed)


class LlasaBackend:
    """One loaded language model with its adapters and codec. model, codec, loop, voices: its parts, after `load`."""

    model: Llasa
    codec: Codec
    loop: TokenLoop
    voices: Voices
    _cloning: Cloning
    _options: LlasaOptions
    _defaults: GenerationOptions
    _facts: dict[str, Any]

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        """Load language model, adapters and the codec's decoder. Raises ModelUnavailable."""
        torch.set_num_threads(max(1, placement.threads))
        self._options = options = LlasaOptions(**_backend_options(model.options))
        self._defaults = default_generation_options(options)
        dtype = language_dtype(placement.dtype, placement.device)
        self.model = _language_model(model, options, dtype, placement.device)
        self.loop = TokenLoop(self.model, options.max_batch, options.max_length)
        compiled = try_compile(self.loop, model.user_dir) if options.compile else try_graphs(self.loop)
        self.codec = _codec(model, options, dtype, placement.device)
        self.voices = self._make_voices(model)
        self._cloning = Cloning(self.model, self.codec, self.voices)
        _check_codes(self.model, self.codec)
        self._prepare_cloning()
        self._facts = self._detail(compiled)
        return Capabilities(
            engine="torch",
            device=placement.device,
            dtype=dtype,
            max_batch=options.max_batch,
            sample_rate=self.codec.rate,
            voices=self.voices.listed(),
            detail=self._facts,
        )

    def canary(self) -> SpeechRequest:
        """A request for a few tokens of speech."""
        return SpeechRequest("Hello.", BASE, seed=0, options={"max_new_tokens": _CANARY_TOKENS})

    def start(self, request: Request) -> SpeechJob:
        """Check the request and split its text; `step` encodes its reference clip. Raises InvalidInput."""
        if not isinstance(request, SpeechRequest):
            raise InvalidInput("LLASA only speaks")
        generation = read_generation_options(self._defaults, request.options)
        voice = self.voices.for_request(request.voice, request.reference)
        texts = self._texts(request.text, generation)
        notes = []
        if request.instructions and self._options.captions:
            generation = read_generation_options(generation, {"system": caption(request.instructions)})
        elif request.instructions:
            notes.append(
                "instructions are not used: this model takes none (set captions for caption-tuned checkpoints)"
            )
        if request.context:
            notes.append("context is not used by this model; send a reference clip instead")
        job = SpeechJob(request, voice, generation, texts, new_seed() if request.seed is None else request.seed)
        job.notes += notes
        job.check_length(self.model, self.codec.dims.hop)
        self._cloning.prepare(job)
        return job

    def step(self, jobs: Sequence[Any]) -> Iterator[tuple[Any, Event]]:
        """One step towards the codes of a clip, and one token for every chunk in a slot; yields the audio completed."""
        waiting = [job for job in jobs if job.clip is not None]
        failed = self._cloning.step(waiting, alone=len(waiting) == len(jobs))
        yield from failed.items()
        speaking = [job for job in jobs if job.clip is None and job not in failed]
        if speaking:
            self._speak(speaking, share=max(1, self._options.max_batch // len(jobs)))
        yield from self._events(speaking)

    def _speak(self, jobs: Sequence[SpeechJob], share: int) -> None:
        """Compute one token for every chunk in a slot. share: most slots of one job."""
        self._fill_slots(jobs, share)
        began = time.perf_counter()
        self.loop.step([utterance for job in jobs for utterance in job.running()])
        seconds = time.perf_counter() - began
        if self.loop.given_up:
            self._facts["compile"] = f"off: {self.loop.given_up}"
        for job in jobs:
            job.timings["generate"] += seconds

    def close(self, job: Any) -> None:
        for utterance in job.running():
            self.loop.release(utterance)

    def footprint(self) -> int:
        """Bytes of weights and cache; on a GPU what its allocator holds."""
        device = self.model.device
        if device.type == "cuda":
            return int(torch.cuda.memory_reserved(device))
        return self.model.bytes() + self.loop.bytes() + self.codec.bytes()

    # --- slots ---

    def _fill_slots(self, jobs: Sequence[SpeechJob], share: int) -> None:
        """Give slots to one chunk of every job, then to further chunks, up to `share` of one job."""
        for most in (1, share):
            for job in jobs:
                for chunk in job.startable():
                    if len(job.running()) >= most or not self.loop.free:
                        break
                    utterance = job.begin(chunk, self.model, self.codec.dims.hop)
                    self.loop.admit(utterance)
                    chunk.utterance = utterance

    def _events(self, jobs: Sequence[SpeechJob]) -> Iterator[tuple[SpeechJob, Event]]:
        for job in jobs:
            job.harvest(self.model, self.loop.release)
            for event in job.events(self.model, self.codec):
                yield job, event

    # --- text ---

    def _texts(self, text: str, generation: GenerationOptions) -> list[str]:
        """The texts of the chunks. Raises InvalidInput if nothing can be spoken."""
        text = self.model.vocabulary.without_tokens(neutralised(text))
        japanese = generation.language == "ja" or (not generation.language and is_japanese(text))
        text = normalised_japanese(text, generation.japanese_filter) if japanese else text
        texts = packed_sentences(text, generation.sentence_characters, generation.sentence_characters)
        if not texts:
            raise InvalidInput("the input has no text that can be spoken", param="input")
        return texts

    # --- loading ---

    def _make_voices(self, model: ModelFiles) -> Voices:
        options = self._options
        return Voices(
            model.models_dir / "voices",
            [name for name in self.model.variants if name],
            lambda samples: [int(code) for code in self.codec.encode(samples)[0, 0].tolist()],
            options.codec_model,
            longest=options.reference_seconds,
            prefixes=options.assistant_prefix,
            double_bos=options.double_bos,
        )

    def _prepare_cloning(self) -> None:
        """Load the encoder now if a voice folder's clip has no codes yet: its imports take longer than any clip."""
        if not self.voices.to_encode():
            return
        try:
            self.codec.load_encoder()
        except ModelUnavailable as error:
            log.warning("no voice can be cloned: %s", error.message)

    def _detail(self, compiled: str) -> dict[str, Any]:
        return {
            "adapters": [name for name in self.model.variants if name],
            "head": self._options.head,
            "codec_dtype": str(self.codec.dtype).removeprefix("torch."),
            "compile": compiled or "off",
            "kernels": fallbacks(),
            "speech_tokens": self.model.vocabulary.speech_count,
        }


def _language_model(model: ModelFiles, options: LlasaOptions, dtype: str, device: str) -> Llasa:
    """The base model with all adapters. The deployment's model may be an adapter folder itself."""
    if model.folder is None:
        raise ModelUnavailable(f"deployment {model.deployment} names no model")
    folder, adapters = model.folder, dict[str, Path]()
    if (folder / CONFIG).is_file() and not (folder / "config.json").is_file():
        adapters.update(adapter_folders(folder.name, folder))
        base = options.base_model or adapter_base(folder)
        folder = model_folder(model.models_dir, base) if base else folder
    for name, path in options.adapters.items():
        adapters.update(adapter_folders(name, _resolved(path, model.models_dir)))
    if not folder.is_dir():
        raise ModelUnavailable(f"the model folder {folder} is missing: run `speech-gateway pull {model.deployment}`")
    loaded = load_llasa(folder, None, device, dtype, options.head == "full", rows=_ROWS, packed=not options.compile)
    for name, adapter in adapters.items():
        if name == BASE:
            raise ModelUnavailable(f"an adapter cannot be called {BASE!r}: that is the base model's voice")
        loaded.add_adapter(name, adapter)
        log.info("voice %s: adapter %s", name, adapter)
    return loaded


def _codec(model: ModelFiles, options: LlasaOptions, dtype: str, device: str) -> Codec:
    folder = model_folder(model.models_dir, options.codec_model)
    if not folder.is_dir():
        raise ModelUnavailable(f"the codec folder {folder} is missing: run `speech-gateway pull {model.deployment}`")
    return load_codec(folder, device, codec_dtype(options.codec_dtype, dtype, device))


def _check_codes(model: Llasa, codec: Codec) -> None:
    """Raise ModelUnavailable for speech tokens without a code; codes without a token only limit cloning: a warning."""
    tokens, codes = model.vocabulary.speech_count, codec.dims.codebook
    if tokens > codes:
        raise ModelUnavailable(f"the language model has {tokens} speech tokens, the codec only {codes} codes")
    if tokens < codes:
        log.warning(
            "the language model knows %d of the codec's %d codes; others are left out of cloning prompts", tokens, codes
        )


def _resolved(name: str, models_dir: Path) -> Path:
    """A folder as given, or inside the models folder."""
    path = Path(name).expanduser()
    inside = models_dir / path
    return inside if not path.is_dir() and inside.is_dir() else path


def _backend_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: options[field.name] for field in fields(LlasaOptions) if field.name in options}
