"""The language model against the reference data, in every mix of layout and configuration; generation and its ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from backends.csm.model import CsmModel, load_csm
from backends.interface import InvalidInput, ModelUnavailable
from tests.backends.csm.paths import TINY8, copy_tiny8

EXPECTED = np.load(TINY8 / "expected.npz")
PROMPTS: list[dict[str, Any]] = json.loads((TINY8 / "inputs.json").read_text(encoding="utf-8"))["prompts"]


@pytest.mark.parametrize("config", ["original", "transformers"])
@pytest.mark.parametrize("weights", ["original", "transformers"])
def test_reference_logits_and_codes(tmp_path: Path, weights: str, config: str) -> None:
    model = load_csm(copy_tiny8(tmp_path, weights, config))
    for prompt in PROMPTS:
        name = prompt["name"]
        tokens, mask = model.prompt_rows(prompt["segments"])
        assert np.array_equal(tokens, EXPECTED[f"{name}.tokens"])
        assert np.array_equal(mask, EXPECTED[f"{name}.mask"])
        frames = torch.from_numpy(EXPECTED[f"{name}.frames"]).long()
        assert torch.equal(model.generate(tokens, mask, 8), frames)
        assert np.allclose(model.logits(tokens, mask, frames), EXPECTED[f"{name}.logits"], atol=1e-4)


def test_bfloat16_is_near_the_reference_in_bfloat16(tmp_path: Path) -> None:
    model = load_csm(copy_tiny8(tmp_path, "original", "original"), dtype=torch.bfloat16)
    for prompt in PROMPTS:
        first = torch.from_numpy(EXPECTED[f"{prompt['name']}.bf16_frame0"]).long()
        logits = model.logits(*model.prompt_rows(prompt["segments"]), first)[0]
        assert np.abs(logits.numpy() - EXPECTED[f"{prompt['name']}.bf16_logits_frame0"]).max() < 0.2


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 0.03), ("int8", 0.1)])
def test_other_number_formats_are_near(tmp_path: Path, dtype: str, share: float) -> None:
    """The deviation of the logits as a share of their own spread."""
    model = load_csm(copy_tiny8(tmp_path, "original", "original"), dtype=dtype)
    tokens, mask = model.prompt_rows(PROMPTS[0]["segments"])
    frames, expected = torch.from_numpy(EXPECTED["text_only.frames"]).long(), EXPECTED["text_only.logits"]
    assert np.std(model.logits(tokens, mask, frames).numpy() - expected) < share * np.std(expected)
    assert model.generate(tokens, mask, 3, temperature=0.9, seed=1).shape == (3, 8)


def test_shards_with_the_published_index(tmp_path: Path) -> None:
    copy_tiny8(tmp_path, "transformers", "transformers")
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a-00001.safetensors": names[::2], "a-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    index = tmp_path / "transformers.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert torch.equal(greedy(load_csm(tmp_path)), torch.from_numpy(EXPECTED["text_only.frames"]).long())
    (tmp_path / "a-00002.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"a-00002\.safetensors"):
        load_csm(tmp_path)


def test_the_published_repository_with_one_layout_fetched(tmp_path: Path) -> None:
    copy_tiny8(tmp_path, "original", "transformers")
    index = tmp_path / "transformers.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "transformers-00001-of-00002.safetensors"}}), encoding="utf-8")
    assert torch.equal(greedy(load_csm(tmp_path)), torch.from_numpy(EXPECTED["text_only.frames"]).long())


def test_a_shard_without_its_index(tmp_path: Path) -> None:
    copy_tiny8(tmp_path, "transformers", "transformers")
    (tmp_path / "model.safetensors").rename(tmp_path / "transformers-00001-of-00002.safetensors")
    with pytest.raises(ModelUnavailable, match="transformers-00002-of-00002"):
        load_csm(tmp_path)


def greedy(model: CsmModel) -> torch.Tensor:
    return model.generate(*model.prompt_rows(PROMPTS[0]["segments"]), 8)


@pytest.mark.parametrize("layout", ["original", "transformers"])
def test_every_missing_tensor_is_named(tmp_path: Path, layout: str) -> None:
    copy_tiny8(tmp_path, layout, layout)
    tensors = load_file(tmp_path / "model.safetensors")
    tied = {"depth_decoder.model.embed_tokens.weight", "backbone_model.embed_tokens.embed_audio_tokens.weight"}
    for name in sorted(set(tensors) - tied)[::3]:
        save_file({other: tensor for other, tensor in tensors.items() if other != name}, tmp_path / "model.safetensors")
        with pytest.raises(ModelUnavailable) as caught:
            load_csm(tmp_path)
        assert name in caught.value.message


def test_strangers_wrong_shapes_and_mixed_layouts_are_named(tmp_path: Path) -> None:
    copy_tiny8(tmp_path, "original", "original")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    broken = {
        "extra": (tensors | {"backbone.layers.7.attn.q_proj.weight": torch.ones(2)}, r"backbone\.layers\.7"),
        "shape": (tensors | {"audio_head": torch.ones(7, 67, 32)}, r"audio_head .* \[7, 67, 32\]"),
        "mixed": (
            tensors | {"lm_head.weight": torch.ones(67, 64)},
            r"mixes both key layouts: lm_head\.weight of the transformers",
        ),
        "other": ({"model.embed.weight": torch.ones(2)}, "are not CSM's"),
    }
    for state, message in broken.values():
        save_file(state, file)
        with pytest.raises(ModelUnavailable, match=message):
            load_csm(tmp_path)


def test_mask_buffers_and_tied_copies_are_ignored(tmp_path: Path) -> None:
    copy_tiny8(tmp_path / "a", "original", "original")
    file = tmp_path / "a" / "model.safetensors"
    save_file(load_file(file) | {"backbone_causal_mask": torch.ones(4), "decoder_causal_mask": torch.ones(4)}, file)
    expected = greedy(load_csm(tmp_path / "a"))
    copy_tiny8(tmp_path / "b", "transformers", "transformers")
    file, tensors = tmp_path / "b" / "model.safetensors", load_file(TINY8 / "weights_transformers.safetensors")
    for dropped in ("depth_decoder.model.embed_tokens.weight", "backbone_model.embed_tokens.embed_audio_tokens.weight"):
        save_file({name: tensor for name, tensor in tensors.items() if name != dropped}, file)
        assert torch.equal(greedy(load_csm(tmp_path / "b")), expected)


def test_a_decoder_with_a_table_of_its_own(tmp_path: Path) -> None:
    """Untied, as config.json says: the first codebook is the backbone's and the same, the others follow the other
    table."""
    folder = copy_tiny8(tmp_path, "transformers", "transformers")
    values = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"tie_codebooks_embeddings": False}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    tensors, copy = load_file(folder / "model.safetensors"), "depth_decoder.model.embed_tokens.weight"
    prompt, frames = PROMPTS[0]["segments"], torch.from_numpy(EXPECTED["text_only.frames"]).long()
    save_file(tensors | {copy: torch.ones(8 * 67, 64)}, folder / "model.safetensors")
    model = load_csm(folder)
    logits = model.logits(*model.prompt_rows(prompt), frames)
    assert np.allclose(logits[:, 0], EXPECTED["text_only.logits"][:, 0], atol=1e-4)
    other = model.logits(*model.prompt_rows(prompt), torch.cat([(frames[:, :-1] + 1) % 60, frames[:, -1:]], 1))
    assert torch.equal(other[0], logits[0]), "a table of equal rows makes no difference between codes"
    del tensors[copy]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelUnavailable, match=copy.replace(".", r"\.")):
        load_csm(folder)


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no config\.json"):
        load_csm(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="not a CSM configuration"):
        load_csm(tmp_path)
    (tmp_path / "config.json").write_text('{"backbone": {}}', encoding="utf-8")
    with pytest.raises(ModelUnavailable, match=r"no \*\.safetensors"):
        load_csm(tmp_path)


def test_a_seed_gives_the_same_frames_again(tiny8: CsmModel) -> None:
    prompt = tiny8.prompt_rows(PROMPTS[1]["segments"])
    drawn = [tiny8.generate(*prompt, 6, temperature=0.9, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(tiny8.generate(*prompt, 6, temperature=0.9, top_k=1, seed=3), tiny8.generate(*prompt, 6))
    tiny8.generate(*prompt, 2, temperature=5.0, top_k=10_000)


def test_stops_at_an_all_zero_frame_over_all_codebooks(tmp_path: Path) -> None:
    """A frame whose last code alone is not zero goes on; transformers' own rule would stop there."""
    folder = copy_tiny8(tmp_path, "original", "original")
    tensors = load_file(folder / "model.safetensors")
    biased = {name: tensor.float() for name, tensor in tensors.items()}
    biased["codebook0_head.weight"] = torch.zeros(67, 64)
    biased["audio_head"] = torch.zeros(7, 32, 67)
    save_file(biased, folder / "model.safetensors")
    model = load_csm(folder)
    assert model.generate(*model.prompt_rows(PROMPTS[0]["segments"]), 5).shape == (0, 8)
    biased["audio_head"][6, :, 4] = biased["decoder.norm.scale"].sign()
    biased["decoder.norm.scale"] = biased["decoder.norm.scale"].abs()
    save_file(biased, folder / "model.safetensors")
    model = load_csm(folder)
    frames = model.generate(*model.prompt_rows(PROMPTS[0]["segments"]), 5)
    assert (frames[:, :7] == 0).all()


