"""Measure CSM at the real CSM-1B shapes with random weights; every ratio comes from one run on one machine.

    OMP_NUM_THREADS=1 python scripts/bench_csm.py [--rounds N] [--threads N] [--only int8,bfloat16,torchtune,...]
    [--json FILE]

Seconds per 80 ms frame, sampling included: ours in int8 and bfloat16 at batch 1 and 4, torchtune's and transformers'
builds of the same model (groups `oracle` and `torch`), the bfloat16 matrix-vector products of a frame alone, and one
read of the frame's int8 weights. All of them take turns, round by round. Then how far the logits of int8 and bfloat16
lie from those of float32, and the codec. With one thread seconds are CPU seconds, which other processes disturb least;
with more they are wall time. Needs about 16 GB for everything at once, and 3 minutes at 5 rounds on two quiet cores.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backends.csm.codec import Codec
from backends.csm.config import CsmConfig, parse_config
from backends.csm.frames import FrameBatch, SamplingParams, frame_batch
from backends.csm.layouts import ORIGINAL
from backends.csm.mimi.layouts import moshi_config
from backends.csm.model import CsmModel
from backends.csm.prompt_frames import text_rows
from backends.transformer.checkpoint import Checkpoint
from backends.transformer.linear import precision
from backends.transformer.sampling import request_noise
from scripts.bench.interleaved import interleaved

TEXT = 1024  # rows of the text table: a gather, its size does not matter
PROMPT = 64  # rows
PARTS = ("int8", "bfloat16", "torchtune", "transformers", "logits", "codec")
BLOCK = 1_048_573  # random numbers that all weights are cut from; a prime, so that rows of a matrix differ


class RandomWeights(Checkpoint):
    """Any tensor in any shape, in bf16, made when it is asked for."""

    def __init__(self) -> None:
        super().__init__("random weights", {})
        self._block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)

    def demand(self, names: object) -> None:
        pass

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        size = 1
        for side in shape:
            size *= side
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16)
        scale = 0.02 if "embed" in name else shape[-1 if name != "audio_head" else 1] ** -0.5
        shift = zlib.crc32(name.encode()) % BLOCK
        values = (self._block * scale).roll(shift).repeat(-(-size // len(self._block)))[:size]
        return values.view(shape)


def build(dtype: str, device: str = "cpu") -> CsmModel:
    config = replace(parse_config({"audio_num_codebooks": 32}), text_vocabulary=TEXT)
    kind = precision(dtype, device)
    kind = replace(kind, weights="packed") if dtype == "bfloat16" else kind  # as load_csm does
    return CsmModel(config, RandomWeights(), ORIGINAL, precision=kind, device=device)


def clock() -> float:
    """CPU seconds of this process; with several threads, which add up there, the time of day."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def timed(work: Callable[[], object]) -> float:
    begun = clock()
    work()
    return clock() - begun


class Speaking:
    """Utterances of a batch, each at its own position, that never end."""

    def __init__(self, batch: FrameBatch, count: int) -> None:
        self._batch, self._count = batch, count
        tokens, mask = text_rows(torch.arange(1, PROMPT + 1).tolist(), batch.model.config.codebooks)
        self._hidden = torch.stack([batch.prefill(slot, tokens[slot:], mask[slot:]) for slot in range(count)])
        self._positions = [PROMPT - slot for slot in range(count)]
        noise = torch.empty(batch.model.config.codebooks, batch.allowed_codes, device=batch.model.device)
        self._draws = [SamplingParams(noise, 0.9, 50) for _ in range(count)]
        self._generator = torch.Generator(batch.model.device).manual_seed(0)

    def frame(self) -> None:
        for draw in self._draws:
            assert draw.noise is not None
            request_noise(self._generator, draw.noise)
        _, self._hidden = self._batch.frame(list(range(self._count)), self._positions, self._hidden, self._draws)
        self._positions = [position + 1 for position in self._positions]


def shapes(config: CsmConfig) -> Iterator[tuple[int, int, int]]:
    """Rows and columns of every matrix of a frame, and how often the frame multiplies by it."""
    for stack, times in ((config.backbone, 1), (config.decoder, config.codebooks - 1)):
        heads = stack.heads * stack.head_dim
        for _ in range(stack.layers):
            yield heads + 2 * stack.kv_heads * stack.head_dim, stack.width, times
            yield stack.width, heads, times
            yield 2 * stack.hidden, stack.width, times
            yield stack.width, stack.hidden, times
    yield config.audio_vocabulary, config.backbone.width, 1
    yield config.decoder.width, config.backbone.width, 1
    for _ in range(config.codebooks - 1):
        yield config.audio_vocabulary, config.decoder.width, 1


