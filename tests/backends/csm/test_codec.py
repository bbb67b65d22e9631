"""Mimi against the reference data in both layouts; streaming against one-shot far beyond the attention window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from backends.csm.codec import Codec, load_mimi
from backends.csm.mimi.layouts import moshi_config, read_codec_config
from backends.interface import InvalidInput, ModelUnavailable
from scripts.fixtures.tiny_csm import transformers_codec
from tests.backends.csm.paths import MIMI

EXPECTED = np.load(MIMI / "expected.npz")
CODES = torch.from_numpy(EXPECTED["codes"]).long()


def config(form: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((MIMI / f"config_{form}.json").read_text(encoding="utf-8"))
    return values


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_mimi(MIMI / "weights_moshi.safetensors", config("moshi"))


@pytest.mark.parametrize("form", ["moshi", "transformers"])
@pytest.mark.parametrize("weights", ["moshi", "transformers"])
def test_reference_waveform_and_codes(weights: str, form: str) -> None:
    codec = load_mimi(MIMI / f"weights_{weights}.safetensors", config(form))
    assert (codec.rate, codec.frame_samples, codec.codebooks) == (24_000, 1920, 8)
    assert np.allclose(codec.decode(CODES), EXPECTED["decoded"], atol=1e-4)
    assert np.allclose(codec.decode(CODES[:, :4, :10]), EXPECTED["decoded_first4_codebooks"], atol=1e-4)
    assert np.array_equal(codec.encode(torch.from_numpy(EXPECTED["wav"])), EXPECTED["encoded"])


@pytest.mark.parametrize("groups", [[1] * 40, [2] + [4] * 9 + [2], [40], [1, 3, 17, 19]])
def test_streaming_equals_one_shot_beyond_the_window(codec: Codec, groups: list[int]) -> None:
    """The window of 20 steps is full after 10 frames; the package's own streaming goes wrong from there on."""
    with codec.streaming(1) as stream:
        pieces = [stream.decode(part) for part in CODES.split(groups, 2)]
    assert [piece.shape[2] for piece in pieces] == [1920 * count for count in groups]
    assert np.allclose(torch.cat(pieces, 2), EXPECTED["decoded"], atol=1e-4)


def test_streams_of_a_batch_are_independent(codec: Codec) -> None:
    other = CODES.flip(2)
    with codec.streaming(2) as stream:
        pieces = [stream.decode(torch.cat([CODES, other])[:, :, i : i + 1]) for i in range(12)]
    joined = torch.cat(pieces, 2)
    assert torch.allclose(joined[:1], codec.decode(CODES[:, :, :12]), atol=1e-4)
    assert torch.allclose(joined[1:], codec.decode(other[:, :, :12]), atol=1e-4)


