"""What decoding uploads and encoding speech cost, each against the plain library call, interleaved in one run.

    python scripts/bench_media.py                  # decode and encode
    python scripts/bench_media.py --server URL     # also the first audio byte of 4,096 characters from a running server
    python scripts/bench_media.py --against TREE   # only: our decoder against that of another checkout of this project

Decode: 60 s of 44.1 kHz stereo (opus: 48 kHz) to 16 kHz mono. `library` is the fastest plain way in this process:
soundfile and soxr in one piece, or PyAV and soxr frame by frame. `decoder` is our block-wise decoder in this process
(CPU time of both); `pool` is the way of a request, through the worker process (wall time, with its ratio to the
library's wall).
--against runs the decoder of each tree in a child process of its own, both with this interpreter, and takes turns file
by file; `before` and `now` are medians of CPU time.
Encode: 60 s of 24 kHz mono. `library` is one PyAV or soundfile call; `ours` is the streamed encoder in 80 ms chunks.
Prints a table and, with --json FILE, writes the same numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.config.settings import LimitSettings
from app.media.decode import decode
from app.media.pool import MediaPool
from app.media.source import Caps
from app.writers.encoders import Encoder
from backends import children
from scripts.fixtures.audio_files import by_av, by_soundfile

SECONDS = 60
CAPS = Caps(7200.0, 1 << 32)
SENTENCE = "The committee met on Tuesday and agreed, after a long talk, to paint the old bridge green. "
Row = dict[str, Any]


def noise(rate: int, channels: int) -> np.ndarray:
    """Speech-like: filtered noise with pauses, so that no codec finds it trivial."""
    random = np.random.default_rng(0)
    wave = np.cumsum(random.standard_normal((rate * SECONDS, channels)), axis=0)
    wave = np.diff(wave - np.convolve(wave[:, 0], np.ones(200) / 200, "same")[:, None], axis=0, prepend=0)
    loud = (np.sin(np.arange(len(wave)) * 2 * np.pi * 0.4 / rate) > -0.5)[:, None]
    return (0.1 * wave * loud).clip(-1, 1).astype(np.float32)


def uploads() -> dict[str, bytes]:
    stereo = noise(44_100, 2)
    return {
        "wav": by_soundfile(stereo, 44_100, "WAV", "PCM_16"),
        "flac": by_soundfile(stereo, 44_100, "FLAC", "PCM_16"),
        "mp3": by_soundfile(stereo, 44_100, "MP3"),
        "m4a": by_av(stereo, 44_100, "ipod", "aac"),
        "ogg-opus": by_av(noise(48_000, 2), 48_000, "ogg", "libopus"),
        "webm-opus": by_av(noise(48_000, 2), 48_000, "webm", "libopus"),
    }


def by_library(name: str, data: bytes) -> None:
    if name in {"wav", "flac", "mp3"}:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        soxr.resample(samples.mean(axis=1), rate, 16_000, quality="HQ")
        return
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.audio[0]
        frames = [frame.to_ndarray() for frame in file.decode(stream)]
        soxr.resample(np.concatenate(frames, axis=1).mean(axis=0), stream.rate, 16_000, quality="HQ")


def encode_by_library(name: str, samples: np.ndarray) -> None:
    if name in {"wav", "flac", "mp3"}:
        by_soundfile(samples[:, None], 24_000, name.upper())
    else:
        by_av(samples[:, None], 24_000, *{"opus": ("ogg", "libopus"), "aac": ("adts", "aac")}[name])


def encode_by_us(name: str, samples: np.ndarray) -> None:
    encoder = Encoder(name, streaming=True)
    for start in range(0, len(samples), 1920):
        encoder.push(samples[start : start + 1920], 24_000)
    encoder.finish()
    encoder.close()


def interleaved(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each way; the ways take turns."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            spent[name].append((time.process_time() - begun) * 1000)
    return {name: statistics.median(times) for name, times in spent.items()}


async def decode_rows(rounds: int) -> list[Row]:
    rows = []
    pool = MediaPool(LimitSettings.model_validate({}))
    await pool.start()
    for name, data in uploads().items():
        ways: dict[str, Callable[[], None]] = {
            "library": lambda name=name, data=data: by_library(name, data),
            "decoder": lambda data=data: decode(data, 16_000, CAPS, lambda samples: None) and None,
        }
        row: Row = {"format": name, "bytes": len(data), **interleaved(ways, rounds)}
        walls: list[tuple[float, float]] = []
        for _ in range(rounds):
            begun = time.perf_counter()
            by_library(name, data)
            plain = time.perf_counter() - begun
            begun = time.perf_counter()
            (await pool.decode(data, rate=16_000)).close()
            walls.append((time.perf_counter() - begun, plain))
        row["pool"] = statistics.median(ours for ours, _ in walls) * 1000
        row["pool_ratio"] = statistics.median(ours / plain for ours, plain in walls)
        row["ratio"] = row["decoder"] / row["library"]
        rows.append(row)
    await pool.close()
    return rows


def encode_rows(rounds: int) -> list[Row]:
    rows = []
    samples = noise(24_000, 1)[:, 0]
    for name in ("wav", "flac", "mp3", "opus", "aac"):
        ways: dict[str, Callable[[], None]] = {
            "library": lambda name=name: encode_by_library(name, samples),
            "ours": lambda name=name: encode_by_us(name, samples),
        }
        row: Row = {"format": name, **interleaved(ways, rounds)}
        row["ratio"] = row["ours"] / row["library"]
        rows.append(row)
    return rows


def first_byte_rows(server: str, rounds: int) -> list[Row]:
    """embedded-tts, 4,096 characters: time to the first byte as a share of the time to the last."""
    text = (SENTENCE * 60)[:4096]
    rows = []
    for name in ("mp3", "wav", "pcm", "opus"):
        shares, firsts, totals = [], [], []
        body = {"model": "embedded-tts", "input": text, "voice": "alloy", "response_format": name}
        for number in range(rounds + 1):
            begun = time.perf_counter()
            with httpx.stream(
                "POST", f"{server}/v1/audio/speech", json=body, headers={"api-key": "k"}, timeout=300
            ) as answer:
                answer.raise_for_status()
                pieces = answer.iter_raw()
                next(pieces)
                first = time.perf_counter() - begun
                for _ in pieces:
                    pass
            total = time.perf_counter() - begun
            if number:  # the first round loads the model
                shares.append(first / total)
                firsts.append(first * 1000)
                totals.append(total * 1000)
        rows.append(
            {
                "format": name,
                "first_ms": statistics.median(firsts),
                "total_ms": statistics.median(totals),
                "share": statistics.median(shares),
            }
        )
    return rows


# A decoder on stdin and stdout: a name and a path a line in, CPU milliseconds out.
_DECODER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from app.media.decode import decode
try:
    from app.media.source import Caps
except ImportError:
    from app.media.decode import Caps  # where older trees have it
files = {}
for line in sys.stdin:
    path = line.strip()
    data = files.setdefault(path, Path(path).read_bytes())
    begun = time.process_time()
    decode(data, 16_000, Caps(7200.0, 1 << 32), lambda samples: None)
    print((time.process_time() - begun) * 1000, flush=True)
"""


