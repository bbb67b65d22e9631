"""Speech of the embedded voices: Piper for English, Kokoro for Japanese, espeak-ng for every other language.

Owns the choice of the voice and the piece-by-piece stream. One step speaks one piece of one job, the one that has
waited longest, so that a cancel or a new job waits for one clause at most. Knows no model.
"""

from __future__ import annotations

import locale
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backends.data_packages import INSTALL
from backends.embedded.clauses import clauses
from backends.embedded.espeak import EspeakBackend, EspeakJob
from backends.embedded.foreign_words import readable_scripts
from backends.embedded.neural_models import Synthesizer, VoiceModels
from backends.embedded.silence import pause_behind, silence
from backends.embedded.speakable import is_kanji_only, is_surely_chinese, language_of, readable, without_pictures
from backends.embedded.voice_catalog import NeuralVoice, VoiceCatalog, installed_voices, is_kokoro_name
from backends.embedded.voices_info import VoicesOptions
from backends.interface import (
    AudioChunk,
    Capabilities,
    Done,
    Event,
    InvalidInput,
    Job,
    ModelFiles,
    ModelUnavailable,
    Placement,
    Request,
    SpeechRequest,
    Usage,
)
from backends.memory import resident_bytes
from backends.openai_voices import OPENAI_VOICES, PLAIN_VOICE

_MAX_BATCH = 8  # jobs that take turns; each waits for a piece of every other
_NOTHING = "the input holds nothing to say: the answer is silence"
_NOTHING_SECONDS = 0.25  # of silence for a text that holds nothing to say
_NEURAL_LANGUAGES = {"en": "English", "ja": "Japanese"}  # with a voice in the weight packages


@dataclass(slots=True, eq=False)
class _NeuralJob:
    """pieces: text that is left; parts: phonemes of the piece that is being spoken; served: number of its last step."""

    request: SpeechRequest
    language: str
    voice: Synthesizer
    pieces: deque[str]
    notes: list[str]
    parts: deque[str] = field(default_factory=deque)
    pause: float = 0.0
    spoken: int = 0
    served: int = 0
    begun: float = field(default_factory=time.perf_counter)


