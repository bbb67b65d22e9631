"""Live transcription at real-time pace, with published Whispers: delays, processor time, and words.

    python scripts/bench_realtime.py                              base and tiny.en, 1, 4 and 8 sessions
    python scripts/bench_realtime.py --sessions 1 --peer PYTHON   with LocalAgreement on faster-whisper beside it
    python scripts/bench_realtime.py --one-core                   against a clock of processor time, on a busy machine
    python scripts/bench_realtime.py --conversation               how soon an answer is heard, and falls silent

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
from collections.abc import Iterable, Iterator, Sequence
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
from backends.interface import ASR_SAMPLE_RATE, Done, Segment, TranscriptionRequest, Word  # noqa: E402
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
from scripts.bench.conversation import VOICES, converse, utterances  # noqa: E402
from scripts.bench.live_clock import loaded, ordinary, simulated  # noqa: E402
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
    stopped_at: float = 0.0
    done_at: float = 0.0
    text: str = ""
    begin: int = 0
    finish: int = 0
    early: list[tuple[str, float]] = field(default_factory=list)  # words told before the turn's end, each with its *_at
    word_ends: list[float] = field(default_factory=list)  # of the ordinary transcription

    @property
    def word_error(self) -> float:
        """Of the early words against the whole text's beginning of the same length."""
        said, told = self.text.lower().split(), [word.lower() for word, _ in self.early]
        return error_rate(" ".join(said[: len(told)]), " ".join(told), "en")