def against_rows(tree: Path, rounds: int) -> list[Row]:
    """Our decoder against that of `tree`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        decoders = {
            name: subprocess.Popen(
                children.command_of_program(_DECODER, str(root)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, root in (("before", tree), ("now", Path(__file__).resolve().parents[1]))
        }
        for name, data in uploads().items():
            path = Path(folder) / name
            path.write_bytes(data)
            spent: dict[str, list[float]] = {which: [] for which in decoders}
            for number in range(rounds + 1):
                for which, decoder in decoders.items():
                    seconds = _ask(decoder, path)
                    if number:  # the first round loads libraries
                        spent[which].append(seconds)
            medians = {which: statistics.median(times) for which, times in spent.items()}
            rows.append({"format": name, **medians, "ratio": medians["now"] / medians["before"]})
        for decoder in decoders.values():
            decoder.communicate()
    return rows


def _ask(decoder: subprocess.Popen[str], path: Path) -> float:
    """CPU milliseconds of one decoding."""
    assert decoder.stdin is not None
    assert decoder.stdout is not None
    print(path, file=decoder.stdin, flush=True)
    return float(decoder.stdout.readline())


def show(title: str, rows: list[Row]) -> None:
    print(f"\n{title}")
    columns = list(rows[0])
    print("  ".join(f"{column:>11}" for column in columns))
    for row in rows:
        cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values())
        print("  ".join(f"{cell:>11}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--server", default="", help="base URL of a running server")
    parser.add_argument("--json", type=Path, default=None, help="file for the numbers")
    parser.add_argument("--against", type=Path, default=None, help="folder of another checkout to compare with")
    given = parser.parse_args()
    tables = {} if given.against is None else {"Decode, CPU ms": against_rows(given.against, given.rounds)}
    tables = tables or {
        f"Decode {SECONDS} s, CPU ms (pool: wall ms)": asyncio.run(decode_rows(given.rounds)),
        f"Encode {SECONDS} s, CPU ms": encode_rows(given.rounds),
    }
    if given.server:
        tables["embedded-tts, 4,096 characters: first byte"] = first_byte_rows(given.server.rstrip("/"), given.rounds)
    for title, rows in tables.items():
        show(title, rows)
    if given.json is not None:
        given.json.write_text(json.dumps(tables, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