def test_a_whole_csm_folder_holds_the_codec(tiny: Path, tiny_original: Path) -> None:
    """In the shards under codec_model. with codec_config, or as moshi's file beside the original model."""
    inside, beside = load_mimi(tiny), load_mimi(tiny_original)
    assert inside.codebooks == 8
    codes = torch.randint(0, 32, (1, 8, 5), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(inside.decode(codes), beside.decode(codes), atol=1e-4)


@pytest.mark.parametrize("layout", ["moshi", "transformers"])
def test_a_codec_in_shards(tmp_path: Path, layout: str) -> None:
    """With an index and without; a second copy in the other layout beside it does not disturb."""
    other = {"moshi": "transformers", "transformers": "moshi"}[layout]
    tensors = load_file(MIMI / f"weights_{layout}.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config(layout)), encoding="utf-8")
    names, weight_map = sorted(tensors), {}
    for number in range(3):
        file, part = f"model-{number + 1:05d}-of-00003.safetensors", names[number::3]
        save_file({name: tensors[name] for name in part}, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    assert np.allclose(load_mimi(tmp_path).decode(CODES), EXPECTED["decoded"], atol=1e-4)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    save_file(load_file(MIMI / f"weights_{other}.safetensors"), tmp_path / "other.safetensors")
    assert np.allclose(load_mimi(tmp_path).decode(CODES), EXPECTED["decoded"], atol=1e-4)


def test_the_names_that_moshi_gives_now(tmp_path: Path) -> None:
    newer = {"in_proj_weight": "in_projs.0.weight", "out_proj.weight": "out_projs.0.weight"}
    tensors = load_file(MIMI / "weights_moshi.safetensors")
    for old, new in newer.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    assert any("in_projs" in name for name in tensors)
    save_file(tensors, tmp_path / "mimi.safetensors")
    codec = load_mimi(tmp_path / "mimi.safetensors", config("moshi"))
    assert np.allclose(codec.decode(CODES), EXPECTED["decoded"], atol=1e-4)


@pytest.mark.parametrize(
    "changed", [{"use_conv_shortcut": True}, {"vector_quantization_hidden_dimension": 32}, {"sliding_window": 1}]
)
def test_codecs_of_other_shapes(tmp_path: Path, changed: dict[str, Any]) -> None:
    """A convolution in the skip connection; code vectors as wide as the rest, which transformers does not project."""
    from moshi.models.loaders import get_mimi

    values = config("transformers") | changed
    torch.manual_seed(0)
    network = get_mimi(None, moshi_config(values), num_codebooks=8)
    tensors = random_transformers_codec(network, equal_widths="vector_quantization_hidden_dimension" in changed)
    save_file(tensors, tmp_path / "mimi.safetensors")
    codec = load_mimi(tmp_path, values)
    expected = codec.decode(CODES)
    with torch.inference_mode():
        assert torch.allclose(expected, network.decode(CODES), atol=1e-3 * float(expected.std()))
    with codec.streaming() as stream:
        pieces = [stream.decode(part) for part in CODES.split(4, 2)]
    assert torch.allclose(torch.cat(pieces, 2), expected, atol=1e-3 * float(expected.std()))


def random_transformers_codec(network: Any, *, equal_widths: bool) -> dict[str, torch.Tensor]:
    """Fill moshi's network at random (projections with identities, if the widths are equal) and rename what is in
    it."""
    published = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("embedding_sum"):
            tensor.normal_()
        elif name.endswith("cluster_usage"):
            tensor.fill_(1.0)
        elif equal_widths and name.endswith("put_proj.weight"):
            tensor.copy_(torch.eye(len(tensor))[:, :, None])
            continue
        published[name.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0.", "out_proj.")] = (
            tensor.clone()
        )
    return transformers_codec(published)


def test_what_a_configuration_leaves_out_is_as_published() -> None:
    usual = moshi_config({})
    assert (usual["seanet"]["ratios"], usual["quantizer"]["n_q"], usual["transformer"]["context"]) == (
        [8, 6, 5, 4],
        32,
        250,
    )
    partial = moshi_config({"seanet": {"n_filters": 4}, "quantizer": {"n_q": 8}})
    assert partial == {
        **usual,
        "seanet": usual["seanet"] | {"n_filters": 4},
        "quantizer": usual["quantizer"] | {"n_q": 8},
    }


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 10**9},
        {"num_residual_layers": 10**9},
        {"num_quantizers": 10**9},
        {"hidden_size": 2**40},
        {"upsampling_ratios": [2] * 100},
        {"upsampling_ratios": [0, 2]},
    ],
)
def test_codecs_of_impossible_sizes_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not a configuration of Mimi"):
        read_codec_config({"model_type": "mimi", **values}, tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"pad_mode": "replicate"},
        {"use_causal_conv": False},
        {"num_quantizers": 1},
        {"hidden_size": "wide"},
        {"codebook_size": None},
    ],
)
def test_other_codecs_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ModelUnavailable, match="configuration"):
        load_mimi(MIMI / "weights_transformers.safetensors", config("transformers") | values)


def test_fewer_codebooks_and_length_one(codec: Codec) -> None:
    assert codec.decode(CODES[:, :1, :1]).shape == (1, 1, 1920)
    assert codec.decode(CODES[:, :, :0]).shape == (1, 1, 0)
    assert codec.encode(torch.zeros(1, 1, 1)).shape == (1, 8, 1)
    assert codec.encode(torch.zeros(2, 1, 1921)).shape == (2, 8, 2)
    assert codec.encode(torch.zeros(1, 1, 0)).shape == (1, 8, 0)


def test_bad_codes_and_waves(codec: Codec) -> None:
    with pytest.raises(InvalidInput, match=r"0\.\.31"):
        codec.decode(torch.full((1, 8, 1), 32))
    with pytest.raises(InvalidInput, match="up to 8"):
        codec.decode(CODES[:, :, :3].repeat(1, 2, 1))
    with pytest.raises(InvalidInput, match="wanted \\[batch, 1, samples\\]"):
        codec.encode(torch.zeros(1, 2, 1920))
    with codec.streaming(2) as stream, pytest.raises(InvalidInput, match="batch 1 in a stream of 2"):
        stream.decode(CODES[:, :, :1])


def test_a_failed_step_can_be_repeated(codec: Codec) -> None:
    stream = codec.open_stream()
    first = stream.decode(CODES[:, :, :3])
    with pytest.raises(InvalidInput):
        stream.decode(torch.full((1, 8, 1), 99))
    rest = stream.decode(CODES[:, :, 3:])
    assert np.allclose(torch.cat([first, rest], 2), EXPECTED["decoded"], atol=1e-4)


def test_incomplete_checkpoints_are_named(tmp_path: Path) -> None:
    for layout, name in (
        ("moshi", "upsample.convtr.convtr.convtr.weight"),
        ("transformers", "decoder_transformer.layers.1.self_attn.k_proj.weight"),
    ):
        tensors = load_file(MIMI / f"weights_{layout}.safetensors")
        del tensors[name]
        save_file(tensors, tmp_path / "mimi.safetensors")
        with pytest.raises(ModelUnavailable, match=name.replace(".", r"\.")):
            load_mimi(tmp_path, config("moshi"))
    save_file({"x": torch.ones(1)}, tmp_path / "mimi.safetensors")
    with pytest.raises(ModelUnavailable, match="holds no Mimi weights"):
        load_mimi(tmp_path)
    (tmp_path / "config.json").write_text("[", encoding="utf-8")
    with pytest.raises(ModelUnavailable, match=r"config\.json cannot be read"):
        load_mimi(tmp_path)
