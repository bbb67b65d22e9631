"""The step of many utterances: the same codes alone and beside others, and what a CUDA graph would compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backends.csm.frames import FrameBatch, GraphedFrames, SamplingParams, frame_batch
from backends.csm.model import CsmModel, NoiseSource, load_csm
from backends.csm.prompt_frames import text_rows
from backends.interface import InvalidInput
from tests.backends.csm.paths import copy_tiny8

PROMPTS = [[1, 20, 30, 2], [1, 7, 8, 9, 40, 41, 2], [1, 55, 2], [1, 60, 61, 62, 63, 64, 65, 66, 67, 2]]
SETTINGS = [(0.9, 50), (0.0, 0), (1.3, 5), (0.9, 50)]


class Replayed(GraphedFrames):
    """Graphs without CUDA: the static computation runs again at every replay."""

    def _replayed(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        return self.static_frame(batch, length)


def spoken(batch: FrameBatch, who: list[int], frames: int = 6) -> dict[int, Tensor]:
    """The codes of the utterances `who`, made together: each in its own slot, with its own seed and settings."""
    model = batch.model
    sources = {i: NoiseSource((model.config.codebooks, batch.allowed_codes), 100 + i, "cpu") for i in who}
    hidden = torch.stack([batch.prefill(i, *text_rows(PROMPTS[i], model.config.codebooks)) for i in who])
    positions, said = [len(PROMPTS[i]) for i in who], []
    for _ in range(frames):
        sampling_params = [SamplingParams(sources[i].draw() if SETTINGS[i][0] else None, *SETTINGS[i]) for i in who]
        codes, hidden = batch.frame(who, positions, hidden, sampling_params)
        positions = [position + 1 for position in positions]
        said.append(codes)
    return {i: torch.stack(said)[:, row] for row, i in enumerate(who)}


@pytest.mark.parametrize(("dtype", "rows"), [("float32", 0), ("float32", 4), ("bfloat16", 4), ("int8", 0)])
def test_the_same_codes_alone_and_beside_three_others(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, rows: int
) -> None:
    folder = copy_tiny8(tmp_path_factory.mktemp("model"), "original", "original")
    batch = frame_batch(load_csm(folder, dtype=dtype, rows=rows), 4)
    together = spoken(batch, [0, 1, 2, 3])
    for i in range(4):
        assert torch.equal(spoken(batch, [i])[i], together[i])
    assert torch.equal(spoken(batch, [3, 1])[1], together[1])


def test_equals_plain_generation(tiny8: CsmModel) -> None:
    batch = frame_batch(tiny8, 4)
    prompt = text_rows(PROMPTS[1], 8)
    assert torch.equal(spoken(batch, [0, 1])[1], tiny8.generate(*prompt, 6))
    prompt = text_rows(PROMPTS[3], 8)
    assert torch.equal(spoken(batch, [2, 3])[3], tiny8.generate(*prompt, 6, temperature=0.9, seed=103))


def test_the_static_frame_of_a_graph_equals_the_plain_one(tiny8: CsmModel) -> None:
    plain, graphed = frame_batch(tiny8, 4), Replayed(tiny8, 4)
    expected = spoken(plain, [0, 1, 2, 3])
    found = spoken(graphed, [0, 1, 2, 3])
    assert all(torch.equal(found[i], expected[i]) for i in range(4))
    assert torch.equal(spoken(graphed, [2])[2], expected[2])


def test_idle_slots_of_a_graph_disturb_nobody(tiny8: CsmModel) -> None:
    """Slot 0 waits, prefilled, while slot 3 speaks; its own frames are the same afterwards."""
    batch = Replayed(tiny8, 4)
    expected = spoken(batch, [0])[0]
    hidden = batch.prefill(0, *text_rows(PROMPTS[0], 8))
    spoken(batch, [3])
    source, said, position = NoiseSource((8, batch.allowed_codes), 100, "cpu"), [], len(PROMPTS[0])
    for frame in range(6):
        codes, after = batch.frame([0], [position + frame], hidden[None], [SamplingParams(source.draw(), *SETTINGS[0])])
        hidden = after[0]
        said.append(codes[0])
    assert torch.equal(torch.stack(said), expected)


def test_fewer_codes_than_the_heads_have(tiny8: CsmModel) -> None:
    batch = frame_batch(tiny8, 2, allowed_codes=5)
    hidden = batch.prefill(0, *text_rows(PROMPTS[0], 8))
    codes, _ = batch.frame([0], [4], hidden[None], [SamplingParams(torch.rand(8, 5), 2.0, 0)])
    assert int(codes.max()) < 5


def test_a_prompt_beyond_the_positions_is_refused(tiny8: CsmModel) -> None:
    batch = frame_batch(tiny8, 1)
    with pytest.raises(InvalidInput, match="2049 rows exceeds the model's 2048"):
        batch.prefill(0, *text_rows([1] * 9, 8), start=2040)
