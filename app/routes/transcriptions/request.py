"""The form of a transcription or translation, read and checked: what is asked for, and whether a deployment can do it.

Knows the fields and their rules; decodes no audio and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

from app.config.deployments import Deployment
from app.errors import InvalidRequest, OperationNotSupported, UnsupportedParameter, UnsupportedValue
from app.routes.fields import as_mapping, checked_keywords, checked_number
from app.routes.multipart import Form, UploadedFile
from app.routes.transcriptions.speakers import Deployed, SpeakerFields, read_speakers
from app.writers.transcripts import FORMATS, STREAMED_FORMATS, Format
from backends.interface import Capabilities, Chunking, Samples, TranscriptionRequest
from backends.languages import language_code, wants_detection

TranscriptionTask = Literal["transcribe", "translate"]
_SPEAKER_FORMATS = ("diarized_json", "rttm")
_TRANSLATION_FORMATS = tuple(name for name in FORMATS if name not in _SPEAKER_FORMATS)
# What a deployment that tells speakers apart answers by the contract; diarize = true asks for more.
_DIARIZED_FORMATS = ("json", "text", "diarized_json", "rttm")
_TRANSLATION_FIELDS = frozenset({"file", "filename", "model", "prompt", "response_format", "temperature"})
_FIELDS = _TRANSLATION_FIELDS | {
    "language", "languages", "keywords", "timestamp_granularities", "include", "stream", "chunking_strategy",
    "known_speaker_names", "known_speaker_references", "num_speakers", "min_speakers", "max_speakers", "diarize",
}  # fmt: skip
_GRANULARITIES = ("word", "segment")
_LONGEST_MS = 60_000  # of padding or silence in a chunking strategy


@dataclass(frozen=True, slots=True)
class TranscriptionForm:
    """One request. granularities: () unless the client named some; diarize: speakers are wanted in a format that has
    none of its own; speakers: what is known of them; languages: the only ones to detect; keywords: words to expect;
    ignored: unused fields."""

    file: UploadedFile
    task: TranscriptionTask
    format: Format
    stream: bool = False
    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    temperature: float = 0.0
    granularities: tuple[str, ...] = ()
    logprobs: bool = False
    chunking: Chunking | None = None
    diarize: bool = False
    speakers: SpeakerFields = field(default_factory=SpeakerFields)
    ignored: tuple[str, ...] = ()

    @property
    def words(self) -> bool:
        return "word" in self.granularities

    @property
    def segments(self) -> bool:
        """verbose_json shows segments unless only words were asked for."""
        return self.granularities != ("word",)

    @property
    def diarized(self) -> bool:
        """Whether the answer names speakers."""
        return self.format in _SPEAKER_FORMATS or (self.diarize and self.format in ("verbose_json", "srt", "vtt"))

    def request(self, samples: Samples, *, own_speakers: bool, words: bool) -> TranscriptionRequest:
        """The backend's request.

        samples: float32 [time] at 16 kHz; own_speakers: it tells speakers apart itself; words: their times are needed
        even if they are not shown.
        """
        return TranscriptionRequest(
            samples=samples,
            language=self.language,
            languages=self.languages,
            task=self.task,
            prompt=self.prompt,
            keywords=self.keywords,
            temperature=self.temperature,
            words=self.words or words,
            logprobs=self.logprobs,
            diarize=own_speakers,
            chunking=self.chunking,
        )


def read_form(fields: Form, task: TranscriptionTask) -> TranscriptionForm:
    """The checked fields. Raises InvalidRequest and its kin, naming the field."""
    file = fields.file("file")
    prompt = fields.text("prompt") or ""
    temperature = fields.number("temperature", 0.0, 1.0) or 0.0
    if task == "translate":
        kind = fields.choice("response_format", _TRANSLATION_FORMATS, "json")
        unused = _unused(fields, _TRANSLATION_FIELDS)
        return TranscriptionForm(file, task, cast(Format, kind), prompt=prompt, temperature=temperature, ignored=unused)
    kind = fields.choice("response_format", FORMATS, "json")
    language, languages = _languages(fields)
    granularities, ignored = _granularities(fields, kind)
    stream = fields.flag("stream")
    if stream and kind not in STREAMED_FORMATS:
        stream, ignored = False, (*ignored, "stream")
    return TranscriptionForm(
        file,
        task,
        cast(Format, kind),
        stream=stream,
        language=language,
        languages=languages,
        prompt=prompt,
        keywords=checked_keywords(fields.texts_of("keywords"), "keywords"),
        temperature=temperature,
        granularities=granularities,
        logprobs=_logprobs(fields, kind),
        chunking=_chunking(fields),
        diarize=fields.flag("diarize"),
        speakers=read_speakers(fields),
        ignored=(*_unused(fields, _FIELDS), *ignored),
    )


def check_capabilities(
    form: TranscriptionForm,
    deployment: Deployment,
    loaded: Capabilities | None = None,
    diarizer: Deployment | None = None,
) -> None:
    """Raises UnsupportedValue, UnsupportedParameter or OperationNotSupported for what the deployment cannot do.

    loaded: what its model said when it was loaded, which may be less than its backend can: an English-only Whisper
    does not translate. None before the first load. diarizer: tells its speakers apart if it cannot.
    """
    name = deployment.name

    def can(ability: Literal["translation", "diarization", "words", "logprobs"]) -> bool:
        return getattr(deployment.info, ability) and (loaded is None or getattr(loaded, ability))

    if form.task == "translate" and not can("translation"):
        raise OperationNotSupported(f"The audio/translations operation does not work with the deployment {name!r}.")
    speakers = diarizer is not None or (form.format != "rttm" and can("diarization"))
    if form.diarized and not speakers:
        raise UnsupportedValue(
            f"response_format {form.format} with speakers is not supported by {name!r}; it offers "
            f"{', '.join(_TRANSLATION_FORMATS)}.",
            param="response_format",
        )
    if form.words and not can("words"):
        raise UnsupportedValue(f"{name!r} does not give word times.", param="timestamp_granularities")
    if form.logprobs and not can("logprobs"):
        raise UnsupportedValue(f"{name!r} does not give log probabilities.", param="include")
    if form.speakers.names and not speakers:
        raise UnsupportedParameter(f"{name!r} does not tell speakers apart.", param="known_speaker_names")


def check_contract(form: TranscriptionForm, chosen: Deployed) -> None:
    """What a deployment that tells speakers apart refuses when it is asked by its name, as the real service does.

    With diarize = true more than the contract is meant. Raises UnsupportedValue and UnsupportedParameter.
    """
    if chosen.diarizer is None or not chosen.named or form.diarize:
        return
    name = chosen.diarizer.name
    if form.format not in _DIARIZED_FORMATS:
        raise UnsupportedValue(
            f"response_format {form.format!r} is not compatible with model {name!r}; use "
            f"{', '.join(_DIARIZED_FORMATS)}, or send diarize=true.",
            param="response_format",
        )
    for given, param in (
        (form.prompt, "prompt"),
        (form.keywords, "keywords"),
        (form.logprobs, "include"),
        (form.granularities, "timestamp_granularities"),
    ):
        if given:
            raise UnsupportedParameter(f"{param} is not supported by the model {name!r}.", param=param)


def _unused(fields: Form, known: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in fields.names() if name not in known)


def _languages(fields: Form) -> tuple[str | None, tuple[str, ...]]:
    """The language, None to detect it, and those among which it is detected, () = all."""
    named = fields.text("language")
    code = None if named is None or wants_detection(named) else _code(named, "language")
    hints = [text for text in fields.texts_of("languages") if not wants_detection(text)]
    codes = tuple(dict.fromkeys(_code(text, "languages") for text in hints))
    if code is not None and codes and code not in codes:
        raise InvalidRequest(
            f"language is {named!r}, which is not among the languages {', '.join(codes)}.", param="languages"
        )
    if code is None and len(codes) == 1:
        code = codes[0]
    return code, (() if code is not None else codes)


def _code(text: str, param: str) -> str:
    code = language_code(text)
    if code is None:
        raise InvalidRequest(
            f"{param} must be an ISO 639-1 code such as en, or left out to have it detected, not {text[:40]!r}.",
            param=param,
        )
    return code


def _granularities(fields: Form, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What verbose_json is to show, and the field's name where the format shows no times of its own.

    Widespread clients name segments, their default, beside every format; who asks for words would miss them.
    """
    name = "timestamp_granularities"
    given = fields.texts_of(name)
    for one in given:
        if one not in _GRANULARITIES:
            raise InvalidRequest(f"{name} may hold word and segment, not {one[:40]!r}.", param=name)
    if kind == "verbose_json":
        return tuple(dict.fromkeys(given)), ()
    if "word" in given:
        raise InvalidRequest(f"{name} word needs response_format verbose_json.", param=name)
    return (), ((name,) if given else ())


