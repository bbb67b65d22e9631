"""Measure CSM at the real CSM-1B shapes with random weights; every ratio comes from one run on one machine.

    python scripts/bench_csm.py                    # our own bf16 and int8, floors, codec
    python scripts/bench_csm.py --peers            # also torchtune's and transformers' build of the same model

Seconds per frame at batch 1 and 4, against: the bf16 matrix-vector products of a frame alone; the time to read the int8
weights of a frame once; and the two reference implementations. Run with one thread (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.csm.config import parse_config
from backends.csm.frames import Draw, FrameBatch, frame_batch
from backends.csm.layouts import ORIGINAL
from backends.csm.model import CsmModel
from backends.csm.rows import text_rows
from backends.transformer import precision, request_noise
from backends.transformer.checkpoint import Checkpoint
from backends.transformer.linear import Dense, Int8Dynamic

TEXT = 1024  # rows of the text table: a gather, its size does not matter
PROMPT = 64  # rows


class RandomWeights(Checkpoint):
    """Any tensor in any shape, in bf16, made when it is asked for."""

    def __init__(self) -> None:
        super().__init__("random weights", {})
        self._block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)

    def demand(self, names: object) -> None:
        pass

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        size = 1
        for side in shape:
            size *= side
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16)
        scale = 0.02 if "embed" in name else shape[-1 if name != "audio_head" else 1] ** -0.5
        shift = hash(name) % 1000
        values = (self._block * scale).roll(shift).repeat(-(-size // len(self._block)))[:size]
        return values.view(shape)


def build(dtype: str, device: str = "cpu") -> CsmModel:
    config = replace(parse_config({"audio_num_codebooks": 32}), text_vocabulary=TEXT)
    return CsmModel(config, RandomWeights(), ORIGINAL, precision=precision(dtype, device), device=device)


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """CPU seconds of each call: with one thread that is the time it takes, whoever else uses the machine."""
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return seconds


class Speaking:
    """Utterances of a batch, each at its own position, that never end."""

    def __init__(self, batch: FrameBatch, count: int) -> None:
        self._batch, self._count = batch, count
        tokens, mask = text_rows(torch.arange(1, PROMPT + 1).tolist(), batch.model.config.codebooks)
        self._hidden = torch.stack([batch.prefill(slot, tokens[slot:], mask[slot:]) for slot in range(count)])
        self._positions = [PROMPT - slot for slot in range(count)]
        noise = torch.empty(batch.model.config.codebooks, batch.speakable, device=batch.model.device)
        self._draws = [Draw(noise, 0.9, 50) for _ in range(count)]
        self._generator = torch.Generator(batch.model.device).manual_seed(0)

    def frame(self) -> None:
        for draw in self._draws:
            assert draw.noise is not None
            request_noise(self._generator, draw.noise)
        _, self._hidden = self._batch.frame(list(range(self._count)), self._positions, self._hidden, self._draws)
        self._positions = [position + 1 for position in self._positions]


def matrices(model: CsmModel) -> Iterator[tuple[object, int]]:
    """Every matrix of a frame and how often the frame multiplies by it."""
    for stack, times in ((model.backbone, 1), (model.decoder, model.config.codebooks - 1)):
        for block in stack.blocks:
            for linear in (block.qkv, block.o, block.gate_up, block.down):
                yield linear, times
    yield model.first_head, 1
    yield model.projection, 1
    for head in model.other_heads:
        yield head, 1


def floor_bf16(model: CsmModel) -> Callable[[], None]:
    """The matrix-vector products of one frame, in the order of a frame, and nothing else."""
    work = [(linear.weight, times) for linear, times in matrices(model) if isinstance(linear, Dense)]
    vectors = {weight.shape[1]: torch.randn(1, weight.shape[1], dtype=torch.bfloat16) for weight, _ in work}
    once = [weight for weight, times in work if times == 1]
    often = [weight for weight, times in work if times > 1]
    rounds = max(times for _, times in work)

    @torch.inference_mode()
    def run() -> None:
        for weight in once:
            F.linear(vectors[weight.shape[1]], weight)
        for _ in range(rounds):
            for weight in often:
                F.linear(vectors[weight.shape[1]], weight)

    return run


def floor_int8(model: CsmModel) -> Callable[[], None]:
    """Reading as many bytes as the int8 weights of one frame have, from buffers of the same sizes."""
    sizes = [(linear.bytes(), times) for linear, times in matrices(model) if isinstance(linear, Int8Dynamic)]
    once = [torch.zeros(size // 8, dtype=torch.int64) for size, times in sizes if times == 1]
    often = [torch.zeros(size // 8, dtype=torch.int64) for size, times in sizes if times > 1]
    for buffer in (*once, *often):
        buffer.random_(0, 2**62)
    rounds = max(times for _, times in sizes)

    @torch.inference_mode()
    def run() -> None:
        for buffer in once:
            buffer.sum()
        for _ in range(rounds):
            for buffer in often:
                buffer.sum()

    return run


def measure_ours(dtype: str, repeats: int) -> dict[str, float]:
    model = build(dtype)
    batch = frame_batch(model, 4)
    alone, four = Speaking(batch, 1), None
    floor = (floor_int8 if dtype == "int8" else floor_bf16)(model)
    alone.frame(), floor()
    rows: dict[str, list[float]] = {"frame": [], "floor": [], "frame of 4": []}
    for _ in range(repeats):
        rows["frame"] += timed(alone.frame, 1)
        rows["floor"] += timed(floor, 1)
    four = Speaking(batch, 4)
    four.frame()
    rows["frame of 4"] = timed(four.frame, repeats)
    return {f"{dtype} {name}": statistics.median(seconds) for name, seconds in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    for dtype in ("int8", "bfloat16"):
        if not arguments.only or arguments.only == dtype:
            found |= measure_ours(dtype, arguments.repeats)
            gc.collect()
    for name, value in found.items():
        print(f"{name:40s} {value:9.4f}")


if __name__ == "__main__":
    main()
