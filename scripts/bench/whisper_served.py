"""What a served Whisper makes of a two-core machine: 8 clients over HTTP, against faster-whisper called in its own
process.

Windows per second of wall time, and processor seconds per window of all processes that serve (gateway, media workers,
model worker; the clients are not counted). Both decode the same 30 s of noise to the same 100 tokens, greedily, without
a speech gate (it would keep noise from the model), without a fallback, with a named language. Used by `bench_whisper
--served`.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil

from backends import children

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 100
Seconds = Callable[[], float]  # processor seconds so far


@dataclass(frozen=True, slots=True)
class Load:
    """clients ask `requests` times each, one after the other."""

    clients: int = 8
    requests: int = 4
    port: int = 8931


def noise() -> np.ndarray:
    """30 s at 16 kHz."""
    return (np.random.default_rng(0).standard_normal(30 * 16_000) * 0.1).astype(np.float32)


def compare(folder: Path, title: str, load: Load, rounds: int) -> None:
    """Interleaved rounds, medians; the peer in both of its ways to use two cores."""
    peers = {f"faster-whisper int8, num_workers={w}, cpu_threads={t}": (w, t) for w, t in ((2, 1), (1, 2))}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("gateway", *peers)}
    for _ in range(rounds):
        found["gateway"].append(gateway_rate(folder, load))
        for name, (workers, threads) in peers.items():
            found[name].append(_peer_process(folder, workers, threads, load))
    ours = statistics.median(rate for rate, _ in found["gateway"])
    print(f"\nserved {title}, {load.clients} clients, {rounds} round(s), no speech gate on either side\n")
    print("| | windows per second | CPU seconds per window | gateway x |\n|---|---|---|---|")
    for name, values in found.items():
        rate, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"| {name} | {rate:.2f} | {cpu:.2f} | {ours / rate:.2f} |", flush=True)


# --- Ours -------------------------------------------------------------------------------------------------------------


def gateway_rate(folder: Path, load: Load) -> tuple[float, float]:
    """Windows per second, processor seconds per window."""
    with tempfile.TemporaryDirectory() as home:
        config = Path(home) / "gateway.toml"
        model = json.dumps(str(folder))
        table = f'[deployments.whisper-1]\nmodel = {model}\ndtype = "int8"\nvad = false\nkeep_alive = -1\n'
        config.write_text(table, encoding="utf-8")
        command = children.command("app", "--config", str(config), "--port", str(load.port))
        environment = children.environment(extra={"SPEECH_GATEWAY_OFFLINE": "true"})
        server = subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.DEVNULL)
        try:
            ask = _client(load.port)
            _until_answered(ask)
            return _rate(ask, load, lambda: _tree_seconds(server.pid))
        finally:
            server.terminate()
            server.wait(60)


def _client(port: int) -> Callable[[], None]:
    address, upload = f"http://127.0.0.1:{port}/v1/audio/transcriptions", _wav(noise())

    def ask() -> None:
        form = {"model": "whisper-1", "language": "en"}
        answer = httpx.post(
            address, data=form, files={"file": ("a.wav", upload)}, headers={"api-key": "x"}, timeout=600
        )
        answer.raise_for_status()

    return ask


def _until_answered(ask: Callable[[], None]) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            return ask()
        except httpx.HTTPError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _tree_seconds(pid: int) -> float:
    """Processor seconds of a process and its living descendants."""
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _wav(audio: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((audio * 32767).clip(-32768, 32767).astype(np.int16).tobytes())
    return buffer.getvalue()


# --- The peer, in a process of its own --------------------------------------------------------------------------------


def _peer_process(folder: Path, workers: int, threads: int, load: Load) -> tuple[float, float]:
    numbers = [str(number) for number in (workers, threads, load.clients, load.requests)]
    environment = children.environment(threads=threads)
    command = children.command("scripts.bench.whisper_served", str(folder), *numbers)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, encoding="utf-8")
    rate, cpu = json.loads(done.stdout.splitlines()[-1])
    return rate, cpu


def peer_rate(folder: Path, workers: int, threads: int, load: Load) -> tuple[float, float]:
    """faster-whisper, called from as many threads as there are clients."""
    from faster_whisper import WhisperModel

    model = WhisperModel(f"{folder}-ct2", device="cpu", compute_type="int8", cpu_threads=threads, num_workers=workers)
    audio = noise()

    def ask() -> None:
        segments, _ = model.transcribe(audio, language="en", beam_size=1, temperature=0.0, vad_filter=False)
        assert len([token for segment in segments for token in segment.tokens]) == TOKENS

    ask()
    return _rate(ask, load, time.process_time)


# --- Both -------------------------------------------------------------------------------------------------------------


def _rate(ask: Callable[[], None], load: Load, seconds: Seconds) -> tuple[float, float]:
    """Answers per second while all clients ask one after the other, and processor seconds of one answer."""
    began, spent = time.perf_counter(), seconds()
    threads = [threading.Thread(target=lambda: [ask() for _ in range(load.requests)]) for _ in range(load.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = load.clients * load.requests
    return count / (time.perf_counter() - began), (seconds() - spent) / count


if __name__ == "__main__":
    chosen = [int(number) for number in sys.argv[2:6]]
    print(json.dumps(peer_rate(Path(sys.argv[1]), chosen[0], chosen[1], Load(chosen[2], chosen[3]))))
