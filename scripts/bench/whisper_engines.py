"""One Whisper engine, ours or a peer's, in this process: `python -m scripts.bench.whisper_engines ENGINE FOLDER BATCH
THREADS`.

Prints one JSON object: seconds of processor time and of wall time, and the peak of memory. Used by `bench_whisper`,
which starts one such process per engine and round. Every engine decodes greedily, without timestamps' rules, the same
number of tokens.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from backends.whisper.network import EncoderOutput, Network

SHORT, LONG = 10, 100  # tokens; the difference gives the cost of one
START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS = 50258, 50259, 50359, 50363
Work = Callable[[int], object]  # decodes this many tokens
Engine = tuple[Callable[[], object], Work]  # encodes all windows; decodes


def ours(folder: Path, dtype: str, batch: int, threads: int) -> Engine:
    from backends.whisper.config import read_dims
    from backends.whisper.onnx.engine import OnnxNetwork

    return _network(OnnxNetwork(folder, read_dims(folder), dtype=dtype, threads=threads), batch)


def ours_torch(folder: Path, dtype: str, batch: int, threads: int) -> Engine:
    from backends.whisper.config import read_dims
    from backends.whisper.torch.engine import TorchNetwork

    return _network(TorchNetwork(folder, read_dims(folder), dtype=dtype, threads=threads), batch)


def _network(network: Network, batch: int) -> Engine:
    """As `backends.whisper.engine` does it: windows are dealt out to lanes."""
    replicas = network.replicas(batch)
    parts = [[_mel()] * len(range(batch)[place :: len(replicas)]) for place in range(len(replicas))]

    def encode() -> list[Sequence[EncoderOutput]]:
        return _side_by_side(lambda replica, mels: replica.encode(mels), replicas, parts)

    memories = encode()

    def decode_part(replica: Network, windows: Sequence[EncoderOutput], tokens: int) -> None:
        decoding = replica.decode(windows)
        logits = decoding.feed(np.array([[START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS]] * len(windows)), 3)
        for _ in range(tokens - 1):
            logits = decoding.feed(logits[:, -1].argmax(-1)[:, None])

    return encode, lambda tokens: _side_by_side(
        lambda replica, windows: decode_part(replica, windows, tokens), replicas, memories
    )


def _side_by_side(work: Callable[..., Any], replicas: Sequence[Network], parts: Sequence[Any]) -> list[Any]:
    if len(replicas) == 1:
        return [work(replicas[0], parts[0])]
    with ThreadPoolExecutor(len(replicas)) as threads:
        return list(threads.map(work, replicas, parts))


def ct2(folder: Path, dtype: str, batch: int, threads: int) -> Engine:
    import ctranslate2

    kind = "int8_float32" if dtype == "int8" else dtype
    model = ctranslate2.models.Whisper(
        f"{folder}-ct2", device="cpu", compute_type=kind, intra_threads=threads, inter_threads=1
    )
    mels = ctranslate2.StorageView.from_array(np.stack([_mel() for _ in range(batch)]))
    encoded = model.encode(mels)
    prompt = [[START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS]] * batch

    def decode(tokens: int) -> None:
        # It stops at half of max_length.
        found = model.generate(
            encoded, prompt, beam_size=1, max_length=2 * tokens, suppress_tokens=[50257], suppress_blank=False
        )
        assert len(found[0].sequences_ids[0]) == tokens

    return lambda: model.encode(mels), decode


def transformers(folder: Path, dtype: str, batch: int, threads: int) -> Engine:
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


def openai(folder: Path, dtype: str, batch: int, threads: int) -> Engine:
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
    from scripts.bench.whisper_shapes import SHAPES

    return SHAPES[folder.name.rpartition("-")[0]]


def _mel() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((80, 3000)).astype(np.float32)


def measure(engine: str, folder: Path, batch: int, threads: int) -> dict[str, float]:
    """Per window: processor and wall seconds of the encoder, of one token (ms), of everything; the process's peak in
    MiB."""
    name, _, dtype = engine.partition("-")
    makers = {"ours": ours, "torch": ours_torch, "ct2": ct2, "transformers": transformers, "openai": openai}
    encode, decode = makers[name](folder, dtype, batch, threads)
    encode()
    decode(SHORT)
    repeats = 2 if batch == 1 else 1
    encoder = _least(encode, repeats)
    short = _least(lambda: decode(SHORT), repeats)
    long = _least(lambda: decode(LONG), repeats)
    found = {"peak_mib": _peak_mib()}
    for clock in (0, 1):
        kind = ("cpu", "wall")[clock]
        found[f"{kind}_encoder"] = encoder[clock] / batch
        found[f"{kind}_token_ms"] = (long[clock] - short[clock]) / (LONG - SHORT) * 1000 / batch
        found[f"{kind}_total"] = (encoder[clock] + long[clock]) / batch
    return found


def _least(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The least processor seconds and the least wall seconds of some runs."""
    times = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(cpu for cpu, _ in times), min(wall for _, wall in times)


def _peak_mib() -> float:
    import psutil

    info = psutil.Process().memory_info()
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return float(getattr(info, "peak_wset", info.rss)) / 2**20


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
