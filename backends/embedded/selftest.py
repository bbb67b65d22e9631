"""The self-test of an installation: every sentence is spoken by espeak-ng and must come back exactly from pocketsphinx.

The recogniser works with a closed list of these sentences (grammar mode), which is deterministic; open recognition of
synthetic speech is not good enough to test anything. Run as `python -m backends.embedded.selftest`: prints one JSON
document; the exit status is 0 only if every sentence came back.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from backends.interface import (
    ASR_SAMPLE_RATE,
    AudioChunk,
    Backend,
    BackendError,
    Done,
    Event,
    Failed,
    ModelFiles,
    Placement,
    Request,
    Samples,
    SpeechRequest,
    TranscriptionRequest,
)

SENTENCES = (
    "Please open the front door before you leave.",
    "The weather is nice today, but it may rain tomorrow.",
    "I would like a cup of coffee with milk.",
    "We will meet at the station tomorrow morning.",
    "She sells fresh bread and butter in the market.",
    "The children are playing in the garden behind the house.",
    "Can you tell me what time the train leaves?",
    "He bought a new car last week and drove it home.",
    "There are many books on the table in my room.",
    "The doctor told him to stay in bed for three days.",
    "It takes about twenty minutes to walk to the school.",
    "They went to the beach and swam in the cold water.",
)
WORDS_PER_MINUTE = 140  # the rate at which the closed grammar made no error in 30 sentences


@dataclass(frozen=True, slots=True)
class Result:
    """One sentence: what was said, what was understood."""

    said: str
    heard: str

    @property
    def passed(self) -> bool:
        return self.said == self.heard


def self_test(sentences: Iterable[str] = SENTENCES) -> list[Result]:
    """Speak and recognise each sentence. Raises ModelUnavailable if a library is missing."""
    from backends.embedded.espeak import EspeakBackend
    from backends.embedded.pocketsphinx import PocketsphinxBackend

    said = list(sentences)
    mouth, ear = EspeakBackend(), PocketsphinxBackend()
    mouth.load(_model("espeak", {"words_per_minute": WORDS_PER_MINUTE}), Placement())
    ear.load(_model("pocketsphinx", {"sentences": tuple(said)}), Placement())
    return [Result(sentence, _recognise(ear, _speak(mouth, sentence))) for sentence in said]


def _model(name: str, options: Mapping[str, Any]) -> ModelFiles:
    return ModelFiles(name, "", None, Path("models"), Path(), options)


def _events(backend: Backend, request: Request) -> list[Event]:
    job = backend.start(request)
    events: list[Event] = []
    while not events or not isinstance(events[-1], Done | Failed):
        events.extend(event for _, event in backend.step([job]))
    backend.close(job)
    return events


def _speak(backend: Backend, sentence: str) -> Samples:
    """`sentence` as samples at 16 kHz, over the 16-bit step that a wav file would bring."""
    chunks = [event for event in _events(backend, SpeechRequest(sentence, "en-us")) if isinstance(event, AudioChunk)]
    joined = np.round(np.concatenate([chunk.samples for chunk in chunks]) * 32767) / 32768
    samples: Samples = soxr.resample(joined, chunks[0].rate, ASR_SAMPLE_RATE).astype(np.float32)
    return samples


def _recognise(backend: Backend, samples: Samples) -> str:
    last = _events(backend, TranscriptionRequest(samples))[-1]
    return last.text if isinstance(last, Done) else ""


def main() -> int:
    try:
        results = self_test()
    except BackendError as error:
        print(json.dumps({"error": error.message, "results": []}))
        return 2
    rows = [{**asdict(result), "passed": result.passed} for result in results]
    print(json.dumps({"error": None, "results": rows}))
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