@dataclass(slots=True, eq=False)
class _StandInJob:
    """A job that espeak-ng speaks; why: notes on that."""

    job: EspeakJob
    why: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Why, and what espeak-ng says of the text itself."""
        return (*self.why, *self.job.notes)


class VoicesBackend:
    """Implements backends.interface.Backend for task "speech"."""

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        self._options = VoicesOptions(**model.options)
        self._problems: dict[str, str] = {}
        self._steps = 0
        neural: list[NeuralVoice] = []
        self._neural = placement.engine != "espeak-ng"
        if self._neural:
            neural = installed_voices(model.models_dir, permissive_only=self._options.permissive_licences_only)
            self._models = VoiceModels(placement.threads)
        self._reads_japanese = any(voice.language == "ja" for voice in neural)
        if self._reads_japanese:
            self._models.prepare_japanese()
        self._catalog = VoiceCatalog(neural)
        self._espeak = EspeakBackend()
        espeak = self._espeak.load(replace(model, options=self._espeak_options()), placement)
        self._detail: dict[str, Any] = {**espeak.detail, "neural_voices": [voice.id for voice in neural]}
        families = dict.fromkeys(voice.family for voice in neural)
        return Capabilities(
            engine="+".join([*families, espeak.engine]),
            device="cpu",
            dtype="float32" if neural else espeak.dtype,
            max_batch=_MAX_BATCH,
            sample_rate=espeak.sample_rate,
            voices=(*(voice.listed() for voice in neural), *espeak.voices),
            native_speed=True,
            detail=self._detail,
        )

    def canary(self) -> Request:
        return SpeechRequest(text="Ready.", voice=PLAIN_VOICE)

    def start(self, request: Request) -> Job:
        if not isinstance(request, SpeechRequest):
            raise InvalidInput("the embedded voices make speech only")
        if request.reference is not None:
            raise InvalidInput("the embedded voices cannot clone a voice", param="reference_audio")
        voice, code = self._choose(request)
        ready, problem = self._ready(voice)
        if voice is None or ready is None:
            return self._with_espeak(request, code, problem)
        others = readable_scripts(self._reads_japanese) if voice.language != "ja" else frozenset[str]()
        text, note = readable(without_pictures(request.text), voice.language, others)
        notes = [note] if note else []
        if voice.language == "ja" and self._is_guess(request):
            notes.append(
                'Chinese characters alone were read as Japanese; options.language = "cmn" reads them as Chinese'
            )
        pieces = deque(clauses(text))
        if not pieces:
            notes.append(_NOTHING)
        return _NeuralJob(request, voice.language, ready, pieces, [*notes, *_unused(request)])

    def step(self, jobs: Sequence[Job]) -> Iterable[tuple[Job, Event]]:
        """One sentence of each job of espeak-ng, and one piece of the neural job that has waited longest."""
        for job in jobs:
            if isinstance(job, _StandInJob):
                yield from self._step_espeak(job)
        neural = [job for job in jobs if isinstance(job, _NeuralJob)]
        if neural:
            turn = min(neural, key=lambda waiting: waiting.served)
            self._steps += 1
            turn.served = self._steps
            for event in self._advance(turn):
                yield turn, event

    def close(self, job: Job) -> None:
        if isinstance(job, _StandInJob):
            self._espeak.close(job.job)

    def footprint(self) -> int:
        return resident_bytes()

    # --- Which voice --------------------------------------------------------------------------------------------------

    def _choose(self, request: SpeechRequest) -> tuple[NeuralVoice | None, str]:
        """The neural voice for a request and the language it asks for; None: espeak-ng's."""
        name = request.voice.strip() or self._options.voice
        if voice := self._catalog.named(name):
            return voice, voice.language
        if is_kokoro_name(name):
            raise InvalidInput(
                f"the voice {name!r} is not here; put {name}.bin into models/kokoro/voices", param="voice"
            )
        if name.lower() in OPENAI_VOICES:
            code = _asked_language(request) or self._language_of(request)
            return self._catalog.for_language(code, name), code
        return self._catalog.for_language(name), name.lower()

    def _language_of(self, request: SpeechRequest) -> str:
        """The language code of a text by its script and, in Latin letters, its words; "" for what only espeak-ng
        speaks."""
        found = language_of(text := request.text)
        default = self._catalog.named(self._options.voice)
        own = default.locale if default else self._options.voice
        if found == "latin":
            return own if request.language in ("", own.partition("-")[0].lower()) else request.language
        if found is None and (own.lower().startswith("ja") or self._reads_as_japanese(text)):
            return "ja"
        return found or ""

    def _reads_as_japanese(self, text: str) -> bool:
        """Kanji alone may be Japanese or Chinese: Japanese where a voice of it is here, unless text or machine say
        otherwise."""
        possible = self._catalog.for_language("ja") is not None and is_kanji_only(text) and not is_surely_chinese(text)
        return possible and not _speaks_chinese(locale.getlocale()[0] or "")

    def _is_guess(self, request: SpeechRequest) -> bool:
        """Whether nothing but the characters' being Chinese and the voices that are here made the text Japanese."""
        name = request.voice.strip() or self._options.voice
        named = self._catalog.named(name) is not None or name.lower() not in OPENAI_VOICES
        return not named and not _asked_language(request) and is_kanji_only(request.text)

    def _ready(self, voice: NeuralVoice | None) -> tuple[Synthesizer | None, str]:
        """The voice loaded, or what keeps it from loading, which is told in the notes and at /health."""
        if voice is None:
            return None, ""
        try:
            ready = self._models.synthesizer(voice)
            if why := self._models.why_slower:
                self._detail["kokoro"] = f"as published, which is slower: {why}"
            return ready, ""
        except ModelUnavailable as error:
            self._problems[voice.id] = error.message
            self._detail["problems"] = dict(self._problems)
            return None, error.message

    # --- espeak-ng ----------------------------------------------------------------------------------------------------

    def _espeak_options(self) -> dict[str, Any]:
        """The deployment's options as espeak-ng takes them: it speaks the language of a default voice that is not its
        own."""
        names = ("voice", "words_per_minute", "pitch", "pitch_range", "sentence_gap_ms")
        default = self._catalog.named(self._options.voice)
        own = {name: getattr(self._options, name) for name in names}
        return {**own, "voice": default.language} if default else own

    def _with_espeak(self, request: SpeechRequest, code: str, problem: str) -> _StandInJob:
        name = request.voice
        language = code.partition("-")[0]
        if name.lower() in OPENAI_VOICES and _asked_language(request):
            name = code
        elif named := self._catalog.named(name or self._options.voice):
            name = named.language
        job = self._espeak.start(replace(request, voice=name, options={}))
        if problem:
            return _StandInJob(job, (f"espeak-ng spoke, because the neural voice did not load: {problem}",))
        if "+" in name or code not in (language, "en-us", "ja-jp") or self._catalog.for_language(language):
            return _StandInJob(job, ())
        spoken = _NEURAL_LANGUAGES.get(language) if self._neural else None
        return _StandInJob(job, (self._why_espeak(spoken),) if spoken else ())

    def _why_espeak(self, language: str) -> str:
        if self._options.permissive_licences_only and language == "English":
            return "espeak-ng spoke: there is no neural voice for English with a permissive licence"
        return f"espeak-ng spoke: the neural voice for {language} is not installed ({INSTALL})"

    def _step_espeak(self, job: _StandInJob) -> Iterator[tuple[Job, Event]]:
        for _, event in self._espeak.step([job.job]):
            yield job, replace(event, notes=(*job.why, *event.notes)) if isinstance(event, Done) else event

    # --- Neural voices ------------------------------------------------------------------------------------------------

    def _advance(self, job: _NeuralJob) -> Iterator[Event]:
        """Speak one part; what is spoken is taken away only then, because a step that raises is repeated."""
        while not job.parts and job.pieces:
            job.parts.extend(job.voice.phonemes(job.pieces[0]))
            job.pieces.popleft()
        if job.parts:
            part = job.parts[0]
            samples = job.voice.say(part, job.request.speed, _seed(job))
            job.parts.popleft()
            if job.spoken:
                yield AudioChunk(silence(job.pause, job.voice.rate), job.voice.rate)
            job.pause = pause_behind(part) / job.request.speed
            job.spoken += 1
            yield AudioChunk(samples, job.voice.rate)
        if not job.parts and not job.pieces:
            if not job.spoken:
                job.notes += [] if _NOTHING in job.notes else [_NOTHING]
                yield AudioChunk(silence(_NOTHING_SECONDS, job.voice.rate), job.voice.rate)
            yield _done(job)