def _logprobs(fields: Form, kind: str) -> bool:
    given = fields.texts_of("include")
    for name in given:
        if name != "logprobs":
            raise InvalidRequest(f"include may hold logprobs, not {name[:40]!r}.", param="include")
    if given and kind != "json":
        raise InvalidRequest("include[]=logprobs needs response_format json.", param="include")
    return bool(given)


def _chunking(fields: Form) -> Chunking | None:
    given = fields.mapping("chunking_strategy")
    if given is None:
        return None
    if isinstance(given, str):
        if given != "auto":
            raise InvalidRequest(
                "chunking_strategy must be auto or an object of type server_vad.", param="chunking_strategy"
            )
        return Chunking()
    return _server_vad(dict(as_mapping(given, "chunking_strategy")))


def _server_vad(given: dict[str, Any]) -> Chunking:
    name = "chunking_strategy"
    if given.get("type") != "server_vad":
        raise InvalidRequest(f"{name}.type must be server_vad.", param=name)
    usual = Chunking()

    def milliseconds(key: str, default: int) -> int:
        return int(checked_number(given.get(key, default), f"{name}.{key}", 0, _LONGEST_MS))

    return Chunking(
        checked_number(given.get("threshold", usual.threshold), f"{name}.threshold", 0, 1),
        milliseconds("prefix_padding_ms", usual.prefix_padding_ms),
        milliseconds("silence_duration_ms", usual.silence_duration_ms),
    )
