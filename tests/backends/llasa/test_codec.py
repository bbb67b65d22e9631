"""X-Codec-2: parity with the published implementation, every key layout, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor, Xcodec2Config, Xcodec2Model

from backends.interface import InvalidInput, ModelUnavailable
from backends.llasa import codec as codec_module
from backends.llasa.codec import Codec, load_codec
from backends.llasa.xcodec2.config import read_dims
from backends.llasa.xcodec2.features import semantic_features
from backends.llasa.xcodec2.layouts import native_name
from tests.backends.llasa.folders import DATA, write_codec

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def codec(codec_folder: Path) -> Codec:
    return load_codec(codec_folder)


# --- parity -----------------------------------------------------------------------------------------------------------


def test_decode_gives_the_reference_wave(codec: Codec, codec_expected: dict[str, np.ndarray]) -> None:
    wave = codec.decode(torch.from_numpy(codec_expected["dec_37_codes"]))
    assert wave.shape == (1, 1, 37 * 320)
    np.testing.assert_allclose(wave.numpy(), codec_expected["dec_37_wav"], atol=1e-5)


def test_encode_gives_the_reference_codes(codec: Codec, codec_expected: dict[str, np.ndarray]) -> None:
    codes = codec.encode(codec_expected["enc_a_wav"])
    assert codes.dtype == torch.int32
    np.testing.assert_array_equal(codes.numpy(), codec_expected["enc_a_codes"])
    np.testing.assert_allclose(codec.decode(codes).numpy(), codec_expected["enc_a_recon"], atol=1e-5)


def test_every_stage_of_the_encoder_agrees(codec: Codec, codec_expected: dict[str, np.ndarray]) -> None:
    encoder = codec.load_encoder()
    padded = encoder.padded(torch.from_numpy(codec_expected["enc_a_wav"]))
    with torch.inference_mode():
        features = semantic_features(padded)
        hidden = encoder._semantic(features)
        stages = {
            "input_features": features,
            "semantic_hidden16": hidden,
            "semantic_encoded": encoder._adapter(hidden),
            "acoustic_emb": encoder._acoustic(padded[None, None]).transpose(1, 2),
        }
    for name, value in stages.items():
        np.testing.assert_allclose(value.numpy(), codec_expected[f"enc_a_{name}"], atol=1e-3, err_msg=name)


def test_features_are_those_of_the_published_extractor() -> None:
    wave = np.random.default_rng(3).normal(size=4 * 320 * 10).astype(np.float32) * 0.1
    wave[5000:] = 0
    reference = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2, padding_value=1.0)
    expected = reference(np.pad(wave, (160, 160)), sampling_rate=16_000, return_tensors="np")["input_features"]
    np.testing.assert_allclose(semantic_features(torch.from_numpy(wave)).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 640])
def test_a_clip_has_one_frame_more_than_its_whole_hops(codec: Codec, samples: int) -> None:
    wave = np.random.default_rng(samples).normal(size=samples).astype(np.float32) * 0.1
    assert codec.encode(wave).shape == (1, 1, samples // 320 + 1)


def test_a_clip_may_be_read_only_or_reversed(codec: Codec) -> None:
    wave = np.random.default_rng(1).normal(size=900).astype(np.float32) * 0.1
    message = np.frombuffer(wave.tobytes(), np.float32)
    torch.testing.assert_close(codec.encode(message), codec.encode(wave))
    torch.testing.assert_close(codec.encode(wave[::-1]), codec.encode(wave[::-1].copy()))


def test_a_batch_encodes_like_single_clips(codec: Codec, codec_expected: dict[str, np.ndarray]) -> None:
    wave = codec_expected["enc_a_wav"]
    clips = [wave, wave[:9000], wave[100:5000], wave[:9100]]
    for clip, codes in zip(clips, codec.encode_batch(clips), strict=True):
        torch.testing.assert_close(codes, codec.encode(clip), rtol=0, atol=0)


def test_bfloat16_stays_near(codec_folder: Path, codec_expected: dict[str, np.ndarray]) -> None:
    wave = load_codec(codec_folder, dtype=torch.bfloat16).decode(torch.from_numpy(codec_expected["dec_37_codes"]))
    assert wave.dtype == torch.float32
    expected = torch.from_numpy(codec_expected["dec_37_wav"])
    assert torch.nn.functional.cosine_similarity(wave.flatten(), expected.flatten(), 0) > 0.995


# --- layouts ----------------------------------------------------------------------------------------------------------


def parametrised(tensors: Tensors) -> Tensors:
    """The layout of the Anime checkpoints."""
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"\.weight_g$", ".parametrizations.weight.original0", name)
        name = re.sub(r"\.weight_v$", ".parametrizations.weight.original1", name)
        renamed[re.sub(r"\.act\.beta$", ".act.bias", name)] = tensor
    return renamed


def native(tensors: Tensors, early: bool = False) -> Tensors:
    """The layout of transformers' class: folded convolutions, separate q, k, v, no buffers, 16 semantic layers."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        if re.search(r"\.filter$|istft\.window$|encoder\.layers\.1[67]\.|weight_g$", name):
            continue
        if name.endswith(".weight_v"):
            gain = tensors[name.removesuffix("v") + "g"]
            renamed[native_name(name.removesuffix("_v"))] = gain * tensor / tensor.norm(dim=(1, 2), keepdim=True)
        elif name.endswith("att.c_attn.weight"):
            stem = native_name(name).removesuffix("att.c_attn.weight")
            renamed.update({f"{stem}self_attn.{p}_proj.weight": t for p, t in zip("qkv", tensor.chunk(3), strict=True)})
        else:
            renamed[native_name(name)] = tensor
    if early:
        swaps = (("acoustic_decoder.", "decoder."), ("acoustic_encoder.", "encoder."))
        renamed = {next((n + k.removeprefix(o) for o, n in swaps if k.startswith(o)), k): t for k, t in renamed.items()}
    return renamed


