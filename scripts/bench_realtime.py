"""Live transcription at real-time pace, with published Whispers: delays, processor time, and words.

    python scripts/bench_realtime.py                              base and tiny.en, 1, 4 and 8 sessions
    python scripts/bench_realtime.py --sessions 1 --peer PYTHON   with LocalAgreement on faster-whisper beside it
    python scripts/bench_realtime.py --one-core                   against a clock of processor time, on a busy machine

Sessions go through the pool and a worker process, as those of a socket do. Each hears real speech, utterances with
two seconds of silence between, in pieces of 100 ms, and begins a little after the one before. When somebody spoke is
what turn detection told; delays count from when that audio was fed. PYTHON is an interpreter that has faster-whisper.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.config.deployments import Deployment, Deployments  # noqa: E402 - found by the line above
from app.config.settings import Settings  # noqa: E402
from app.metrics import Metrics  # noqa: E402
from app.serving.pool import WorkerPool  # noqa: E402
from backends.audio.error_rate import error_rate  # noqa: E402
from backends.interface import ASR_SAMPLE_RATE, Done, TranscriptionRequest  # noqa: E402
from backends.live import (  # noqa: E402
    CommitRefused,
    LiveAudio,
    LiveEnd,
    LiveRequest,
    TurnCommitted,
    TurnDelta,
    TurnDetection,
    TurnDone,
    TurnStarted,
    TurnStopped,
)
from backends.model_sets import MODEL_SETS, locate, problems  # noqa: E402
from scripts.bench.live_clock import loaded, simulated  # noqa: E402
from scripts.bench.recognizers import peer_folder  # noqa: E402

PIECE = ASR_SAMPLE_RATE // 10
PAUSE_SECONDS = 2.0
STAGGER_SECONDS = 0.37
DETECTION = TurnDetection()
LOCAL_AGREEMENT = ROOT / "scripts" / "bench" / "local_agreement.py"


@dataclass(slots=True)
class SpokenTurn:
    """What one turn gave. Times are seconds of the session's audio; *_at: seconds after the session's begin."""

    start: float = 0.0
    end: float = 0.0
    first_delta_at: float | None = None
    stopped_at: float = 0.0
    done_at: float = 0.0
    text: str = ""
    told: str = ""
    begin: int = 0
    finish: int = 0

    @property
    def early(self) -> float | None:
        """Speech start to first delta, None where no words came before the end."""
        if self.first_delta_at is None or self.first_delta_at >= self.stopped_at:
            return None
        return self.first_delta_at - self.start


@dataclass(slots=True)
class Measured:
    """One run. cpu: processor seconds of the worker per second of audio of one session."""

    model: str
    sessions: int
    turns: list[SpokenTurn] = field(default_factory=list)
    cpu: float = 0.0
    equal: int | None = None  # None: not compared
    delta_error: float = 0.0

    def row(self) -> dict[str, Any]:
        turns = self.turns
        return {
            "model": self.model,
            "sessions": self.sessions,
            "turns": len(turns),
            "speech end to TurnStopped": percentiles([t.stopped_at - t.end for t in turns]),
            "speech end to TurnDone": percentiles([t.done_at - t.end for t in turns]),
            "silence end to TurnDone": percentiles([t.done_at - t.end - _silence() for t in turns]),
            "speech start to first delta": percentiles([t.early for t in turns if t.early is not None]),
            "turns with early words": sum(t.early is not None for t in turns),
            "CPU seconds per second": round(self.cpu, 3),
            "finals equal to HTTP": "-" if self.equal is None else f"{self.equal}/{len(turns)}",
            "word error of early words": round(self.delta_error, 3),
        }


def _silence() -> float:
    return DETECTION.silence_duration_ms / 1000


def percentiles(values: Sequence[float]) -> str:
    """p50 / p95."""
    if not values:
        return "-"
    return f"{np.percentile(values, 50):.2f} / {np.percentile(values, 95):.2f}"


def read_audio(path: Path) -> np.ndarray:
    """A file as float32 [time] at 16 kHz."""
    import av

    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", ASR_SAMPLE_RATE)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)


def speech(folder: Path | None) -> np.ndarray:
    """All clips of the folder, or those English ones that gradio brings along, with pauses."""
    if folder is None:
        import gradio

        audio = Path(gradio.__file__).parent / "media_assets" / "audio"
        files = [audio / "cate_blanch.mp3", audio / "heath_ledger.mp3"]
    else:
        files = sorted(folder.glob("*.wav"))
    pause = np.zeros(int(PAUSE_SECONDS * ASR_SAMPLE_RATE), np.float32)
    return np.concatenate([pause[: len(pause) // 2], *(part for file in files for part in (read_audio(file), pause))])


# --- One run ----------------------------------------------------------------------------------------------------------


async def session(pool: WorkerPool, deployment: Deployment, audio: np.ndarray, delay: float) -> list[SpokenTurn]:
    """Everything that one session told, by turn."""
    async with pool.admit(deployment, owner="bench", request_id="bench", live=True) as reservation:
        events = await reservation.run(LiveRequest(language="en", turn_detection=DETECTION))
        await asyncio.sleep(delay)
        began = time.perf_counter()

        async def talk() -> None:
            for first in range(0, len(audio), PIECE):
                due = began + min(first + PIECE, len(audio)) / ASR_SAMPLE_RATE
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                reservation.feed(LiveAudio(audio[first : first + PIECE]))
            reservation.feed(LiveEnd())

        talking = asyncio.create_task(talk())
        turns: dict[int, SpokenTurn] = {}
        async for event in events:
            _note(turns, event, time.perf_counter() - began)
        await talking
        return list(turns.values())


def _note(turns: dict[int, SpokenTurn], event: Any, at: float) -> None:
    turn = turns.setdefault(event.turn, SpokenTurn())
    match event:
        case TurnStarted():
            turn.start = event.start + DETECTION.prefix_padding_ms / 1000
        case TurnStopped():
            turn.stopped_at, turn.end = at, event.end - _silence()
        case TurnCommitted():
            turn.begin, turn.finish = round(event.start * ASR_SAMPLE_RATE), round(event.end * ASR_SAMPLE_RATE)
        case TurnDelta():
            turn.first_delta_at = at if turn.first_delta_at is None else turn.first_delta_at
            turn.told += event.text
        case TurnDone():
            turn.done_at, turn.text = at, event.text


def run_one_core(model: str, count: int, audio: np.ndarray, folder: Path) -> Measured:
    """One run against a clock of processor time; nothing is compared with the HTTP path."""
    delays = [STAGGER_SECONDS * number for number in range(count)]
    sessions: list[dict[int, SpokenTurn]] = [{} for _ in delays]
    request = LiveRequest(language="en", turn_detection=DETECTION)
    backend = loaded(model, folder)
    began = time.process_time()
    for number, event, at in simulated(backend, request, audio, delays):
        if not isinstance(event, Done | CommitRefused):
            _note(sessions[number], event, at)
    measured = Measured(f"{model}, one core", count, [turn for turns in sessions for turn in turns.values()])
    measured.cpu = (time.process_time() - began) / count / (len(audio) / ASR_SAMPLE_RATE)
    measured.delta_error = _delta_error(measured.turns)
    return measured


async def transcribed(pool: WorkerPool, deployment: Deployment, samples: np.ndarray) -> str:
    """What the HTTP route gives for this audio."""
    async with pool.admit(deployment, owner="bench", request_id="bench") as reservation:
        async for event in await reservation.run(TranscriptionRequest(samples, "en")):
            if isinstance(event, Done):
                return event.text.strip()
    return ""


async def run(model: str, count: int, audio: np.ndarray, models_dir: Path) -> Measured:
    table = {"backend": "whisper", "model": model, "device": "cpu", "engine": "onnx", "dtype": "int8"}
    settings = Settings.model_validate({"models_dir": models_dir, "deployments": {"live": table}})
    deployment = Deployments.from_settings(settings)["live"]
    pool = WorkerPool(settings, {"live": deployment}, Metrics())
    await pool.start()
    try:
        await pool.load("live")
        process = psutil.Process(pool.snapshot()["deployments"]["live"]["worker"]["pid"])
        before = sum(process.cpu_times()[:2])
        found = await asyncio.gather(
            *(session(pool, deployment, audio, STAGGER_SECONDS * number) for number in range(count))
        )
        spent = sum(process.cpu_times()[:2]) - before
        measured = Measured(model, count, [turn for turns in found for turn in turns])
        measured.cpu = spent / count / (len(audio) / ASR_SAMPLE_RATE)
        texts = {(t.begin, t.finish): "" for t in measured.turns}
        for begin, finish in texts:
            texts[begin, finish] = await transcribed(pool, deployment, audio[begin:finish])
        measured.equal = sum(t.text == texts[t.begin, t.finish] for t in measured.turns)
        measured.delta_error = _delta_error(measured.turns)
        return measured
    finally:
        await pool.drain(0)


def _delta_error(turns: Iterable[SpokenTurn]) -> float:
    """Word errors of what was told by deltas against the final text's beginning of the same length."""
    rates = []
    for turn in turns:
        said, told = turn.text.lower().split(), turn.told.lower().split()
        if told and said:
            rates.append(error_rate(" ".join(said[: len(told)]), " ".join(told), "en"))
    return float(np.mean(rates)) if rates else 0.0


