"""Whisper against its peers on the same random weights, interleaved.

    python scripts/bench_whisper.py --served                        everything that a CPU can show
    python scripts/bench_whisper.py --cases base:1:1 --rounds 3     one case: shape, batch, threads
    python scripts/bench_whisper.py --cases --served                only 8 clients over HTTP against the peer in process
    python scripts/bench_whisper.py --device cuda                   RTFx of the torch engine, only where CUDA is

Each engine runs in a process of its own per round, so that none warms or slows another. One thread is judged by
processor seconds, which other work on the machine hardly disturbs (medians of the rounds); two threads by wall seconds
(the best round).
Peers: group `bench` of pyproject.toml.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from backends import children  # noqa: E402
from scripts.bench.whisper_shapes import SHAPES  # noqa: E402 - found by the line above

TOKENS = 100
ENGINES = (
    "ours-int8",
    "ours-float32",
    "torch-float32",
    "ct2-int8",
    "ct2-float32",
    "transformers-float32",
    "openai-float32",
)
CASES = ("tiny:1:1", "base:1:1", "small:1:1", "base:8:1", "base:1:2", "base:8:2")
AGAINST = ("ct2-int8", "transformers-float32")


@dataclass(frozen=True, slots=True)
class Case:
    """A shape, windows decoded together, threads."""

    shape: str
    batch: int
    threads: int

    @classmethod
    def of(cls, text: str) -> Case:
        try:
            shape, batch, threads = text.split(":")
            case = cls(shape, int(batch), int(threads))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not SHAPE:BATCH:THREADS") from error
        if case.shape not in SHAPES or min(case.batch, case.threads) < 1:
            raise argparse.ArgumentTypeError(
                f"{text!r}: the shapes are {', '.join(SHAPES)}; batch and threads are 1 or more"
            )
        return case


def weights(cache: Path, shape: str) -> Path:
    """A scripted checkpoint, and its CTranslate2 conversion beside it."""
    from ctranslate2.converters import TransformersConverter

    folder = _scripted(cache, shape)
    converted = Path(f"{folder}-ct2")
    if not converted.is_dir():
        TransformersConverter(str(folder), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(
            str(converted)
        )
    return folder


def _scripted(cache: Path, shape: str) -> Path:
    from scripts.bench.whisper_shapes import write_scripted

    folder = cache / f"{shape}-{TOKENS}"
    if not (folder / "tokenizer_config.json").is_file():  # the last file that is written
        write_scripted(folder, shape, TOKENS)
    return folder


# --- Engines, interleaved ---------------------------------------------------------------------------------------------

Found = dict[str, list[dict[str, float]]]


def engines(cases: Sequence[Case], names: Sequence[str], rounds: int, cache: Path) -> None:
    for case in cases:
        folder = weights(cache, case.shape)
        found: Found = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                found[name].append(_in_process(name, folder, case))
        _print_table(case, found, rounds)


def _in_process(name: str, folder: Path, case: Case) -> dict[str, float]:
    command = children.command("scripts.bench.whisper_engines", name, str(folder), str(case.batch), str(case.threads))
    environment = children.environment(threads=case.threads)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _print_table(case: Case, found: Found, rounds: int) -> None:
    clock, middle = ("cpu", statistics.median) if case.threads == 1 else ("wall", min)
    rows = {name: {key: middle([row[key] for row in values]) for key in values[0]} for name, values in found.items()}
    judged = "processor seconds, medians" if clock == "cpu" else "wall seconds, best round"
    print(
        f"\n{case.shape}, batch {case.batch}, {case.threads} thread(s), {rounds} round(s); per 30 s window, {judged}\n"
    )
    print("| engine | encoder s | ms per token | window s | CPU s | peak MiB | x ct2-int8 | x transformers |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        total = row[f"{clock}_total"]
        ratios = [f"{rows[peer][f'{clock}_total'] / total:.2f}" if peer in rows else "-" for peer in AGAINST]
        cells = [
            f"{row[f'{clock}_encoder']:.2f}",
            f"{row[f'{clock}_token_ms']:.2f}",
            f"{total:.2f}",
            f"{row['cpu_total']:.2f}",
        ]
        print(
            "| " + " | ".join([name, *cells, f"{max(v['peak_mib'] for v in found[name]):.0f}", *ratios]) + " |",
            flush=True,
        )


# --- CUDA -------------------------------------------------------------------------------------------------------------


def cuda(shapes: Sequence[str], batches: Sequence[int], cache: Path) -> None:
    """Seconds of audio per second (RTFx) of the torch engine: log-mel, encoder, 100 tokens."""
    import torch

    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no CUDA device here: nothing was measured")
    print(
        f"\n{torch.cuda.get_device_name()}, float16\n\n| shape | batch | seconds per batch | RTFx |\n|---|---|---|---|"
    )
    for shape in shapes:
        folder = _scripted(cache, shape)
        for batch in batches:
            best = _torch_seconds(folder, batch, "cuda:0", "float16")
            print(f"| {shape} | {batch} | {best:.3f} | {30 * batch / best:.0f} |", flush=True)


def _torch_seconds(folder: Path, batch: int, device: str, dtype: str, repeats: int = 4) -> float:
    """Least wall seconds for one batch of windows. Tokens come back to the processor, so nothing is left on the
    device."""
    from backends.whisper.active_window import ActiveWindow, DecodingOptions
    from backends.whisper.engine import load_whisper
    from scripts.bench.whisper_served import noise

    model = load_whisper(folder, engine="torch", device=device, dtype=dtype, max_batch=batch)
    times = []
    for _ in range(repeats):
        recordings = [model.recording(noise(), vad_options=None) for _ in range(batch)]
        began = time.perf_counter()
        model.work([ActiveWindow(one, one.next_windows(1)[0], DecodingOptions(language="en")) for one in recordings])
        times.append(time.perf_counter() - began)
    return min(times)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--cases", nargs="*", type=Case.of, default=[Case.of(case) for case in CASES], metavar="SHAPE:BATCH:THREADS"
    )
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--served", action="store_true", help="also 8 clients over HTTP, against the peer in process")
    parser.add_argument("--served-shape", default="base", choices=SHAPES)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=4, help="of each client")
    parser.add_argument("--port", type=int, default=8931)
    parser.add_argument("--cuda-shapes", nargs="+", default=["tiny", "small", "large-v3"], choices=SHAPES)
    parser.add_argument("--cuda-batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--cache", type=Path, help="keep the random weights here")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        cache = given.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        if given.device == "cuda":
            cuda(given.cuda_shapes, given.cuda_batches, cache)
            return
        engines(given.cases, given.engines, given.rounds, cache)
        if given.served:
            from scripts.bench.whisper_served import Load, compare

            folder = weights(cache, given.served_shape)
            compare(folder, given.served_shape, Load(given.clients, given.requests, given.port), given.rounds)


if __name__ == "__main__":
    main()
