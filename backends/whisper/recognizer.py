"""From a request to its job, and from the decoded segments of a job to its events.

Owns what a request may ask of a loaded model, what of that is told as a note, and how sure the text is. Runs nothing:
`backend` decides what a step decodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backends.interface import (
    ASR_SAMPLE_RATE,
    Done,
    Event,
    InvalidInput,
    Request,
    TextDelta,
    TranscriptionRequest,
    Usage,
)
from backends.whisper.active_window import DecodingOptions
from backends.whisper.engine import Whisper
from backends.whisper.info import WhisperOptions
from backends.whisper.job import WhisperJob
from backends.whisper.speech_segments import VadOptions
from backends.whisper.tokenizer import checked_language

_LEAST_SECONDS = 0.02  # that a segment counts for
# Of an English-only model: published tiny.en in int8 gave -0.18 to -0.41 on nine English clips, real and spoken, and
# -0.88 to -1.32 on speech in other languages.
_DOUBTFUL_ENGLISH = -0.7
_REPEATS = "the prompt repeats itself: what comes several times in a row was used once"
_HIDES = "with the prompt nothing but its own words was heard: parts of the audio were heard without it"
_NO_ROOM = "{} of the keywords were not used: the model has no room for so many"
_POSITIONS_PER_SECOND = 50  # encoder positions, counted as audio tokens


class Recognizer:
    """What one loaded model is asked for, under a deployment's options."""

    def __init__(self, whisper: Whisper, options: WhisperOptions) -> None:
        self.whisper, self.options = whisper, options

    def job(self, request: Request) -> WhisperJob:
        """For a whole recording, or a turn of live audio. Raises InvalidInput."""
        if not isinstance(request, TranscriptionRequest):
            raise InvalidInput("Whisper transcribes audio and does nothing else", code="OperationNotSupported")
        if request.diarize:
            raise InvalidInput("Whisper cannot tell speakers apart", param="response_format", code="unsupported_value")
        special = self.whisper.special
        if request.task == "translate" and not special.multilingual:
            raise InvalidInput(
                "this is an English-only Whisper; it cannot translate", param="model", code="unsupported_value"
            )
        gated = self.options.vad and bool(request.options.get("vad", True))
        recording = self.whisper.recording(
            request.samples,
            vad_options=VadOptions.of(request.chunking, self.options.vad_threshold) if gated else None,
            carry_prompt=self.options.carry_prompt,
            logprobs=request.logprobs,
        )
        options = self._decoding_options(request)
        return WhisperJob(recording, options, len(request.samples) / ASR_SAMPLE_RATE, self._notes(options))

    def _notes(self, options: DecodingOptions) -> tuple[str, ...]:
        """What of the prompt and the keywords is not used."""
        given = self.whisper.windows.prompts.given(options)
        left_out = (_NO_ROOM.format(given.left_out),) if given.left_out else ()
        return ((_REPEATS,) if given.repeats else ()) + left_out

    def _decoding_options(self, request: TranscriptionRequest) -> DecodingOptions:
        languages = self.among(request.languages)
        temperatures = self.options.temperatures if request.temperature == 0 else (request.temperature,)
        return DecodingOptions(
            language=self.language(request.language, languages),
            languages=languages,
            task=request.task,
            prompt=request.prompt,
            keywords=request.keywords,
            temperatures=temperatures,
            words=request.words,
            max_tokens=int(request.options.get("max_tokens", DecodingOptions().max_tokens)),
        )

    def language(self, given: str | None, among: Sequence[str] = ()) -> str | None:
        """The language to decode in, None to detect it. Raises InvalidInput for one that the model does not know.

        among: the only ones that a request allows; what it says counts more than the configured language.
        """
        if given is None and among:
            return among[0] if len(among) == 1 else None
        return checked_language(self.whisper.special, given or self.options.language)

    def among(self, given: Sequence[str]) -> tuple[str, ...]:
        """The languages that alone are considered, () = all. Raises InvalidInput for one that the model does not
        know."""
        codes = [checked_language(self.whisper.special, one, "languages") for one in given]
        return tuple(dict.fromkeys(code for code in codes if code is not None))

    def events(self, job: WhisperJob) -> Iterator[Event]:
        """What a step gave to the job: new segments, and its end."""
        for segment in job.recording.finished_segments():
            job.texts.append(segment.text)
            job.tokens += len(segment.tokens)
            job.logprobs.append((max(segment.end - segment.start, _LEAST_SECONDS), segment.avg_logprob))
            yield TextDelta(segment.text, segment.logprobs)
            yield segment
        if job.recording.over:
            yield self._done(job)

    def _done(self, job: WhisperJob) -> Done:
        audio = round(job.seconds * _POSITIONS_PER_SECOND)
        given = self.whisper.windows.prompts.given(job.decoding_options)
        usage = Usage(
            input_tokens=audio + len(given.prompt) + len(given.glossary),
            output_tokens=job.tokens,
            input_audio_tokens=audio,
            audio_seconds=job.seconds,
        )
        text, language = "".join(job.texts), job.decoding_options.language
        notes = (*job.notes, *([_HIDES] if job.without_prompt else []), *self.doubts(job))
        return Done(text, language, usage=usage, timings=dict(job.timings), notes=notes)

    def doubts(self, job: WhisperJob) -> tuple[str, ...]:
        """A note where the whole text is likely to be wrong. An English-only model makes English of every language."""
        seconds = sum(length for length, _ in job.logprobs)
        if not seconds:
            return ()
        mean = sum(length * logprob for length, logprob in job.logprobs) / seconds
        if not self.whisper.special.multilingual and mean < _DOUBTFUL_ENGLISH:
            return (
                f"this model knows English only and is unsure of this text (mean log-probability {mean:.2f}); "
                "speech in another language needs a multilingual model",
            )
        if mean < self.options.logprob_threshold:
            return (f"the model is unsure of this text (mean log-probability {mean:.2f})",)
        return ()