def _speaks_chinese(name: str) -> bool:
    """Whether a locale is Chinese, by its name on POSIX (zh_TW) or Windows (Chinese_Taiwan)."""
    return name.lower().startswith(("zh", "chinese"))


def _asked_language(request: SpeechRequest) -> str:
    """The language code of a request's options. Raises InvalidInput for what cannot be one."""
    language = request.options.get("language", "")
    if not isinstance(language, str) or len(language) > 16:
        raise InvalidInput("options.language must be a language code such as en or ja", param="options")
    return language.strip().lower()


def _seed(job: _NeuralJob) -> int:
    """Every part has noise of its own, the same for the same request."""
    return (job.request.seed or 0) + job.spoken


def _done(job: _NeuralJob) -> Done:
    return Done(
        language=job.language,
        usage=Usage(input_tokens=len(job.request.text.split())),
        seed=job.request.seed,
        timings={"synthesis": time.perf_counter() - job.begun},
        notes=tuple(job.notes),
    )


def _unused(request: SpeechRequest) -> Iterator[str]:
    """Notes for what the request says and these voices do not use."""
    if request.instructions.strip():
        yield "the embedded voices have no speaking styles: instructions were not used"
    if request.context:
        yield "the embedded voices do not listen: context was not used"
    if unknown := sorted(name for name in request.options if name != "language"):
        yield f"the embedded voices have no option {', '.join(unknown)[:80]}: it was not used"