def test_ids_from_2048_on_are_never_chosen(tmp_path: Path) -> None:
    """An absolute number: the codec has 2048 codes, whatever the size of the heads."""
    config = json.loads((TINY8 / "config_original.json").read_text(encoding="utf-8")) | {"audio_vocab_size": 2051}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {name: tensor.float() for name, tensor in load_file(TINY8 / "weights_original.safetensors").items()}
    generator = torch.Generator().manual_seed(0)
    tensors["audio_embeddings.weight"] = torch.randn(8 * 2051, 64, generator=generator)
    tensors["codebook0_head.weight"] = torch.randn(2051, 64, generator=generator) * 0.1
    tensors["audio_head"] = torch.randn(7, 32, 2051, generator=generator) * 0.1
    tensors["codebook0_head.weight"][2048:] *= 50
    tensors["audio_head"][:, :, 2048:] *= 50
    save_file(tensors, tmp_path / "model.safetensors")
    model = load_csm(tmp_path)
    prompt = model.prompt_rows(PROMPTS[0]["segments"])
    for temperature in (0.0, 1.5):
        assert model.generate(*prompt, 6, temperature=temperature, top_k=0, seed=1).max() < 2048
    assert model.logits(*prompt, torch.zeros(1, 8, dtype=torch.int64)).shape == (1, 8, 2051)


