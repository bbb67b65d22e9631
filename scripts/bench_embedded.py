"""Measure the embedded engines: `python scripts/bench_embedded.py [--json FILE] [--rounds 3]`.

Real-time factors in process CPU seconds of one thread (robust on a shared machine), the share of the time until the
first audio of a 4,096 character text, at the backend and over HTTP, and the word error rate of espeak-ng's speech with
and without the noise floor. Compared figures come from interleaved runs of one process.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import soxr  # noqa: E402

from app.commands.client import deployment_path  # noqa: E402
from app.commands.connection import connected  # noqa: E402
from backends.embedded import pocketsphinx as sphinx_module  # noqa: E402
from backends.embedded.espeak import EspeakBackend  # noqa: E402
from backends.embedded.pocketsphinx import PocketsphinxBackend  # noqa: E402
from backends.embedded.selftest import SENTENCES, self_test  # noqa: E402
from backends.embedded.sphinx_decoder import spoken_form  # noqa: E402
from backends.interface import (  # noqa: E402
    ASR_SAMPLE_RATE,
    AudioChunk,
    Backend,
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

LONG_TEXT = (" ".join(SENTENCES) + " ") * 8
CHARACTERS = 4096


def events(backend: Backend, request: Request) -> Iterator[Event]:
    job = backend.start(request)
    while True:
        for _, event in backend.step([job]):
            yield event
            if isinstance(event, Done | Failed):
                return


def loaded(backend: Backend) -> Backend:
    backend.load(ModelFiles("bench", "", None, Path("models"), Path(), {}), Placement())
    return backend


def spoken(backend: Backend, text: str) -> Samples:
    """At the listening rate."""
    chunks = [event for event in events(backend, SpeechRequest(text, "en-us")) if isinstance(event, AudioChunk)]
    samples: Samples = soxr.resample(np.concatenate([c.samples for c in chunks]), chunks[0].rate, ASR_SAMPLE_RATE)
    return samples.astype(np.float32)


def word_errors(said: str, recognized: str) -> tuple[int, int]:
    """Edits, words said."""
    wanted, given = spoken_form(said).split(), recognized.split()
    row = list(range(len(given) + 1))
    for i, word in enumerate(wanted, 1):
        before, row[0] = row[:], i
        for j, other in enumerate(given, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (word != other))
    return row[-1], len(wanted)


def bench_speech(backend: Backend, rounds: int) -> dict[str, float]:
    """CPU seconds per second of audio, and the share until the first chunk."""
    factors, shares = [], []
    for _ in range(rounds):
        begun, first, seconds = time.process_time(), 0.0, 0.0
        for event in events(backend, SpeechRequest(LONG_TEXT[:CHARACTERS], "en-us")):
            if isinstance(event, AudioChunk):
                first = first or time.process_time() - begun
                seconds += len(event.samples) / event.rate
        total = time.process_time() - begun
        factors.append(total / seconds)
        shares.append(first / total)
    return {"rtf": statistics.median(factors), "first_audio_share": statistics.median(shares), "audio_seconds": seconds}


def bench_http(rounds: int) -> dict[str, float]:
    """The same text over HTTP as wav: wall time to the first byte of the body over wall time to the last."""
    shares, totals = [], []
    with connected("", "") as client:
        host = client.url.removeprefix("http://")
        body = json.dumps({"input": LONG_TEXT[:CHARACTERS], "voice": "alloy", "response_format": "wav"})
        for _ in range(rounds + 1):
            connection = http.client.HTTPConnection(host)
            begun = time.perf_counter()
            headers = {"api-key": "bench", "content-type": "application/json"}
            connection.request("POST", deployment_path("embedded-tts", "audio/speech"), body, headers)
            answer = connection.getresponse()
            answer.read(45)  # the header and the first sample
            first = time.perf_counter() - begun
            answer.read()
            totals.append(time.perf_counter() - begun)
            shares.append(first / totals[-1])
            connection.close()
    return {"first_audio_share": statistics.median(shares[1:]), "total_seconds": statistics.median(totals[1:])}


def bench_recognition(speaker: Backend, recognizer: Backend) -> dict[str, Any]:
    """Word error rates and real-time factor with and without the noise floor, sentence by sentence in turn."""
    with_floor = sphinx_module.with_noise_floor
    ways: dict[str, Callable[[Samples], tuple[Samples, bool]]] = {
        "noise floor": with_floor,
        "as it is": lambda s: (s, False),
    }
    counts = {way: [0, 0, 0.0, 0.0] for way in ways}
    for sentence in SENTENCES:
        samples = spoken(speaker, sentence)
        for way, floor in ways.items():
            sphinx_module.with_noise_floor = floor
            begun = time.process_time()
            recognized = next(e.text for e in events(recognizer, TranscriptionRequest(samples)) if isinstance(e, Done))
            wrong, words = word_errors(sentence, recognized)
            spent = time.process_time() - begun
            counts[way] = [
                a + b for a, b in zip(counts[way], (wrong, words, spent, len(samples) / ASR_SAMPLE_RATE), strict=True)
            ]
    sphinx_module.with_noise_floor = with_floor
    return {way: {"wer": c[0] / c[1], "words": int(c[1]), "rtf": c[2] / c[3]} for way, c in counts.items()}


def bench_reset(recognizer: PocketsphinxBackend) -> dict[str, float]:
    """Seconds of a fresh state per utterance, against a fresh decoder per request."""
    decoder = recognizer._decoder._decoder
    begun = time.process_time()
    for _ in range(100):
        decoder.reinit_feat()
    reset = (time.process_time() - begun) / 100
    begun = time.process_time()
    loaded(PocketsphinxBackend())
    return {"reset_seconds": reset, "load_seconds": time.process_time() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    speaker, recognizer = loaded(EspeakBackend()), PocketsphinxBackend()
    loaded(recognizer)
    figures = {
        "speech": bench_speech(speaker, arguments.rounds),
        "speech over HTTP": bench_http(arguments.rounds),
        "recognition": bench_recognition(speaker, recognizer),
        "fresh state": bench_reset(recognizer),
        "closed sentences exact": f"{sum(result.passed for result in self_test())} of {len(SENTENCES)}",
    }
    print("| measure | value |\n|---|---|")
    for name, value in figures.items():
        told = json.dumps(value) if isinstance(value, dict) else value
        print(f"| {name} | {told} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