def native_config() -> dict[str, Any]:
    """The fixture's dimensions as transformers' class states them."""
    semantic = json.loads((DATA / "codec" / "semantic_config.json").read_text(encoding="utf-8"))
    return {
        "model_type": "xcodec2",
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "encoder_hidden_size": 4,
        "quantization_dim": 96,
        "semantic_model_config": {**semantic, "num_hidden_layers": 16},
    }


@pytest.mark.parametrize(
    ("rename", "config"),
    [
        (parametrised, None),
        (native, None),
        (native, native_config()),
        (lambda tensors: native(tensors, early=True), native_config()),
    ],
    ids=["parametrizations", "native names", "native names and config", "first native names"],
)
def test_every_published_layout(
    rename: Any, config: Any, tmp_path: Path, codec_tensors: Tensors, codec_expected: dict[str, np.ndarray]
) -> None:
    codec = load_codec(write_codec(tmp_path, rename(codec_tensors), config))
    wave = codec.decode(torch.from_numpy(codec_expected["dec_37_codes"]))
    np.testing.assert_allclose(wave.numpy(), codec_expected["dec_37_wav"], atol=1e-5)
    np.testing.assert_array_equal(codec.encode(codec_expected["enc_a_wav"]).numpy(), codec_expected["enc_a_codes"])


@pytest.fixture(scope="module")
def oracle() -> Xcodec2Model:
    """Transformers' own class, other widths than the fixture and a different random seed."""
    torch.manual_seed(11)
    semantic = {
        "model_type": "wav2vec2-bert",
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "output_hidden_size": 48,
        "feature_projection_input_dim": 160,
    }
    config = Xcodec2Config(
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=16,
        encoder_hidden_size=6,
        quantization_dim=144,
        semantic_model_config=semantic,
    )
    model = Xcodec2Model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("alpha", "beta")):
                parameter.normal_(std=0.3)
    return model


