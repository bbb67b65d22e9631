"""What makes it fast and must change nothing: fixed-shape steps, prefixes, number formats, compile and its
fall-back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.llasa import dtypes
from backends.llasa.compiling import obstacle, try_compile
from backends.llasa.cuda_graphs import StaticSteps
from backends.llasa.decoding import TokenLoop
from backends.llasa.generation_state import Utterance
from backends.llasa.model import Llasa, load_llasa
from backends.llasa.options import SamplingParams


@pytest.fixture(scope="module")
def model(lm_folder: Path) -> Llasa:
    return load_llasa(lm_folder)


def spoken(loop: TokenLoop, model: Llasa) -> list[list[int]]:
    """Three answers, begun at different times, the first one ending while the others run."""
    texts = ("One two three four.", "Five.", "Six, seven!")
    limits = (10, 60, 40)
    utterances = [
        Utterance(model.prompt_ids(t), n, SamplingParams(0.9), seed)
        for seed, (t, n) in enumerate(zip(texts, limits, strict=True))
    ]
    waiting, active = list(utterances), []
    for turn in range(120):
        if waiting and turn % 4 == 0:
            loop.admit(waiting[0])
            active.append(waiting.pop(0))
        loop.step(active)
        for utterance in [utterance for utterance in active if utterance.over]:
            loop.release(utterance)
            active.remove(utterance)
    return [utterance.ids for utterance in utterances]


def test_fixed_shapes_change_nothing(model: Llasa, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = spoken(TokenLoop(model, 3, 400), model)
    shapes: list[tuple[int, int]] = []

    def traced(function: Any, **_: Any) -> Any:
        def call(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            shapes.append((len(tokens), len(positions)))
            return function(tokens, positions)

        return call

    monkeypatch.setattr(torch, "compile", traced)
    loop = TokenLoop(model, 3, 400)
    loop._static = StaticSteps(model, loop._cache, compiled=True)
    assert spoken(loop, model) == expected
    assert {count for count, _ in shapes} <= {1, 2, 3}
    assert len(shapes) > 30


@pytest.mark.slow
def test_every_shape_is_compiled(lm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_llasa(lm_folder, packed=False)
    graphs: list[Any] = []

    def counting(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counting))
    steps = StaticSteps(model, TokenLoop(model, 3, 1024)._cache, compiled=True)
    for position in (0, 300, 1000):
        for slot in range(3):
            steps.hidden("", {slot: position}, [slot], torch.zeros(1, dtype=torch.int64))
    assert len(graphs) == 9


def test_a_compiler_that_fails_leaves_the_loop_as_it_was(
    model: Llasa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such compiler\nand more")

    monkeypatch.delenv("NO_TORCH_COMPILE", raising=False)
    monkeypatch.setattr("backends.llasa.compiling.obstacle", lambda device: "")
    monkeypatch.setattr(torch, "compile", failing)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    loop = TokenLoop(model, 3, 400)
    assert try_compile(loop, tmp_path) == "off: RuntimeError: no such compiler"
    assert "no such compiler" in caplog.text
    assert spoken(loop, model) == spoken(TokenLoop(model, 3, 400), model)


def test_a_capture_that_fails_while_serving_leaves_plain_steps(
    model: Llasa, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shapes: list[int] = []

    def captured(self: StaticSteps, forward: Any, count: int) -> Any:
        shapes.append(count)
        if count > 1:
            raise torch.OutOfMemoryError("no memory for a further graph\nand more")
        return forward

    monkeypatch.setattr(StaticSteps, "_captured", captured)
    loop = TokenLoop(model, 3, 400)
    assert loop.fix_shapes(compiled=False) == ""
    assert spoken(loop, model) == spoken(TokenLoop(model, 3, 400), model)
    assert shapes == [1, 2], "the first failure is the last try"
    assert loop.given_up == "OutOfMemoryError: no memory for a further graph"
    assert [r.getMessage() for r in caplog.records if "fixed shapes" in r.getMessage()] == [
        "steps in fixed shapes are given up, plain ones go on: OutOfMemoryError: no memory for a further graph"
    ]


@pytest.mark.parametrize(("factor", "reason"), [(1.0, ""), (1.01, "its results differ from those of plain steps")])
def test_compiled_steps_are_compared_with_plain_ones(
    model: Llasa, monkeypatch: pytest.MonkeyPatch, factor: float, reason: str
) -> None:
    def compiled(function: Any, **_: Any) -> Any:
        return lambda tokens, positions: function(tokens, positions) * factor

    monkeypatch.setattr(torch, "compile", compiled)
    loop = TokenLoop(model, 2, 400)
    assert loop.fix_shapes(compiled=True) == reason
    assert (loop._static is None) == bool(reason)


def test_obstacles_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "NO_TORCH_COMPILE" in obstacle(torch.device("cpu"))
    monkeypatch.delenv("NO_TORCH_COMPILE")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "no C++ compiler" in obstacle(torch.device("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "Triton" in obstacle(torch.device("cuda"))
    assert "not supported" in obstacle(torch.device("mps"))


def test_auto_is_measured_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "decode_prefers_bfloat16", lambda: True)
    assert dtypes.language_dtype("auto", "cpu") == "bfloat16"
    monkeypatch.setattr(dtypes, "decode_prefers_bfloat16", lambda: False)
    assert dtypes.language_dtype("auto", "cpu") == "float32"
    assert dtypes.language_dtype("int8", "cpu") == "int8"
    assert dtypes.codec_dtype("auto", "bfloat16", "cpu") == torch.bfloat16
    monkeypatch.setattr(dtypes, "codec_prefers_bfloat16", lambda: False)
    assert dtypes.codec_dtype("auto", "int8", "cpu") == torch.float32


def test_a_device_without_bfloat16_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert dtypes.language_dtype("bfloat16", "cuda:0") == "float16"
    assert "no bfloat16" in caplog.text
