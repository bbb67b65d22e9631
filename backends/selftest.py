"""The self-test of an installation: the embedded voices speak, Whisper listens, and little may be lost.

One text a language, spoken as one request and heard as one recording. Run as `python -m backends.selftest MODELS_DIR
[MODEL]`: prints one JSON document; the exit status is 0 only if every language is within its bound. The engines are
found through the registry.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import soxr

from backends.audio.error_rate import error_rate
from backends.drive import run
from backends.interface import (
    ASR_SAMPLE_RATE,
    AudioChunk,
    Backend,
    BackendError,
    Capabilities,
    Done,
    Event,
    Failed,
    InvalidInput,
    ModelFiles,
    Placement,
    Request,
    Samples,
    SpeechRequest,
    TranscriptionRequest,
)
from backends.openai_voices import PLAIN_VOICE
from backends.registry import make_backend
from backends.weights import model_folder

MODEL = "whisper-base"
TEXTS = {
    "en": (
        "Please open the front door before you leave. The weather is nice today, but it may rain tomorrow. "
        "We will meet at the station tomorrow morning. Can you tell me what time the train leaves?"
    ),
    "ja": "昨日は友達と映画を見に行きました。とても面白かったです。明日の朝、駅の前で会いましょう。",
}
# Lost words or characters. espeak-ng is harder to understand than the neural voices, which lose next to nothing.
BOUNDS = {"en": 0.15, "ja": 0.15}
ESPEAK_BOUND = 0.35
_JAPANESE = "ja-JP"  # locale of the neural voices; espeak-ng cannot read kanji


@dataclass(frozen=True, slots=True)
class LanguageResult:
    """error_rate: lost words, or characters where there are no spaces, per one that was said; engine: what spoke."""

    language: str
    engine: str
    said: str
    recognized: str
    error_rate: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.error_rate <= self.bound


def self_test(models_dir: Path, model: str = MODEL) -> Iterator[LanguageResult]:
    """English, and Japanese where a voice can read it and the model knows it. Raises BackendError."""
    recognizer, speaker = make_backend("whisper"), make_backend("voices")
    folder = model_folder(models_dir, model).resolve()
    recognition = recognizer.load(
        ModelFiles("embedded-asr", model, folder, models_dir, Path()), Placement(engine="onnx", device="cpu")
    )
    voices = speaker.load(ModelFiles("embedded-tts", "", None, models_dir, Path()), Placement(engine="neural"))
    for language in _languages(recognition, voices):
        said = TEXTS[language]
        sound, neural = _speak(speaker, said, language, voices)
        recognized = _recognise(recognizer, sound, language)
        bound = BOUNDS[language] if neural else ESPEAK_BOUND
        engine = "a neural voice" if neural else "espeak-ng"
        yield LanguageResult(language, engine, said, recognized, error_rate(said, recognized, language), bound)


def _languages(recognition: Capabilities, voices: Capabilities) -> list[str]:
    can_read = {"ja"} if any(_JAPANESE in voice.languages for voice in voices.voices) else set()
    return ["en", *(language for language in ("ja",) if language in can_read and language in recognition.languages)]


def _events(backend: Backend, request: Request) -> list[Event]:
    """All events of a request. Raises InvalidInput where it failed."""
    (events,) = run(backend, request)
    if isinstance(last := events[-1], Failed):
        raise InvalidInput(last.message)
    return events


def _speak(backend: Backend, text: str, language: str, voices: Capabilities) -> tuple[Samples, bool]:
    """`text` as samples at 16 kHz, over the 16-bit step that a wav file would bring; whether a neural voice spoke."""
    events = _events(backend, SpeechRequest(text, PLAIN_VOICE, options={"language": language}))
    chunks = [event for event in events if isinstance(event, AudioChunk)]
    joined = np.round(np.concatenate([chunk.samples for chunk in chunks]) * 32767) / 32768
    samples: Samples = soxr.resample(joined, chunks[0].rate, ASR_SAMPLE_RATE).astype(np.float32)
    done = events[-1]
    notes = done.notes if isinstance(done, Done) else ()
    neural = bool(voices.detail.get("neural_voices")) and not any("espeak-ng spoke" in note for note in notes)
    return samples, neural


def _recognise(backend: Backend, samples: Samples, language: str) -> str:
    last = _events(backend, TranscriptionRequest(samples, language=language))[-1]
    return last.text.strip() if isinstance(last, Done) else ""


def main(arguments: Sequence[str]) -> int:
    results: list[LanguageResult] = []
    error = None
    try:
        results.extend(self_test(Path(arguments[0]), *arguments[1:2]))
    except BackendError as problem:
        error = problem.message
    rows = [{**asdict(replace(one, error_rate=round(one.error_rate, 4))), "passed": one.passed} for one in results]
    print(json.dumps({"error": error, "results": rows}))
    return 2 if error is not None else 0 if all(one.passed for one in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
