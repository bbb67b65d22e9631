"""Recognisers of the same Whisper weights behind one interface: ours, faster-whisper and whisper.cpp, one thread each.

Used by `bench_embedded`. A peer that is not installed is left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from backends.model_sets import MODEL_SETS, locate
from backends.whisper.checkpoint import Checkpoint
from backends.whisper.engine import load_whisper

Recognize = Callable[[np.ndarray, str], str]
"""From samples (float32 [time] at 16 kHz) and their language to text."""


def recognizers(name: str, folder: Path, ggml: Path | None) -> Iterator[tuple[str, Recognize]]:
    """Loaded, by name. folder: for what is written; ggml: the weights as whisper.cpp reads them.

    Raises ModelUnavailable where the weights are not here.
    """
    weights = locate(MODEL_SETS[name], folder / name).folder
    for dtype in ("int8", "float32"):
        yield f"ours, {dtype}", _ours(weights, dtype)
    if importlib.util.find_spec("faster_whisper"):
        yield "faster-whisper, int8", _faster_whisper(weights, folder / f"{name}-peer")
    if ggml is not None and importlib.util.find_spec("pywhispercpp"):
        yield f"whisper.cpp, {ggml.stem}", _whisper_cpp(ggml)


def _ours(weights: Path, dtype: str) -> Recognize:
    model = load_whisper(weights, dtype=dtype, threads=1)
    temperatures = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    return lambda samples, language: model.transcribe(samples, language=language, temperature=temperatures).text


def peer_folder(weights: Path, folder: Path) -> Path:
    """The weights as faster-whisper wants them: the container in one piece, and the vocabulary as a file."""
    from tokenizers import Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.bin").open("wb") as whole:
        for part in Checkpoint(weights).files:
            whole.write(part.read_bytes())
    for file in ("config.json", "tokenizer.json"):
        (folder / file).write_bytes((weights / file).read_bytes())
    known = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    known |= {f"<|{index * 0.02:.2f}|>": len(known) + index for index in range(1501)}
    text = "\n".join(sorted(known, key=lambda token: known[token])) + "\n"
    (folder / "vocabulary.txt").write_text(text, encoding="utf-8", newline="\n")
    return folder


def _faster_whisper(weights: Path, folder: Path) -> Recognize:
    from faster_whisper import WhisperModel

    model = WhisperModel(str(peer_folder(weights, folder)), device="cpu", compute_type="int8", cpu_threads=1)

    def recognize(samples: np.ndarray, language: str) -> str:
        segments, _ = model.transcribe(samples, language=language, beam_size=1)
        return "".join(segment.text for segment in segments)

    return recognize


def _whisper_cpp(ggml: Path) -> Recognize:
    from pywhispercpp.model import Model

    model = Model(str(ggml), n_threads=1, print_progress=False, print_realtime=False)
    return lambda samples, language: "".join(
        segment.text for segment in model.transcribe(samples, language=language, temperature=0.0)
    )
