"""Measure the embedded engines: `python scripts/bench_embedded.py [--clips FOLDER] [--json FILE] [--rounds 3]`.

Of the recogniser: word or character errors and processor seconds per second of audio, against peers with the same
weights, on what the embedded voices say and on real speech: `--clips` names a folder of NAME.wav beside NAME.txt (what
is said). The source package of pocketsphinx 5.1.1 holds five clips of public domain, in test/data/librivox. All
engines hear one clip before any hears the next, so that a busy machine troubles all of them alike.

Of espeak-ng: processor seconds per second of speech, and the share of the time until the first audio of a text of 4,096
characters, at the backend and over HTTP. The neural voices are measured by `bench_voices.py`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import soxr  # noqa: E402

from app.commands.client import deployment_path  # noqa: E402
from app.commands.connection import connected  # noqa: E402
from backends.audio.error_rate import edits, units  # noqa: E402
from backends.drive import events  # noqa: E402
from backends.embedded.espeak import EspeakBackend  # noqa: E402
from backends.embedded.voices import VoicesBackend  # noqa: E402
from backends.interface import (  # noqa: E402
    ASR_SAMPLE_RATE,
    AudioChunk,
    Backend,
    ModelFiles,
    Placement,
    Samples,
    SpeechRequest,
)
from backends.selftest import TEXTS  # noqa: E402
from scripts.bench.recognizers import Recognize, recognizers  # noqa: E402

LONG_TEXT = (TEXTS["en"] + " ") * 24
CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class Clip:
    """kind: what is compared with what; samples: at 16 kHz; said: what a person wrote down."""

    kind: str
    language: str
    samples: Samples
    said: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / ASR_SAMPLE_RATE


@dataclass(slots=True)
class Tally:
    """Of one engine and kind. cpu, audio: seconds."""

    wrong: int = 0
    said: int = 0
    cpu: float = 0.0
    audio: float = 0.0

    def row(self) -> dict[str, float]:
        return {
            "units": self.said,
            "error_rate": round(self.wrong / max(1, self.said), 4),
            "cpu_per_second": round(self.cpu / max(1e-9, self.audio), 4),
        }


# --- Ears -------------------------------------------------------------------------------------------------------------


def read_clips(folder: Path) -> list[Clip]:
    """Real English speech: every NAME.wav that has a NAME.txt."""
    found = []
    for file in sorted(folder.glob("*.wav")):
        text = file.with_suffix(".txt")
        if text.is_file():
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
            sound = soxr.resample(samples.mean(axis=1), rate, ASR_SAMPLE_RATE).astype(np.float32)
            found.append(Clip("real English", "en", sound, text.read_text(encoding="utf-8").strip()))
    return found


def spoken_clips() -> list[Clip]:
    """What the neural voices say of the self-test's texts, sentence by sentence; Japanese only where it can be read."""
    voices = VoicesBackend()
    capabilities = loaded(voices)
    reads_japanese = any("ja-JP" in voice.languages for voice in capabilities.voices)
    clips = []
    for language, text in TEXTS.items():
        if language == "en" or reads_japanese:
            for sentence in _sentences(text):
                sound = spoken(voices, sentence, language)
                clips.append(Clip(f"spoken, {language}", language, sound, sentence))
    return clips


def _sentences(text: str) -> list[str]:
    return [f"{part.strip()}{mark}" for mark in ".。" for part in text.split(mark) if part.strip() and mark in text]


def measure(engines: Mapping[str, Recognize], clips: Sequence[Clip], rounds: int) -> dict[str, dict[str, Any]]:
    """Rows by engine and kind of clip."""
    tallies: dict[str, dict[str, Tally]] = {name: {} for name in engines}
    for clip in clips:
        for _ in range(rounds):
            for name, recognize in engines.items():
                _add(tallies[name].setdefault(clip.kind, Tally()), recognize, clip)
    return {name: {kind: tally.row() for kind, tally in kinds.items()} for name, kinds in tallies.items()}


def _add(tally: Tally, recognize: Recognize, clip: Clip) -> None:
    begun = time.process_time()
    recognized = recognize(clip.samples, clip.language)
    tally.cpu += time.process_time() - begun
    tally.audio += clip.seconds
    wanted = units(clip.said, clip.language)
    tally.wrong += edits(wanted, units(recognized, clip.language))
    tally.said += len(wanted)


# --- Voices -----------------------------------------------------------------------------------------------------------


def loaded(backend: Backend) -> Any:
    return backend.load(ModelFiles("bench", "", None, Path("models"), Path(), {}), Placement(engine="neural"))


def spoken(backend: Backend, text: str, language: str) -> Samples:
    """At the listening rate."""
    request = SpeechRequest(text, "alloy", options={"language": language})
    chunks = [event for event in events(backend, request) if isinstance(event, AudioChunk)]
    samples: Samples = soxr.resample(np.concatenate([c.samples for c in chunks]), chunks[0].rate, ASR_SAMPLE_RATE)
    return samples.astype(np.float32)


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
        body = json.dumps({"input": LONG_TEXT[:CHARACTERS], "voice": "en-us+f2", "response_format": "wav"})
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


# --- The program ------------------------------------------------------------------------------------------------------


def table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    lines = ["| engine | on | units | errors | CPU s per s of audio |", "|---|---|---|---|---|"]
    for engine, kinds in rows.items():
        for kind, row in kinds.items():
            errors = f"{100 * row['error_rate']:.1f} %"
            lines.append(f"| {engine} | {kind} | {row['units']} | {errors} | {row['cpu_per_second']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="whisper-base", choices=["whisper-base", "whisper-tiny.en"])
    parser.add_argument("--clips", type=Path, help="folder of real English speech: NAME.wav and NAME.txt")
    parser.add_argument("--ggml", type=Path, help="the model as whisper.cpp reads it, to compare with pywhispercpp")
    parser.add_argument("--recognition-only", action="store_true", help="without espeak-ng and HTTP")
    given = parser.parse_args()
    clips = [*(read_clips(given.clips) if given.clips else []), *spoken_clips()]
    clips = [clip for clip in clips if clip.language == "en" or not given.model.endswith(".en")]
    with tempfile.TemporaryDirectory() as folder:
        engines = dict(recognizers(given.model, Path(folder), given.ggml))
        for recognize in engines.values():
            recognize(clips[0].samples, clips[0].language)  # the first run of a session prepares it
        figures: dict[str, Any] = {"recognition": measure(engines, clips, given.rounds), "load": _load()}
    print(table(figures["recognition"]))
    if not given.recognition_only:
        figures["espeak-ng"] = {"backend": bench_speech(_espeak(), given.rounds), "http": bench_http(given.rounds)}
        print(json.dumps(figures["espeak-ng"], indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def _espeak() -> Backend:
    backend = EspeakBackend()
    loaded(backend)
    return backend


def _load() -> list[float]:
    """How busy the machine was, of 1, 5 and 15 minutes; [] where the system does not tell."""
    if sys.platform != "win32":
        return list(os.getloadavg())
    return []


if __name__ == "__main__":
    main()