def test_bad_inputs(tiny8: CsmModel) -> None:
    tokens, mask = tiny8.prompt_rows(PROMPTS[0]["segments"])
    with pytest.raises(InvalidInput, match="exceed the model's 2048"):
        tiny8.generate(tokens, mask, 2048)
    with pytest.raises(InvalidInput, match="no rows"):
        tiny8.generate(tokens[:0], mask[:0], 2)
    with pytest.raises(InvalidInput, match=r"shape \[8, 8\], wanted \[rows, 9\]"):
        tiny8.generate(tokens[:, 1:], mask[:, 1:], 2)
    for wrong, named in (
        ([{"text_ids": [100]}], r"text ids must lie in 0\.\.99"),
        ([{"text_ids": [1], "codes": [[67]] * 8}], r"0\.\.66"),
    ):
        for ask in (
            lambda rows: tiny8.generate(*rows, 1),
            lambda rows: tiny8.logits(*rows, torch.zeros(1, 8, dtype=torch.int64)),
        ):
            with pytest.raises(InvalidInput, match=named):
                ask(tiny8.prompt_rows(wrong))
    with pytest.raises(InvalidInput, match="4 codes for a model of 8"):
        tiny8.logits(tokens, mask, torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(InvalidInput, match=r"0\.\.66"):
        tiny8.logits(tokens, mask, torch.full((1, 8), 67))
    with pytest.raises(InvalidInput, match="wanted \\[8, frames\\]"):
        tiny8.prompt_rows([{"text_ids": [1], "codes": [[1, 2]]}])
    with pytest.raises(InvalidInput, match="at least one segment"):
        tiny8.prompt_rows([])
    assert tiny8.generate(tokens, mask, 0).shape == tiny8.generate(tokens, mask, -9).shape == (0, 8)
    assert tiny8.logits(tokens, mask, torch.zeros(0, 8, dtype=torch.int64)).shape == (0, 8, 67)


def test_footprint_counts_every_tensor(tiny8: CsmModel) -> None:
    stored = sum(tensor.numel() for tensor in load_file(TINY8 / "weights_original.safetensors").values())
    projected = 8 * 67 * 32
    assert stored * 4 * 0.98 < tiny8.bytes() < (stored + projected) * 4
