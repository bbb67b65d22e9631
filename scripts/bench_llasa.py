"""LLASA against transformers on this machine: tokens per second, the codec, memory. Random weights, published shapes.

    python scripts/bench_llasa.py [--threads 1,2] [--only lm,codec,memory] [--steps N] [--rounds N] [--json FILE]
    [--folder DIR]

Every comparison is interleaved in one process, so that a noisy machine slows both sides alike; medians and bests are
printed. The language models of one number format are held together and freed before the next. Peak memory is that of a
process that only loads one model and speaks a few tokens at the largest batch; the mapped weight file counts in it.
Needs about 16 GB for float32 (--groups bfloat16: 9), and 5 to 6 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from backends.llasa.codec import load_codec
from backends.llasa.decoding import TokenLoop
from backends.llasa.generation_state import Utterance
from backends.llasa.lora import LoraVariant
from backends.llasa.model import Llasa, load_llasa
from backends.llasa.options import SamplingParams
from backends.transformer.linear import make_linear
from scripts.bench.interleaved import interleaved

ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 193_800,
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
    "rope_parameters": ROPE,
    "torch_dtype": "bfloat16",
}
PROMPT = 60  # tokens
SAMPLING = SamplingParams(temperature=0.8, top_k=50, top_p=1.0)
CODES = 65_536


MEMORY_CASES = ("own int8", "own bfloat16", "own float32", "own full int8", "own full bfloat16", "own full float32")
PEERS = ("generate bfloat16", "generate float32")

Found = dict[str, dict[str, float]]
"""What was measured: title of a table -> name -> figure."""


def main() -> None:
    """Run what --only names; print a table each, and everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2", help="numbers of threads to measure with, one after the other")
    parser.add_argument("--only", default="lm,codec,memory", help="parts to run: lm, codec, memory")
    parser.add_argument("--groups", default="float32,bfloat16", help="number formats of transformers to compare with")
    parser.add_argument("--steps", type=int, default=5, help="decode steps per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where the random weights are kept (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    parser.add_argument("--one-case", help="(for its own use) load and run this case, print the process's peak memory")
    options = parser.parse_args()
    options.threads = [int(number) for number in options.threads.split(",")]
    torch.set_num_threads(options.threads[0])
    warnings.simplefilter("ignore")
    if options.one_case:
        print(peak_of(options.folder, options.one_case, options.batch))
        return
    print(f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as temporary:
        found = run_parts(options.folder or Path(temporary), options)
    print(json.dumps(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def run_parts(folder: Path, options: argparse.Namespace) -> Found:
    parts, found = options.only.split(","), Found()
    language = folder / "llasa-1b"
    if {"lm", "memory"} & set(parts) and not (language / "model.safetensors").is_file():
        write_language_model(language)
    if "lm" in parts:
        for dtype in options.groups.split(","):
            found |= bench_group(language, dtype, options)
            gc.collect()
    if "memory" in parts:
        found |= bench_memory(language, options)
    if "codec" in parts:
        found |= bench_codec(folder / "codec", options)
    return found


# --- language model ---------------------------------------------------------------------------------------------------


def bench_group(folder: Path, dtype: str, options: argparse.Namespace) -> Found:
    """transformers in one number format, our loop in the same and in int8, each with the sliced and the full head."""
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    models: dict[str, Llasa] = {}
    for name in (dtype, "int8"):
        models[f"own {name}"] = load_llasa(folder, dtype=name, rows=2)
        models[f"own full {name}"] = with_full_head(models[f"own {name}"])
    ways: dict[str, Callable[[], float]] = {}
    for batch in (1, options.batch):
        ways[f"generate {dtype} batch {batch}"] = lambda batch=batch: generate_step(reference, batch, options.steps)  # type: ignore[misc]
        for name, model in models.items():
            ways[f"{name} batch {batch}"] = lambda model=model, batch=batch: own_step(model, batch, options.steps)  # type: ignore[misc]
    quantised = models["own int8"]
    ways["reading the int8 weights once"] = reader(decode_bytes(quantised))
    found: Found = {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        results = interleaved(ways, options.rounds)
        title = f"{dtype}, {threads} thread(s)"
        print(f"\n## {title}, ms per decode step")
        found |= report(title, results, {name: batch_of(name, options.batch) for name in results})
        found[f"{title}, ratios"] = ratios(results, dtype, options.batch)
    print(
        f"int8: {decode_bytes(quantised) / 1e9:.2f} GB of weights read per step, {quantised.bytes() / 1e9:.2f} GB held"
    )
    return found


def with_full_head(model: Llasa) -> Llasa:
    """The same model with every token of the vocabulary in its head; stack and table are shared."""
    other, base = copy.copy(model), model.variants[""]
    other.variants = {"": LoraVariant(base.stack, base.table, make_linear(base.table, model.kind, rows=2), None)}
    return other


def batch_of(name: str, batch: int) -> int:
    return batch if name.endswith(f"batch {batch}") else 1


def ratios(results: dict[str, list[float]], dtype: str, batch: int) -> dict[str, float]:
    """What the goals are about, by medians and by the best rounds."""
    best = {name: min(times) for name, times in results.items()}
    middle = {name: statistics.median(times) for name, times in results.items()}
    found = {}
    for label, over, under, factor in (
        (f"{dtype} batch 1 against generate", f"generate {dtype} batch 1", f"own {dtype} batch 1", 1),
        ("int8 batch 1 against generate", f"generate {dtype} batch 1", "own int8 batch 1", 1),
        ("reading the int8 weights against generate", f"generate {dtype} batch 1", "reading the int8 weights once", 1),
        ("int8 step against reading its weights", "own int8 batch 1", "reading the int8 weights once", 1),
        (f"int8 batch {batch}, total against batch 1", "own int8 batch 1", f"own int8 batch {batch}", batch),
        (f"{dtype} batch {batch}, total against batch 1", f"own {dtype} batch 1", f"own {dtype} batch {batch}", batch),
        ("int8 full head against sliced, time", "own full int8 batch 1", "own int8 batch 1", 1),
    ):
        found[label] = factor * middle[over] / middle[under]
        print(f"{label}: {found[label]:.2f} (median), {factor * best[over] / best[under]:.2f} (best)")
    return found


def bench_memory(folder: Path, options: argparse.Namespace) -> Found:
    """Peak memory of a process per case; one at a time."""
    cases = [*MEMORY_CASES, *(peer for peer in PEERS if peer.split()[1] in options.groups)]
    print("\n## peak memory of a process, GB\n| case | peak |\n| --- | --- |")
    found = {}
    for case in cases:
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--one-case",
            case,
            "--folder",
            str(folder),
            "--threads",
            "1",
        ]
        command += ["--batch", str(options.batch)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[case] = int(output.split()[-1]) / 1e9
        print(f"| {case} | {found[case]:.2f} |", flush=True)
    return {"peak memory, GB": found}


def peak_of(folder: Path, case: str, batch: int) -> int:
    """Bytes that this process took at most to load the model of a case and to speak with it."""
    import psutil

    *_, dtype = case.split()
    if case.startswith("generate"):
        from transformers import LlamaForCausalLM

        generate_step(LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval(), batch, 2)
    else:
        own_step(load_llasa(folder, dtype=dtype, rows=2, full_vocabulary="full" in case), batch, 2)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    # Not getrusage: its maximum is passed on from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def generate_step(model: Any, batch: int, steps: int) -> float:
    """Seconds per decode step of transformers' generate, the prompt's step not counted."""
    ids = torch.arange(PROMPT)[None].repeat(batch, 1) + 200
    settings = {
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 1.0,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    times: list[float] = []

    def note(tokens: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        times.append(time.perf_counter())
        return torch.zeros(batch, dtype=torch.bool)

    mask = torch.ones_like(ids)
    model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=1 + steps, stopping_criteria=[note], **settings)
    return (times[-1] - times[0]) / (len(times) - 1)


def own_step(model: Llasa, batch: int, steps: int) -> float:
    """Seconds per decode step of the serving loop."""
    loop = TokenLoop(model, batch, 256)
    utterances = [Utterance([200 + i for i in range(PROMPT)], steps + 2, SAMPLING, seed) for seed in range(batch)]
    for utterance in utterances:
        loop.admit(utterance)
    loop.step(utterances)  # prompts
    loop.step(utterances)
    began = time.perf_counter()
    for _ in range(steps):
        loop.step(utterances)
    return (time.perf_counter() - began) / steps


def decode_bytes(model: Llasa) -> int:
    """Bytes of weights that one decode step reads."""
    return model.variants[""].stack.bytes() + model.variants[""].head.bytes()


def reader(size: int) -> Callable[[], float]:
    """Reads that many bytes out of memory and takes the time."""
    block = torch.ones(size // 4, dtype=torch.float32)

    def read() -> float:
        began = time.perf_counter()
        block.sum()
        return time.perf_counter() - began

    return read


def write_language_model(folder: Path) -> None:
    """Random weights at the shape of Llasa-1B, and a tokenizer with all speech tokens."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in LlamaForCausalLM(LlamaConfig(**SHAPE)).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in names.items():
        if name != "lm_head.weight":
            values = torch.empty(shape, dtype=torch.bfloat16)
            tensors[name] = values.fill_(1.0) if "norm" in name else values.normal_(std=0.02, generator=generator)
    (folder / "config.json").write_text(json.dumps(SHAPE), encoding="utf-8")
    write_tokenizer(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, models

    from backends.llasa.vocabulary import MARKERS

    tokenizer = Tokenizer(models.BPE(vocab={chr(65 + i): i for i in range(26)}, merges=[]))
    tokenizer.add_tokens(
        [AddedToken(name, special=False) for name in (*MARKERS, *(f"<|s_{i}|>" for i in range(CODES)))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


# --- codec ------------------------------------------------------------------------------------------------------------


def bench_codec(folder: Path, options: argparse.Namespace, seconds: int = 10) -> Found:
    """Our decoder and transformers' own class on the same random weights; then what a decode-only start holds."""
    from transformers import Xcodec2Config, Xcodec2Model

    torch.set_num_threads(options.threads[0])
    torch.manual_seed(0)
    native = Xcodec2Model(Xcodec2Config()).eval()
    if not (folder / "model.safetensors").is_file():
        native.save_pretrained(folder)
    del native.semantic_encoder, native.acoustic_encoder
    gc.collect()
    codes = torch.randint(0, CODES, (1, 1, 50 * seconds))
    own = {
        str(dtype).removeprefix("torch."): load_codec(folder, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    }

    def by_native() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            native.decode(codes)
        return time.perf_counter() - began

    def by_own(codec: Any) -> float:
        began = time.perf_counter()
        codec.decode(codes)
        return time.perf_counter() - began

    ways: dict[str, Callable[[], float]] = {"native class float32": by_native}
    ways |= {f"own {name}": lambda codec=codec: by_own(codec) for name, codec in own.items()}  # type: ignore[misc]
    results = interleaved(ways, options.rounds)
    title = f"codec, {options.threads[0]} thread(s)"
    print(f"\n## {title}, ms to decode {seconds} s of audio")
    found = report(title, results)
    for name in own:
        ratio = statistics.median(results["native class float32"]) / statistics.median(results[f"own {name}"])
        print(f"own {name} against the native class: {ratio:.2f}")
    with torch.inference_mode():
        difference = (own["float32"].decode(codes) - native.decode(codes).audio_values).abs().max()
    print(f"largest difference of the waves in float32: {float(difference):.1e}")
    weights = {name: codec.bytes() / 1e9 for name, codec in own.items()}
    print("weights of a decode-only start: " + ", ".join(f"{name} {size:.3f} GB" for name, size in weights.items()))
    return found | {"codec weights, GB": weights}


# --- measuring --------------------------------------------------------------------------------------------------------


def report(title: str, results: dict[str, list[float]], rows: dict[str, int] | None = None) -> Found:
    """Print a table of ms; rows: utterances of each way, for a column of tokens per second. Gives the medians."""
    print(
        "| way | median | best |"
        + (" tokens/s |" if rows else "")
        + "\n| --- | --- | --- |"
        + (" --- |" if rows else "")
    )
    for name, times in results.items():
        middle = statistics.median(times)
        speed = f" {rows[name] / middle:.1f} |" if rows else ""
        print(f"| {name} | {middle * 1e3:.1f} | {min(times) * 1e3:.1f} |{speed}", flush=True)
    return {title: {name: statistics.median(times) * 1e3 for name, times in results.items()}}


if __name__ == "__main__":
    main()