@dataclass(slots=True)
class Measured:
    """One run. cpu: processor seconds of the worker per second of audio of one session."""

    model: str
    sessions: int
    turns: list[SpokenTurn] = field(default_factory=list)
    cpu: float = 0.0
    equal: int = 0

    def compare(self, turn: SpokenTurn, done: Done, words: Iterable[Word]) -> None:
        """Note one turn beside the ordinary transcription of its audio."""
        self.equal += turn.text == done.text.strip()
        turn.word_ends = [turn.begin / ASR_SAMPLE_RATE + word.end for word in words]

    def row(self) -> dict[str, Any]:
        turns, early = self.turns, [turn for turn in self.turns if turn.early]
        delays = [at - end for turn in early for (_, at), end in zip(turn.early, turn.word_ends, strict=False)]
        return {
            "model": self.model,
            "sessions": self.sessions,
            "turns": len(turns),
            "speech end to TurnStopped": percentiles([t.stopped_at - t.end for t in turns]),
            "speech end to TurnDone": percentiles([t.done_at - t.end for t in turns]),
            "silence end to TurnDone": percentiles([t.done_at - t.end - _silence() for t in turns]),
            "speech start to first delta": percentiles([t.early[0][1] - t.start for t in early]),
            "end of a word to its being told": percentiles(delays),
            "turns with early words": len(early),
            "early words": sum(len(t.early) for t in early),
            "words": sum(len(t.text.split()) for t in turns),
            "CPU seconds per second": round(self.cpu, 3),
            "finals equal to HTTP": f"{self.equal}/{len(turns)}",
            "word error of early words": round(float(np.mean([t.word_error for t in early])), 3) if early else 0.0,
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
            if not turn.stopped_at:
                turn.early += [(word, at) for word in event.text.split()]
        case TurnDone():
            turn.done_at, turn.text = at, event.text


def run_one_core(model: str, count: int, audio: np.ndarray, folder: Path) -> Measured:
    """One run against a clock of processor time."""
    delays = [STAGGER_SECONDS * number for number in range(count)]
    sessions: list[dict[int, SpokenTurn]] = [{} for _ in delays]
    request = LiveRequest(language="en", turn_detection=DETECTION)
    backend = loaded(model, folder)
    began = time.process_time()
    for number, event, at in simulated(backend, request, audio, delays):
        if not isinstance(event, Done | CommitRefused):
            _note(sessions[number], event, at)
    spent = time.process_time() - began
    measured = Measured(f"{model}, one core", count, [turn for turns in sessions for turn in turns.values()])
    measured.cpu = spent / count / (len(audio) / ASR_SAMPLE_RATE)
    for turn in measured.turns:
        measured.compare(turn, *_whole(ordinary(backend, _request(audio, turn))))
    return measured


def _request(audio: np.ndarray, turn: SpokenTurn) -> TranscriptionRequest:
    """An ordinary transcription of a turn, as the HTTP route makes it."""
    return TranscriptionRequest(audio[turn.begin : turn.finish], "en", words=True)


def _whole(events: Iterable[Any]) -> tuple[Done, list[Word]]:
    """The last of these events, and the words of all."""
    words: list[Word] = []
    for event in events:
        if isinstance(event, Segment):
            words += event.words
        elif isinstance(event, Done):
            return event, words
    raise SystemExit("a turn cannot be transcribed")


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
        for turn in measured.turns:
            async with pool.admit(deployment, owner="bench", request_id="bench") as reservation:
                events = [event async for event in await reservation.run(_request(audio, turn))]
            measured.compare(turn, *_whole(events))
        return measured
    finally:
        await pool.drain(0)


def joined(runs: Sequence[Measured]) -> Measured:
    """Several rounds of the same, as one."""
    turns = [turn for one in runs for turn in one.turns]
    first = runs[0]
    cpu = float(np.mean([one.cpu for one in runs]))
    return Measured(first.model, first.sessions, turns, cpu, sum(one.equal for one in runs))


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


def transcription(options: argparse.Namespace, audio: np.ndarray, folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """A row of the table for each model and number of sessions, and all its turns."""
    for model in options.models:
        for count in options.sessions:
            runs = []
            for _ in range(options.rounds):
                if options.one_core:
                    runs.append(run_one_core(model, count, audio, folder))
                else:
                    runs.append(asyncio.run(run(model, count, audio, folder)))
            yield joined(runs).row(), [asdict(one) for one in runs]
        if options.peer:
            yield peer(options.peer, model, audio, folder / f"{model}-peer"), []


def conversation(options: argparse.Namespace, audio: np.ndarray) -> Iterator[tuple[dict[str, Any], Any]]:
    """A row of the table for each model and voice, and all delays."""
    clips = utterances(audio) * options.rounds
    for model in options.models:
        for voice in VOICES:
            answered, told, last = converse(voice, model, clips)
            row = {
                "model": model,
                "voice": voice,
                "answers and interruptions": len(clips),
                "speech end to first sound": percentiles(answered),
                "speech start to speech_started": percentiles(told),
                "speech start to last sound sent": percentiles(last),
            }
            yield row, {"answered": answered, "told": told, "last": last}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="*", default=[name for name in MODEL_SETS if name.startswith("whisper")])
    parser.add_argument("--sessions", nargs="*", type=int, default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=1, help="of each run, and of each utterance of a conversation")
    parser.add_argument("--clips", type=Path, help="folder of wav files; default: what gradio brings along")
    parser.add_argument("--one-core", action="store_true", help="against a clock of processor time, in this process")
    parser.add_argument("--conversation", action="store_true", help="instead: spoken conversations over a socket")
    parser.add_argument("--peer", default="", help="an interpreter that has faster-whisper")
    parser.add_argument("--json", type=Path, help="where the figures and all turns are written")
    options = parser.parse_args()
    audio = speech(options.clips)
    print(f"{len(audio) / ASR_SAMPLE_RATE:.0f} s of audio per session; seconds, p50 / p95; load {psutil.getloadavg()}")
    rows, details = [], []
    with tempfile.TemporaryDirectory() as name:
        if missing := [text for model in options.models for text in problems(MODEL_SETS[model], Path(name) / model)]:
            raise SystemExit("\n".join(missing))
        found = conversation(options, audio) if options.conversation else transcription(options, audio, Path(name))
        for row, detail in found:
            rows.append(row)
            details.append(detail)
            print(json.dumps({**row, "load": psutil.getloadavg()[0]}), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "runs": details}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