# --- The peer ---------------------------------------------------------------------------------------------------------


def peer(python: str, model: str, audio: np.ndarray, folder: Path) -> dict[str, Any]:
    """LocalAgreement-2 on faster-whisper, one session at the same pace, in a process of its own."""
    weights = peer_folder(locate(MODEL_SETS[model], folder / model).folder, folder)
    samples = folder / "audio.f32"
    audio.tofile(samples)
    answer = subprocess.run(
        [python, str(LOCAL_AGREEMENT), str(weights), str(samples)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return {
        "model": f"{model}, faster-whisper int8",
        "sessions": 1,
        "end of a word to its being told": percentiles(found["delays"]),
        "CPU seconds per second": round(found["cpu"], 3),
        "text": found["text"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="*", default=[name for name in MODEL_SETS if name.startswith("whisper")])
    parser.add_argument("--sessions", nargs="*", type=int, default=[1, 4, 8])
    parser.add_argument("--clips", type=Path, help="folder of wav files; default: what gradio brings along")
    parser.add_argument("--one-core", action="store_true", help="against a clock of processor time, in this process")
    parser.add_argument("--peer", default="", help="an interpreter that has faster-whisper")
    parser.add_argument("--json", type=Path, help="where the figures and all turns are written")
    options = parser.parse_args()
    audio = speech(options.clips)
    print(f"{len(audio) / ASR_SAMPLE_RATE:.0f} s of audio per session; seconds, p50 / p95; load {psutil.getloadavg()}")
    rows, details = [], []
    with tempfile.TemporaryDirectory() as name:
        for model in options.models:
            if missing := problems(MODEL_SETS[model], Path(name) / model):
                print(f"{model}: {missing[0]}")
                continue
            for count in options.sessions:
                if options.one_core:
                    measured = run_one_core(model, count, audio, Path(name))
                else:
                    measured = asyncio.run(run(model, count, audio, Path(name)))
                rows.append(measured.row())
                details.append(asdict(measured))
                print(json.dumps({**rows[-1], "load": psutil.getloadavg()[0]}), flush=True)
            if options.peer:
                rows.append(peer(options.peer, model, audio, Path(name) / f"{model}-peer"))
                print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "runs": details}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
