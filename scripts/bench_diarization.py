"""Measure diarization: `python scripts/bench_diarization.py [--minutes 1 10 60] [--threads 1] [--json FILE] [--peer]`.

Conversations of three real voices, whose recordings come with the weight packages `speakers`, as long as asked for.
Told are processor and wall seconds per second of audio, the memory that a recording takes above the loaded model, the
speakers found and the error rate (collar 0.25 s, overlaps count). --peer: Moonshine's own diarization, which runs the
same networks and transcribes as well, on the shortest conversation. Each measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from backends.diarization.backend import DiarizationBackend  # noqa: E402
from backends.interface import (  # noqa: E402
    ASR_SAMPLE_RATE,
    DiarizationRequest,
    Done,
    ModelFiles,
    Placement,
    SpeakerTurns,
    Turn,
)
from backends.memory import resident_bytes  # noqa: E402
from tests.backends.diarization.conversations import Piece, converse, error_rate, pieces_of  # noqa: E402

NAME = "diarization-community-1"
COLUMNS = ("engine", "minutes", "threads", "cpu_factor", "wall_factor", "memory_mb", "speakers", "error_rate")
_ACTORS = (((4.75, 8.2), (11.9, 14.1), (20.3, 21.95), (23.65, 27.5)), ((8.6, 11.45), (14.55, 17.0)))
_TURN_SECONDS = 6.0  # about what a turn and its pause last
_SAMPLING_SECONDS = 0.05


def voices() -> list[list[Piece]]:
    """A reader and two actors."""
    play = recording("endgame_nagg_nell.wav")
    cuts = [[play[int(a * ASR_SAMPLE_RATE) : int(b * ASR_SAMPLE_RATE)] for a, b in spans] for spans in _ACTORS]
    return [pieces_of(recording("two_cities.wav")), *(pieces_of(np.concatenate(parts)) for parts in cuts)]


def recording(name: str) -> np.ndarray:
    """float32 [time] at 16 kHz."""
    path = Path(str(metadata.distribution("moonshine-voice").locate_file(f"moonshine_voice/assets/{name}")))
    samples, rate = soundfile.read(path, dtype="float32")
    return np.asarray(soxr.resample(samples, rate, ASR_SAMPLE_RATE), np.float32)


def conversation(minutes: float, folder: Path) -> tuple[np.memmap, list[Turn]]:
    """A mapped file, as a worker gets it, and its turns."""
    talk = converse(voices(), max(3, round(minutes * 60 / _TURN_SECONDS)), seed=0)
    length = min(len(talk.samples), round(minutes * 60 * ASR_SAMPLE_RATE))
    file = folder / "talk.f32"
    talk.samples[:length].tofile(file)
    seconds = length / ASR_SAMPLE_RATE
    turns = [Turn(turn.start, min(turn.end, seconds), turn.speaker) for turn in talk.turns if turn.start < seconds]
    return np.memmap(file, np.float32, "r"), turns


def ours(minutes: float, threads: int) -> dict[str, Any]:
    """The backend, as a worker drives it."""
    backend, folder = DiarizationBackend(), ROOT / "models" / NAME
    backend.load(ModelFiles("bench", NAME, folder, folder.parent, folder), Placement(threads=threads))
    run(backend, DiarizationRequest(np.zeros(ASR_SAMPLE_RATE, np.float32)))
    with tempfile.TemporaryDirectory() as place:
        samples, turns = conversation(minutes, Path(place))
        measured, found = measure(lambda: run(backend, DiarizationRequest(samples)), len(samples))
        row = result("speech-gateway", minutes, threads, measured, turns, list(found.turns), len(samples))
        samples._mmap.close()  # type: ignore[attr-defined]  # a file that is mapped cannot be deleted on Windows
    return row


def run(backend: DiarizationBackend, request: DiarizationRequest) -> SpeakerTurns:
    job, found = backend.start(request), SpeakerTurns()
    while True:
        for _, event in backend.step([job]):
            if isinstance(event, SpeakerTurns):
                found = event
            elif isinstance(event, Done):
                backend.close(job)
                return found


def peer(minutes: float, threads: int) -> dict[str, Any]:
    """Moonshine, which tells speakers apart as part of a transcription; its library chooses its threads itself."""
    from moonshine_voice import ModelArch, Transcriber, get_assets_path

    model = str(Path(get_assets_path()) / "tiny-en")
    transcriber = Transcriber(model, ModelArch.TINY, options={"identify_speakers": "true"})
    with tempfile.TemporaryDirectory() as place:
        samples, turns = conversation(minutes, Path(place))
        audio = samples.tolist()
        measured, script = measure(lambda: transcriber.transcribe_without_streaming(audio), len(samples))
        spans = [span for line in script.lines for span in line.speaker_spans or ()]
        found = [Turn(one.start_time, one.start_time + one.duration, one.speaker_index) for one in spans]
        row = result("moonshine-voice (with its transcription)", minutes, threads, measured, turns, found, len(samples))
        samples._mmap.close()  # type: ignore[attr-defined]
    return row


def measure(work: Callable[[], Any], length: int) -> tuple[dict[str, float], Any]:
    """Seconds per second of audio, and the most memory above what there was."""
    wall, cpu = time.perf_counter(), time.process_time()
    with peak_memory() as peak:
        found = work()
    seconds = length / ASR_SAMPLE_RATE
    spent = {"cpu_factor": (time.process_time() - cpu) / seconds, "wall_factor": (time.perf_counter() - wall) / seconds}
    return {**spent, "memory_mb": peak[0] / 1e6}, found


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The most bytes this process held above those at the start."""
    before, peak, over = resident_bytes(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLING_SECONDS):
            peak[0] = max(peak[0], resident_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def result(
    engine: str,
    minutes: float,
    threads: int,
    measured: dict[str, float],
    turns: list[Turn],
    found: list[Turn],
    length: int,
) -> dict[str, Any]:
    told = {"speakers": len({turn.speaker for turn in found})}
    rate = error_rate(turns, found, length / ASR_SAMPLE_RATE)
    return {"engine": engine, "minutes": minutes, "threads": threads, **measured, **told, "error_rate": rate}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for row in rows:
        cells = (f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer", action="store_true")
    given = parser.parse_args()
    works = [(ours, minutes) for minutes in given.minutes] + ([(peer, min(given.minutes))] if given.peer else [])
    rows = []
    for work, minutes in works:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(work, (minutes, given.threads)))
        print(table(rows[-1:]), flush=True)
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
