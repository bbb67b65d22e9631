"""Whisper against its peers on the same random weights, interleaved.

    python scripts/bench_whisper.py engines --shapes tiny base --rounds 3     CPU seconds, ms per token, memory
    python scripts/bench_whisper.py served --shape base                       8 clients over HTTP against the peer in process
    python scripts/bench_whisper.py cuda                                      only where CUDA is

Each engine runs in a process of its own per round, so that none warms or slows another; one thread is measured in processor
seconds, which other work on the machine hardly disturbs, two threads in wall seconds. Peers: group `bench` of pyproject.toml.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHORT, LONG = 10, 100  # tokens; the difference gives the cost of one
WARM_UP, REPEATS = 1, 2
START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS = 50258, 50259, 50359, 50363
PEERS = ("ours-int8", "ours-float32", "ct2-int8", "ct2-float32", "transformers-float32", "openai-float32")
Work = Callable[[int], object]  # decodes this many tokens


def weights(cache: Path, shape: str, tokens: int) -> Path:
    """A scripted checkpoint, and its CTranslate2 conversion beside it."""
    from ctranslate2.converters import TransformersConverter

    from scripts.whisper_shapes import write_scripted

    folder = cache / f"{shape}-{tokens}"
    if not (folder / "model.safetensors").is_file():
        write_scripted(folder, shape, tokens)
    converted = cache / f"{shape}-{tokens}-ct2"
    if not converted.is_dir():
        TransformersConverter(str(folder), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(str(converted))
    return folder


# --- One engine in one process -----------------------------------------------------------------------------------------


def ours(folder: Path, dtype: str, batch: int, threads: int) -> tuple[Callable[[], object], Work]:
    from backends.whisper.config import read_dims
    from backends.whisper.onnx_engine import OnnxNetwork

    network = OnnxNetwork(folder, read_dims(folder), dtype=dtype, threads=threads)
    mels = [_mel() for _ in range(batch)]
    memories = network.encode(mels)

    def decode(tokens: int) -> None:
        decoding = network.decode(memories)
        logits = decoding.feed(np.array([[START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS]] * batch), 3)
        for _ in range(tokens - 1):
            logits = decoding.feed(logits[:, -1].argmax(-1)[:, None])

    return lambda: network.encode(mels), decode


def ct2(folder: Path, dtype: str, batch: int, threads: int) -> tuple[Callable[[], object], Work]:
    import ctranslate2

    kind = "int8_float32" if dtype == "int8" else dtype
    model = ctranslate2.models.Whisper(f"{folder}-ct2", device="cpu", compute_type=kind, intra_threads=threads, inter_threads=1)
    mels = ctranslate2.StorageView.from_array(np.stack([_mel() for _ in range(batch)]))
    encoded = model.encode(mels)
    prompt = [[START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS]] * batch

    def decode(tokens: int) -> None:
        # It stops at half of max_length.
        found = model.generate(encoded, prompt, beam_size=1, max_length=2 * tokens, suppress_tokens=[50257], suppress_blank=False)
        assert len(found[0].sequences_ids[0]) == tokens

    return lambda: model.encode(mels), decode


def transformers(folder: Path, dtype: str, batch: int, threads: int) -> tuple[Callable[[], object], Work]:
    import torch
    from transformers import WhisperForConditionalGeneration

    torch.set_num_threads(threads)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    mels = torch.from_numpy(np.stack([_mel() for _ in range(batch)]))
    prompt = torch.tensor([[START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS]] * batch)

    @torch.inference_mode()
    def decode(tokens: int) -> None:
        tokens_out, cache = prompt, None
        for _ in range(tokens):
            output = model(encoder_outputs=encoded, decoder_input_ids=tokens_out, past_key_values=cache, use_cache=True)
            cache, tokens_out = output.past_key_values, output.logits[:, -1:].argmax(-1)

    with torch.inference_mode():
        encoded = model.model.encoder(mels)
        return torch.inference_mode()(lambda: model.model.encoder(mels)), decode


def openai(folder: Path, dtype: str, batch: int, threads: int) -> tuple[Callable[[], object], Work]:
    import torch
    import whisper

    torch.set_num_threads(threads)
    width, layers, heads, mels, vocabulary = _shape_of(folder)
    shape = whisper.model.ModelDimensions(mels, 1500, width, heads, layers, vocabulary, 448, width, heads, layers)
    model = whisper.model.Whisper(shape).eval()
    audio = torch.from_numpy(np.stack([_mel() for _ in range(batch)]))
    prompt = torch.tensor([[50258, 50259, 50359, 50363]] * batch)

    @torch.inference_mode()
    def decode(tokens: int) -> None:
        cache, hooks = model.install_kv_cache_hooks()
        new = prompt
        for _ in range(tokens):
            new = model.decoder(new, encoded, kv_cache=cache)[:, -1:].argmax(-1)
        for hook in hooks:
            hook.remove()

    with torch.inference_mode():
        encoded = model.encoder(audio)
        return torch.inference_mode()(lambda: model.encoder(audio)), decode


def _shape_of(folder: Path) -> tuple[int, int, int, int, int]:
    from scripts.whisper_shapes import SHAPES

    return SHAPES[folder.name.rpartition("-")[0]]


def _mel() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((80, 3000)).astype(np.float32)


def measure(engine: str, folder: Path, batch: int, threads: int) -> dict[str, float]:
    """Seconds of the encoder and of a whole 100-token answer, ms per token, peak memory."""
    name, _, dtype = engine.partition("-")
    makers = {"ours": ours, "ct2": ct2, "transformers": transformers, "openai": openai}
    encode, decode = makers[name](folder, dtype, batch, threads)
    clock = time.process_time if threads == 1 else time.perf_counter

    def seconds(work: Callable[[], object]) -> float:
        began = clock()
        work()
        return clock() - began

    for _ in range(WARM_UP):
        encode()
        decode(SHORT)
    encoder = min(seconds(encode) for _ in range(REPEATS))
    short = min(seconds(lambda: decode(SHORT)) for _ in range(REPEATS))
    long = min(seconds(lambda: decode(LONG)) for _ in range(REPEATS))
    return {
        "encoder": encoder,
        "token_ms": (long - short) / (LONG - SHORT) * 1000,
        "total": encoder + long,
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    import psutil

    info = psutil.Process().memory_info()
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return float(getattr(info, "peak_wset", info.rss)) / 2**20


# --- Engines, interleaved ------------------------------------------------------------------------------------------------


def engines(arguments: argparse.Namespace, cache: Path) -> None:
    for shape in arguments.shapes:
        folder = weights(cache, shape, LONG)
        found: dict[str, list[dict[str, float]]] = {engine: [] for engine in arguments.engines}
        title = f"{shape}, batch {arguments.batch}, {arguments.threads} thread(s)"
        for number in range(1, arguments.rounds + 1):
            for engine in arguments.engines:
                found[engine].append(_in_process(engine, folder, arguments.batch, arguments.threads))
            _print_table(f"{title}, {number} round(s)", found, arguments.threads)


def _in_process(engine: str, folder: Path, batch: int, threads: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__)), "one", engine, str(folder), str(batch), str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, encoding="utf-8")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _print_table(title: str, found: dict[str, list[dict[str, float]]], threads: int) -> None:
    middle = statistics.median if threads == 1 else min
    totals = {engine: middle([row["total"] for row in rows]) for engine, rows in found.items()}
    print(f"\n{title}\n\n| engine | encoder s | ms per token | 30 s window s | peak MiB | x ct2-int8 | x transformers |")
    print("|---|---|---|---|---|---|---|")
    for engine, rows in found.items():
        parts = [middle([row[key] for row in rows]) for key in ("encoder", "token_ms", "total")]
        against = [
            f"{totals[peer] / totals[engine]:.2f}" if peer in totals else "-" for peer in ("ct2-int8", "transformers-float32")
        ]
        peak = max(row["peak_mib"] for row in rows)
        print(
            f"| {engine} | {parts[0]:.2f} | {parts[1]:.2f} | {parts[2]:.2f} | {peak:.0f} | {against[0]} | {against[1]} |",
            flush=True,
        )


# --- Served ------------------------------------------------------------------------------------------------------------


def served(arguments: argparse.Namespace, cache: Path) -> None:
    """Windows per second: 8 clients on our server, against faster-whisper called from 8 threads of one process."""
    folder = weights(cache, arguments.shape, LONG)
    audio = (np.random.default_rng(0).standard_normal(30 * 16_000) * 0.1).astype(np.float32)
    rates: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        rates.setdefault("gateway, 8 clients", []).append(_gateway_rate(folder, audio, arguments))
        for workers, threads in ((2, 1), (1, 2)):
            name = f"faster-whisper int8, num_workers={workers}, cpu_threads={threads}"
            rates.setdefault(name, []).append(_peer_rate(folder, audio, workers, threads, arguments))
    ours_best = statistics.median(rates["gateway, 8 clients"])
    print(f"\nserved {arguments.shape}, {arguments.clients} clients\n\n| | windows per second | gateway x |\n|---|---|---|")
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"| {name} | {rate:.2f} | {ours_best / rate:.2f} |", flush=True)


def _gateway_rate(folder: Path, audio: np.ndarray, arguments: argparse.Namespace) -> float:
    import httpx

    with tempfile.TemporaryDirectory() as home:
        config = Path(home) / "gateway.toml"
        table = f'[deployments.whisper-1]\nmodel = {json.dumps(str(folder))}\ndtype = "int8"\nvad = false\nkeep_alive = -1\n'
        # Nothing else computes here, so Whisper gets all cores.
        others = "".join(f'[deployments.{name}]\nbackend = "espeak"\n' for name in ("csm-1b", "llasa-1b"))
        config.write_text(table + others + '[deployments.diffa]\nbackend = "fake"\n', encoding="utf-8")
        port = arguments.port
        command = [sys.executable, "-m", "app", "--config", str(config), "--port", str(port)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "SPEECH_GATEWAY_OFFLINE": "true"}
        server = subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.DEVNULL)
        try:
            address = f"http://127.0.0.1:{port}/v1/audio/transcriptions"
            upload = _wav(audio)

            def ask() -> None:
                form = {"model": "whisper-1", "language": "en"}
                answer = httpx.post(address, data=form, files={"file": ("a.wav", upload)}, headers={"api-key": "x"}, timeout=600)
                answer.raise_for_status()

            _until_answered(ask)
            return _rate(ask, arguments)
        finally:
            server.terminate()
            server.wait(60)


def _until_answered(ask: Callable[[], None]) -> None:
    import httpx

    until = time.monotonic() + 120
    while True:
        try:
            return ask()
        except httpx.HTTPError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _peer_rate(folder: Path, audio: np.ndarray, workers: int, threads: int, arguments: argparse.Namespace) -> float:
    from faster_whisper import WhisperModel

    model = WhisperModel(f"{folder}-ct2", device="cpu", compute_type="int8", cpu_threads=threads, num_workers=workers)

    def ask() -> None:
        segments, _ = model.transcribe(audio, language="en", beam_size=1, temperature=0.0)
        assert len([token for segment in segments for token in segment.tokens]) == LONG

    ask()
    return _rate(ask, arguments)


def _rate(ask: Callable[[], None], arguments: argparse.Namespace) -> float:
    """Answers per second while all clients ask one after the other."""
    began = time.perf_counter()
    threads = [threading.Thread(target=lambda: [ask() for _ in range(arguments.requests)]) for _ in range(arguments.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return arguments.clients * arguments.requests / (time.perf_counter() - began)


def _wav(audio: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((audio * 32767).clip(-32768, 32767).astype(np.int16).tobytes())
    return buffer.getvalue()


# --- CUDA --------------------------------------------------------------------------------------------------------------


def cuda(arguments: argparse.Namespace, cache: Path) -> None:
    """Seconds of audio per second (RTFx) of the torch engine."""
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device here: nothing measured")
        return
    from backends.whisper.engine import WindowInWork, Wish, load_whisper
    from scripts.whisper_shapes import write_scripted

    print(f"\n{torch.cuda.get_device_name()}\n\n| shape | batch | seconds per batch | RTFx |\n|---|---|---|---|")
    for shape in arguments.shapes:
        folder = cache / f"{shape}-{LONG}"
        if not (folder / "model.safetensors").is_file():
            write_scripted(folder, shape, LONG)
        for batch in (1, 16):
            model = load_whisper(folder, engine="torch", device="cuda:0", dtype="float16", max_batch=batch)
            audio = (np.random.default_rng(0).standard_normal(30 * 16_000) * 0.1).astype(np.float32)
            times = []
            for _ in range(4):
                torch.cuda.synchronize()
                began = time.perf_counter()
                recordings = [model.recording(audio, gate=None) for _ in range(batch)]
                model.work([WindowInWork(one, one.next_windows(1)[0], Wish(language="en")) for one in recordings])
                times.append(time.perf_counter() - began)
            print(f"| {shape} | {batch} | {min(times):.3f} | {30 * batch / min(times):.0f} |", flush=True)


def main() -> None:
    if len(sys.argv) == 6 and sys.argv[1] == "one":
        engine, folder, batch, threads = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
        print(json.dumps(measure(engine, folder, batch, threads)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["engines", "served", "cuda"])
    parser.add_argument("--shapes", nargs="+", default=["tiny", "base"])
    parser.add_argument("--shape", default="base")
    parser.add_argument("--engines", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--port", type=int, default=8931)
    parser.add_argument("--cache", type=Path, help="keep the random weights here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cache = arguments.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        {"engines": engines, "served": served, "cuda": cuda}[arguments.what](arguments, cache)


if __name__ == "__main__":
    main()
