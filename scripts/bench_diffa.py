"""Measure DIFFA's decoding with random weights; every ratio comes from one run on one machine.

    python scripts/bench_diffa.py                                  # width 512, 8 layers: all modes against the
    reference python scripts/bench_diffa.py --size large                     # width 1024, 16 layers
    python scripts/bench_diffa.py --size 8b --device cuda --dtype bfloat16 --no-reference

An answer of 128 tokens in blocks of 32 to a prompt of 320 positions. The reference is the published loop over
transformers' Llama blocks with an all-zero mask: every step computes all positions, the head and a float64 softmax on
all rows. A whole reference answer takes minutes, so single steps are timed, the kinds of steps taking turns in every
round, and an answer is the sum of its steps: all reference steps are alike, ours are a full pass per block and one
window per further step (prefix windows shrink block by block; each length is timed). One whole answer is run as a check
of that sum.

Random weights never reach a confidence of 0.9, so a threshold that commits three tokens per step is imitated by a
schedule of ceil(32 / 3) = 11 steps per block; it feeds the same windows, and the rule itself costs what the schedule's
does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
import zlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from backends.diffa import remasking
from backends.diffa.decoding import DecodingOptions
from backends.diffa.denoise import Denoising, Window
from backends.diffa.llada import Llada, LladaConfig, Pass, SequenceState, build_llada
from backends.memory import resident_bytes
from backends.transformer.checkpoint import Checkpoint
from backends.transformer.config import TransformerConfig
from backends.transformer.linear import Precision, precision
from backends.transformer.rope import Rope

PROMPT, NEW, BLOCK = 320, 128, 32
SPLICE, AUDIO_TOKENS = 60, 189  # ten seconds of audio after the sixtieth text token
TOKENS_PER_STEP = 3
SIZES = {
    "small": LladaConfig(
        TransformerConfig(8, 512, 8, 8, 64, 1536, max_positions=4096, rope=Rope(500_000.0)), 32_768, False
    ),
    "large": LladaConfig(
        TransformerConfig(16, 1024, 16, 16, 64, 3072, max_positions=4096, rope=Rope(500_000.0)), 65_536, False
    ),
    "8b": LladaConfig(
        TransformerConfig(32, 4096, 32, 32, 128, 12_288, max_positions=4096, rope=Rope(500_000.0)), 126_464, False
    ),
}
MODES = ("none", "prefix", "dual")
BLOCKS = NEW // BLOCK
SCHEDULES = {"fixed": BLOCK, "three tokens per step": -(-BLOCK // TOKENS_PER_STEP)}


class RandomWeights(Checkpoint):
    """Any tensor in any shape, made when it is asked for; `kept` collects them for the reference."""

    def __init__(self, device: torch.device, dtype: torch.dtype, *, keep: bool) -> None:
        super().__init__("random weights", {})
        self._device, self._dtype, self._keep = device, dtype, keep
        self.kept: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            tensor = torch.ones(shape, device=self._device, dtype=self._dtype)
        else:
            noise = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
            scale = 1.0 if "wte" in name else shape[-1] ** -0.5
            tensor = torch.randn(shape, generator=noise, device=self._device, dtype=self._dtype).mul_(scale)
        if self._keep:
            self.kept[name] = tensor
        return tensor


class Reference:
    """The published loop over transformers' Llama blocks."""

    def __init__(self, config: LladaConfig, tensors: dict[str, Tensor], mask_id: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from transformers import LlamaConfig, LlamaForCausalLM
        stack = config.stack
        shape = LlamaConfig(
            vocab_size=config.rows, hidden_size=stack.width, intermediate_size=stack.hidden,
            num_hidden_layers=stack.layers,
            num_attention_heads=stack.heads, num_key_value_heads=stack.kv_heads, rms_norm_eps=stack.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": stack.rope.theta},
            max_position_embeddings=stack.max_positions, attn_implementation="sdpa",
        )  # fmt: skip
        with torch.device("meta"):
            self._model = LlamaForCausalLM(shape)
        self._model.load_state_dict({_llama_name(name): tensor for name, tensor in tensors.items()}, assign=True)
        rotary = type(self._model.model.rotary_emb)
        self._model.model.rotary_emb = rotary(shape)  # its buffer is no weight, so it was left without values
        self._model.eval()
        self._mask_id = mask_id

    @torch.inference_mode()
    def step(self, ids: Tensor, audio: Tensor, splice: int, block_end: int, count: int) -> None:
        """One step on ids (prompt and answer): everything is computed, `count` tokens are committed in place."""
        embedded = self._model.model.embed_tokens(ids)
        whole = torch.cat([embedded[:splice], audio, embedded[splice:]])[None]
        visible = torch.zeros(1, 1, whole.shape[1], whole.shape[1])
        logits = self._model(inputs_embeds=whole, attention_mask=visible, use_cache=False).logits[0]
        logits = torch.cat([logits[:splice], logits[splice + len(audio) :]])
        tokens = logits.argmax(-1)
        confidence = logits.to(torch.float64).softmax(-1).gather(-1, tokens[:, None])[:, 0]
        masked = ids == self._mask_id
        confidence[block_end:] = -torch.inf
        chosen = torch.where(masked, confidence, -torch.inf).topk(count).indices
        ids[chosen] = tokens[chosen]


def _llama_name(name: str) -> str:
    parts = {
        "wte": "model.embed_tokens", "ln_f": "model.norm", "attn_norm": "input_layernorm",
        "ff_norm": "post_attention_layernorm",
        "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj",
        "attn_out": "self_attn.o_proj",
        "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "ff_out": "mlp.down_proj",
    }  # fmt: skip
    *path, part, weight = name.removeprefix("model.transformer.").split(".")
    if not path:
        return f"lm_head.{weight}" if part == "ff_out" else f"{parts[part]}.{weight}"
    return f"model.layers.{path[1]}.{parts[part]}.{weight}"


def build(config: LladaConfig, kind: Precision, device: torch.device, *, keep: bool) -> tuple[Llada, dict[str, Tensor]]:
    """The model, and its weights for the reference where they are wanted."""
    weights = RandomWeights(device, torch.float32 if device.type == "cpu" else kind.compute, keep=keep)
    return build_llada(config, weights, kind, device), weights.kept


def prompt_of(llada: Llada, ids: Tensor, audio: Tensor, splice: int) -> Tensor:
    embedded = llada.embed(ids)
    return torch.cat([embedded[:splice], audio.to(embedded), embedded[splice:]])[None]


def same_answers(llada: Llada, reference: Reference, mask_id: int) -> bool:
    """A short answer of the plain loop, by us and by the reference."""
    noise = torch.Generator().manual_seed(1)
    ids, audio = torch.randint(0, mask_id, (40,), generator=noise), torch.randn(20, llada.width, generator=noise)
    options = DecodingOptions(steps=16, block_length=8, max_new_tokens=16)
    denoising = Denoising(options, mask_id, (), 0)
    sequence = llada.sequence(prompt_of(llada, ids, audio, 10), 16, cached=False)
    while not denoising.done:
        denoising.take(llada.block_logits([Pass(sequence, denoising.ids, denoising.window())])[0])
    whole = torch.cat([ids, torch.full((16,), mask_id)])
    for step in range(16):
        reference.step(whole, audio, 10, 40 + 8 * (1 + step // 8), 1)
    return bool(torch.equal(whole[40:], denoising.ids))


def window(kind: str) -> Window:
    """The pass of one kind of step: none, refresh, dual, prefix0 (first block) to prefix3."""
    if kind in ("none", "refresh"):
        return Window(0, NEW, whole=True, block=slice(0, BLOCK), keep=kind == "refresh")
    if kind == "dual":
        return Window(0, BLOCK, whole=False, block=slice(0, BLOCK), keep=True)
    start = BLOCK * int(kind.removeprefix("prefix"))
    return Window(start, NEW, whole=False, block=slice(start, start + BLOCK), keep=True)


def one_step(llada: Llada, states: list[tuple[SequenceState, Tensor]], kind: str, mask_id: int) -> None:
    """Forward pass, candidates and choice of one step of some answers; nothing is written, so it can be repeated."""
    wanted = [Pass(sequence, ids, window(kind)) for sequence, ids in states]
    for logits in llada.block_logits(wanted):
        _, confidence = remasking.candidates(logits[0], mask_id)
        remasking.pick_scheduled(confidence, torch.ones(BLOCK, dtype=torch.bool, device=confidence.device), 1)


Clock = Callable[[], float]


def clock_of(device: torch.device, threads: int) -> Clock:
    """On one processor thread its own time, which neighbours on a shared machine do not lengthen; else the wall
    clock."""
    return time.process_time if device.type == "cpu" and threads == 1 else time.perf_counter


def interleaved(
    kinds: dict[str, Callable[[], None]], rounds: int, clock: Clock, wait: Callable[[], None]
) -> dict[str, float]:
    """Median seconds of each kind; every round runs each once, after one round that is not counted."""
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(rounds + 1):
        for kind, run in kinds.items():
            began = clock()
            run()
            wait()
            if turn:
                times[kind].append(clock() - began)
    return {kind: statistics.median(seconds) for kind, seconds in times.items()}


def answer_seconds(seconds: dict[str, float], mode: str, steps_per_block: int) -> float:
    """A whole answer as the sum of its steps."""
    if mode == "none":
        return BLOCKS * steps_per_block * seconds["none"]
    later = sum(seconds[f"prefix{block}"] for block in range(BLOCKS)) if mode == "prefix" else BLOCKS * seconds["dual"]
    return BLOCKS * seconds["refresh"] + (steps_per_block - 1) * later


def whole_answer(llada: Llada, prompt: Tensor, mask_id: int, clock: Clock) -> float:
    """Seconds of one complete answer: dual cache, three tokens per step."""
    options = DecodingOptions(BLOCKS * SCHEDULES["three tokens per step"], BLOCK, NEW, cache="dual")
    began = clock()
    denoising = Denoising(options, mask_id, (), 0, llada.device)
    sequence = llada.sequence(prompt, NEW, cached=True)
    while not denoising.done:
        denoising.take(llada.block_logits([Pass(sequence, denoising.ids, denoising.window())])[0])
    return clock() - began


def states_of(llada: Llada, prompt: Tensor, mask_id: int, count: int) -> list[tuple[SequenceState, Tensor]]:
    """Answers about to be denoised, their caches filled."""
    ids = torch.full((NEW,), mask_id, device=llada.device)
    states = [(llada.sequence(prompt, NEW, cached=True), ids) for _ in range(count)]
    one_step(llada, states, "refresh", mask_id)
    return states


def measure(config: LladaConfig, args: argparse.Namespace) -> dict[str, object]:
    device, mask_id = torch.device(args.device), config.rows - 1
    llada, kept = build(config, precision(args.dtype, device), device, keep=args.reference)
    reference = Reference(config, kept, mask_id) if args.reference else None
    del kept
    same = same_answers(llada, reference, mask_id) if reference and args.dtype == "float32" else None
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(0, mask_id, (PROMPT - AUDIO_TOKENS,), generator=noise)
    audio = torch.randn(AUDIO_TOKENS, llada.width, generator=noise)
    prompt = prompt_of(llada, ids, audio, SPLICE)
    alone, four = states_of(llada, prompt, mask_id, 1), states_of(llada, prompt, mask_id, 4)
    names = ("none", "refresh", *(f"prefix{block}" for block in range(BLOCKS)), "dual")
    kinds: dict[str, Callable[[], None]] = {name: partial(one_step, llada, alone, name, mask_id) for name in names}
    kinds |= {f"four x {name}": partial(one_step, llada, four, name, mask_id) for name in ("refresh", "dual")}
    if reference:
        start = torch.cat([ids, torch.full((NEW,), mask_id)])
        kinds["reference"] = lambda: reference.step(start.clone(), audio, SPLICE, len(ids) + BLOCK, 1)
    wait = torch.cuda.synchronize if device.type == "cuda" else _nothing
    clock = clock_of(device, args.threads)
    seconds = interleaved(kinds, args.rounds, clock, wait)
    return {
        "size": args.size,
        "device": args.device,
        "dtype": args.dtype,
        "threads": args.threads,
        "weights_bytes": llada.bytes(),
        "memory_bytes": _held_bytes(device),
        "exact_mode_equals_reference": same,
        "step_ms": {kind: round(1000 * value, 2) for kind, value in seconds.items()},
        "answers": _answers(seconds),
        "batch_of_4_over_1": {
            name: round(seconds[f"four x {name}"] / seconds[name], 2) for name in ("refresh", "dual")
        },
        "whole_answer_seconds": round(whole_answer(llada, prompt, mask_id, clock), 2),
        "its_sum_of_steps": round(answer_seconds(seconds, "dual", SCHEDULES["three tokens per step"]), 2),
    }


def _answers(seconds: dict[str, float]) -> dict[str, dict[str, float]]:
    """Per mode and schedule: seconds, tokens per second, and how many times faster than the reference's fixed
    schedule."""
    whole = NEW * seconds["reference"] if "reference" in seconds else None
    table = {"reference fixed": _row(whole, whole)} if whole else {}
    for mode in MODES:
        for name, steps in SCHEDULES.items():
            table[f"{mode} {name}"] = _row(answer_seconds(seconds, mode, steps), whole)
    return table


def _row(seconds: float, reference: float | None) -> dict[str, float]:
    row = {"seconds": round(seconds, 2), "tokens_per_second": round(NEW / seconds, 2)}
    return row | ({"times_faster": round(reference / seconds, 2)} if reference else {})


def _held_bytes(device: torch.device) -> int:
    """The device's peak; on a processor what the process holds now, the reference's copy included."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else resident_bytes()


def _nothing() -> None:
    """The processor has nothing to wait for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-reference", dest="reference", action="store_false")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(measure(SIZES[args.size], args), indent=1))


if __name__ == "__main__":
    main()
