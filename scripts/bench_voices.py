"""Measure the embedded voices: `python scripts/bench_voices.py [--json FILE] [--rounds 3] [--threads 1 2]`.

For each engine and number of threads: processor and wall seconds until the first audio and per second of speech, and
the memory of the process. The configurations take turns within a round, so that a busy machine troubles all of them
alike; the medians of the rounds are told. Each configuration runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from backends.embedded.voices import VoicesBackend  # noqa: E402
from backends.interface import AudioChunk, Done, ModelFiles, Placement, SpeechRequest  # noqa: E402
from backends.memory import resident_bytes  # noqa: E402

ENGLISH = "Good morning, everybody. The doctor told him to stay in bed for three days, and to drink a lot of tea."
JAPANESE = "皆さん、おはようございます。今日はとても良い天気ですから、公園を散歩してから、本を読みましょう。"
TEXTS = {"piper": ("en_US-joe-medium", ENGLISH), "kokoro": ("jf_alpha", JAPANESE), "espeak-ng": ("en-us+f2", ENGLISH)}
COLUMNS = ("first_wall", "first_cpu", "first_long_wall", "wall_per_second", "cpu_per_second", "memory_mb")
LONG = 4096  # characters


def measured(backend: VoicesBackend, voice: str, text: str) -> dict[str, float]:
    """One request from its start to its end."""
    wall, cpu = time.perf_counter(), time.process_time()
    job = backend.start(SpeechRequest(text, voice))
    first: dict[str, float] = {}
    length = 0.0
    while True:
        for _, event in backend.step([job]):
            if isinstance(event, AudioChunk):
                first = first or {"first_wall": time.perf_counter() - wall, "first_cpu": time.process_time() - cpu}
                length += len(event.samples) / event.rate
            elif isinstance(event, Done):
                spent_wall, spent_cpu = time.perf_counter() - wall, time.process_time() - cpu
                rates = {"wall_per_second": spent_wall / length, "cpu_per_second": spent_cpu / length}
                return {**first, **rates, "memory_mb": resident_bytes() / 1e6}


def first_audio(backend: VoicesBackend, voice: str, text: str) -> float:
    """Wall seconds until the first sound of a request, which is then given up."""
    begun = time.perf_counter()
    job = backend.start(SpeechRequest(text, voice))
    while not any(isinstance(event, AudioChunk) for _, event in backend.step([job])):
        pass
    spent = time.perf_counter() - begun
    backend.close(job)
    return spent


def serve(pipe: Connection, name: str, threads: int) -> None:
    """A process with one configuration: a measurement for every message."""
    backend = VoicesBackend()
    backend.load(
        ModelFiles("bench", "", None, ROOT / "models", Path(), {}), Placement(engine="neural", threads=threads)
    )
    voice, text = TEXTS[name]
    measured(backend, voice, text)  # loads the model
    long = (text * LONG)[:LONG]
    while pipe.recv():
        first = first_audio(backend, voice, long)
        pipe.send({**measured(backend, voice, text), "first_long_wall": first})


def run(rounds: int, threads: list[int]) -> list[dict[str, Any]]:
    """A row per configuration, medians over the rounds."""
    context = multiprocessing.get_context("spawn")
    configurations = [(name, count) for name in TEXTS for count in (threads if name != "espeak-ng" else threads[:1])]
    pipes = []
    for name, count in configurations:
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, name, count), daemon=True).start()
        pipes.append(ours)
    found: list[list[dict[str, float]]] = [[] for _ in configurations]
    for _ in range(rounds):
        for pipe, results in zip(pipes, found, strict=True):
            pipe.send(True)
            results.append(pipe.recv())
    for pipe in pipes:
        pipe.send(False)
    return [
        {
            "voice": name,
            "threads": count,
            **{column: statistics.median(r[column] for r in results) for column in COLUMNS},
        }
        for (name, count), results in zip(configurations, found, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    rows = run(given.rounds, given.threads)
    print(f"{'voice':<10} {'threads':>7} " + " ".join(f"{column:>15}" for column in COLUMNS))
    for row in rows:
        print(f"{row['voice']:<10} {row['threads']:>7} " + " ".join(f"{row[column]:>15.3f}" for column in COLUMNS))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