def test_transformers_own_class_agrees(oracle: Xcodec2Model, tmp_path: Path) -> None:
    oracle.save_pretrained(tmp_path)
    codec = load_codec(tmp_path)
    codes = torch.randint(0, 65_536, (2, 1, 21), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = oracle.decode(codes).audio_values
    torch.testing.assert_close(codec.decode(codes), expected, atol=1e-5, rtol=0)
    padded = codec.load_encoder().padded(torch.randn(5000, generator=torch.Generator().manual_seed(5)) * 0.1)
    with torch.no_grad():
        expected_codes = oracle.encode(padded[None, None], semantic_features(padded)).audio_codes
    assert torch.equal(codec.encode(padded[:5000]), expected_codes)


# --- what is loaded and what is refused -------------------------------------------------------------------------------


def test_a_start_reads_no_tensor_of_the_encoder(codec_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    take = codec_module.Checkpoint.take
    monkeypatch.setattr(
        codec_module.Checkpoint, "take", lambda self, name, shape: read.append(name) or take(self, name, shape)
    )
    codec = load_codec(codec_folder)
    assert read
    assert not [name for name in read if name.startswith(("semantic", "Semantic", "CodecEnc", "fc_prior"))]
    assert not codec.encoder_loaded


def test_missing_tensors_are_named(tmp_path: Path, codec_tensors: Tensors) -> None:
    lost = ("generator.backbone.embed.bias", "generator.backbone.transformers.1.mlp.fc2.weight")
    folder = write_codec(tmp_path, {name: tensor for name, tensor in codec_tensors.items() if name not in lost})
    with pytest.raises(ModelUnavailable) as caught:
        load_codec(folder)
    assert all(name in caught.value.message for name in lost)


def test_untrained_snake_betas_are_an_error_not_a_warning(tmp_path: Path, codec_tensors: Tensors) -> None:
    name = "CodecEnc.conv_blocks.3.block.1.block.2.act.beta"
    folder = write_codec(tmp_path, {key: tensor for key, tensor in codec_tensors.items() if key != name})
    codec = load_codec(folder)
    with pytest.raises(ModelUnavailable, match=re.escape(name)):
        codec.encode(np.zeros(1000, np.float32))


def test_a_missing_semantic_tensor_is_named(tmp_path: Path, codec_tensors: Tensors) -> None:
    name = "semantic_model.encoder.layers.15.ffn2.output_dense.bias"
    folder = write_codec(tmp_path, {key: tensor for key, tensor in codec_tensors.items() if key != name})
    with pytest.raises(ModelUnavailable, match=re.escape(name)):
        load_codec(folder, encoder=True)


def test_another_decoder_is_refused(tmp_path: Path, codec_tensors: Tensors) -> None:
    more = {**codec_tensors, "generator.backbone.upsampler.0.weight": torch.zeros(2)}
    with pytest.raises(ModelUnavailable, match=r"upsampler.*44\.1 kHz"):
        load_codec(write_codec(tmp_path / "more", more))
    wide = {**codec_tensors, "generator.head.out.weight": torch.zeros(1766, 64)}
    with pytest.raises(ModelUnavailable, match=r"44\.1 kHz"):
        load_codec(write_codec(tmp_path / "wide", wide))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_attention_heads", 0),
        ("hidden_size", "1024"),
        ("quantization_levels", [4] * 1000),
        ("downsampling_ratios", [1000] * 8),
        ("semantic_model_config", {"num_hidden_layers": 10**9}),
        ("semantic_model_config", [1]),
    ],
)
def test_a_codec_of_impossible_sizes_is_refused(tmp_path: Path, key: str, value: object) -> None:
    config = {"model_type": "xcodec2", "hidden_size": 1024, "num_attention_heads": 16, key: value}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="not a usable X-Codec-2 configuration"):
        read_dims(tmp_path)


def test_a_folder_of_another_model_is_refused(lm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not an X-Codec-2 codec"):
        load_codec(lm_folder)
    with pytest.raises(ModelUnavailable, match="no codec folder"):
        load_codec(tmp_path / "nothing")


@pytest.mark.parametrize(
    "codes", [torch.zeros(1, 1, 0), torch.zeros(1, 2, 3), torch.full((1, 1, 2), 65_536), torch.full((1, 1, 2), -1)]
)
def test_impossible_codes_are_refused(codec: Codec, codes: torch.Tensor) -> None:
    with pytest.raises(InvalidInput):
        codec.decode(codes.long())


def test_codes_are_whole_numbers(codec: Codec) -> None:
    with pytest.raises(InvalidInput, match="whole numbers"):
        codec.decode(torch.tensor([[[1.5]]]))


@pytest.mark.parametrize("wave", [np.zeros(0, np.float32), np.zeros((2, 500), np.float32), np.zeros(500, np.int16)])
def test_impossible_clips_are_refused(codec: Codec, wave: np.ndarray) -> None:
    with pytest.raises(InvalidInput):
        codec.encode(wave)