def floor(config: CsmConfig, make: Callable[[int, int], Callable[[], object]]) -> Callable[[], None]:
    """Something done with every matrix of a frame, in the order of a frame, and nothing else."""
    made = [(make(rows, columns), times) for rows, columns, times in shapes(config)]
    rounds = max(times for _, times in made)

    @torch.inference_mode()
    def run() -> None:
        for work, times in made:
            if times == 1:
                work()
        for _ in range(rounds):
            for work, times in made:
                if times > 1:
                    work()

    return run


def multiply(rows: int, columns: int) -> Callable[[], object]:
    """torch's bf16 matrix-vector product."""
    weight = torch.full((rows, columns), 0.01, dtype=torch.bfloat16)
    vector = torch.ones(1, columns, dtype=torch.bfloat16)
    return lambda: F.linear(vector, weight)


def read(rows: int, columns: int) -> Callable[[], object]:
    """Reading as many bytes as the int8 matrix has."""
    buffer = torch.full((rows * columns // 8,), 3, dtype=torch.int64)
    return lambda: buffer.sum()


def ours(dtype: str) -> dict[str, Callable[[], float]]:
    """Our frame at batch 1 and 4, and what bounds it."""
    model = build(dtype)
    batch = frame_batch(model, 4)
    least = floor(model.config, read if dtype == "int8" else multiply)
    bound = "read of the int8 weights" if dtype == "int8" else "bfloat16 products alone"
    ways = {f"{dtype} frame": Speaking(batch, 1).frame, bound: least, f"{dtype} frame of 4": Speaking(batch, 4).frame}
    return {name: partial(timed, work) for name, work in ways.items()}


def measure_logits() -> dict[str, float]:
    """How far the teacher-forced logits of a few frames deviate from float32's, as a share of their spread."""
    tokens, mask = text_rows(list(range(1, 33)), 32)
    frames = torch.randint(0, 2048, (6, 32), generator=torch.Generator().manual_seed(0))
    logits, found = {}, {}
    for dtype in ("float32", "bfloat16", "int8"):
        logits[dtype] = build(dtype).logits(tokens, mask, frames)
        gc.collect()
    exact = logits["float32"]
    for name, by in (("int8", "float32"), ("bfloat16", "float32"), ("int8", "bfloat16")):
        found[f"{name} against {by}"] = float((logits[name] - logits[by]).std() / exact.std())
    same = (logits["int8"].argmax(-1) == exact.argmax(-1)).float().mean()
    return found | {"share of greedy codes that int8 leaves as in float32": float(same)}


class Torchtune:
    """The original code's frame on torchtune's modules: caches of 2048 rows, one call per codebook."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchtune.models.llama3_2 import llama3_2

        def stack(layers: int, heads: int, kv_heads: int, width: int) -> torch.nn.Module:
            module = llama3_2(16, layers, heads, kv_heads, width, 2048, intermediate_dim=8192)
            module.tok_embeddings = module.output = torch.nn.Identity()
            for parameter in module.parameters():
                parameter.data.uniform_(-0.02, 0.02)
            return module.eval()

        with small_defaults():
            self._backbone, self._decoder = stack(16, 32, 8, 2048), stack(4, 8, 2, 1024)
            self._backbone.setup_caches(1, torch.bfloat16)
            self._decoder.setup_caches(1, torch.bfloat16, decoder_max_seq_len=32)
            self._projection = torch.empty(1024, 2048).uniform_(-0.02, 0.02)
            self._head0, self._heads = (
                torch.empty(2051, 2048).uniform_(-1, 1),
                torch.empty(31, 1024, 2051).uniform_(-1, 1),
            )
            self._table = torch.empty(32 * 2051, 2048).uniform_(-1, 1)
        self._mask, self._inner = torch.ones(2048, 2048).tril().bool(), torch.ones(32, 32).tril().bool()
        self._position = PROMPT
        self._codes = torch.zeros(1, 32, dtype=torch.int64)

    @torch.inference_mode()
    def frame(self) -> None:
        offsets = torch.arange(32) * 2051
        at = torch.tensor([[self._position]])
        rows = self._table[self._codes + offsets].sum(1, keepdim=True)
        hidden = self._backbone(rows, input_pos=at, mask=self._mask[at])[:, -1].bfloat16()
        codes = [self._pick(F.linear(hidden, self._head0))]
        self._decoder.reset_caches()
        inner = torch.stack([hidden, self._table[codes[0]]], 1)
        at = torch.tensor([[0, 1]])
        for book in range(1, 32):
            rows = F.linear(inner, self._projection)
            last = self._decoder(rows, input_pos=at, mask=self._inner[at])[:, -1].bfloat16()
            codes.append(self._pick(last @ self._heads[book - 1]))
            inner = self._table[codes[-1] + book * 2051][:, None]
            at = at[:, -1:] + 1
        self._codes, self._position = torch.stack(codes, 1), self._position + 1

    @staticmethod
    def _pick(logits: Tensor) -> Tensor:
        kept = (logits / 0.9).masked_fill(logits / 0.9 < torch.topk(logits / 0.9, 50).values[..., -1:], -torch.inf)
        shares = torch.softmax(kept, -1)
        return torch.argmax(shares / torch.empty_like(shares).exponential_(1), -1)


@contextmanager
def small_defaults() -> Iterator[None]:
    """New modules in bfloat16, without the time of initialising them."""
    initialise = torch.nn.Linear.reset_parameters
    torch.nn.Linear.reset_parameters = lambda _: None  # type: ignore[method-assign]
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.nn.Linear.reset_parameters = initialise  # type: ignore[method-assign]


def torchtune() -> dict[str, Callable[[], float]]:
    return {"torchtune frame": partial(timed, Torchtune().frame)}


def transformers() -> dict[str, Callable[[], float]]:
    """A frame of generate(): the difference between a call for 1 frame and one for 3, halved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import CsmConfig, CsmForConditionalGeneration

        with small_defaults():
            model = CsmForConditionalGeneration(CsmConfig(text_vocab_size=128_256)).eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.02, 0.02)
    ids = torch.arange(1, PROMPT + 1)[None]

    def speak(frames: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.generate(
                input_ids=ids, max_new_tokens=frames, min_new_tokens=frames, do_sample=True, output_audio=False
            )

    def frame() -> float:
        short = timed(partial(speak, 1))
        return (timed(partial(speak, 3)) - short) / 2

    return {"transformers frame": frame}


def measure_codec() -> dict[str, list[float]]:
    """CPU seconds per frame of streaming decode, real size: ours by size of group, and moshi's one frame at a time."""
    os.environ.setdefault("NO_TORCH_COMPILE", "1")
    from moshi.models.loaders import get_mimi

    network, values = get_mimi(None, num_codebooks=32), moshi_config({})
    codec, codes = Codec(network, values, "cpu"), torch.randint(0, 2048, (1, 32, 48))
    found = {}
    for group in (1, 2, 4):
        decode = codec.open_stream().decode
        seconds = [timed(partial(decode, part)) / group for part in codes.split(group, 2)]
        found[f"mimi, groups of {group}"] = seconds[2:]
    with network.streaming(1), torch.inference_mode():
        found["mimi, moshi's own"] = [timed(partial(network.decode, part)) for part in codes[:, :, :12].split(1, 2)][2:]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run, of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = arguments.only.split(",")
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), {time.strftime('%Y-%m-%d')}", flush=True)
    found: dict[str, dict[str, float]] = {"logits": measure_logits() if "logits" in parts else {}}
    seconds = frame_seconds(parts, arguments.rounds)
    seconds |= measure_codec() if "codec" in parts else {}
    found["seconds"] = {name: statistics.median(times) for name, times in seconds.items()}
    found["best"] = {name: min(times) for name, times in seconds.items()}
    found["ratios"] = ratios(found["seconds"])
    for title, rows in found.items():
        print(f"\n{title}")
        for name, value in rows.items():
            print(f"  {name:56s} {value:.4f}")
    print(json.dumps(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def frame_seconds(parts: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds per frame of every way."""
    makers = {"int8": partial(ours, "int8"), "bfloat16": partial(ours, "bfloat16")}
    makers |= {"torchtune": torchtune, "transformers": transformers}
    ways: dict[str, Callable[[], float]] = {}
    for part, make in makers.items():
        ways |= make() if part in parts else {}
    return interleaved(ways, rounds)


def ratios(middle: dict[str, float]) -> dict[str, float]:
    """What the goals are about."""
    pairs = [("int8 frame", "read of the int8 weights"), ("int8 frame of 4", "int8 frame")]
    pairs += [
        ("torchtune frame", "int8 frame"),
        ("transformers frame", "int8 frame"),
        ("torchtune frame", "bfloat16 frame"),
    ]
    pairs += [("bfloat16 frame", "bfloat16 products alone"), ("bfloat16 frame of 4", "bfloat16 frame")]
    return {
        f"{over} / {under}": middle[over] / middle[under] for over, under in pairs if {over, under} <= middle.keys()
    }


if __name__ == "__main__":
    main()
