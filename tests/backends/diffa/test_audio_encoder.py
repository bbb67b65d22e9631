"""The audio side against the reference's intermediates, its length policy, and what a folder must hold."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from backends.diffa.audio_encoder import encoder_frames, load_audio_encoder, mel_frames, required_names, tap_indices
from backends.interface import ASR_SAMPLE_RATE, InvalidInput, ModelUnavailable
from backends.transformer.checkpoint import Checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def audio_encoder(model):
    return model.audio_encoder


def test_log_mel_equals_the_reference(audio_encoder, samples, expected):
    mel = audio_encoder.features(samples).numpy()
    assert mel.shape == (80, 3000)
    np.testing.assert_allclose(mel[:, :400], expected["input_features"], atol=1e-5)
    np.testing.assert_allclose(mel[:, -4:], expected["input_features_pad_value"], atol=1e-5)
    again = WhisperFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    np.testing.assert_allclose(mel, again, atol=1e-5)


def test_encoder_taps_equal_the_reference(audio_encoder, samples, expected, case):
    with torch.no_grad():
        states, last = audio_encoder.encoder_states(audio_encoder.features(samples))
    some = expected["encoder_frame_index"]
    for tap, state in zip((2, 5, 8, 11), states, strict=True):
        np.testing.assert_allclose(state[some], expected[f"hidden_{tap}"], atol=5e-5)
    np.testing.assert_allclose(last[: case["encoder_frames"]], expected["encoder_last"], atol=5e-5)


def test_adapters_equal_the_reference(audio_encoder, samples, expected, case):
    with torch.no_grad():
        states, last = audio_encoder.encoder_states(audio_encoder.features(samples))
        acoustic, semantic = audio_encoder.acoustic(states), audio_encoder.semantic(last[: case["encoder_frames"]])
    np.testing.assert_allclose(acoustic, expected["acoustic"], atol=2e-5)
    np.testing.assert_allclose(semantic, expected["semantic"], atol=2e-5)
    np.testing.assert_allclose(audio_encoder.encode(samples).embeddings, expected["speech"], atol=2e-5)


def test_lengths(case, audio_encoder, samples):
    assert mel_frames(len(samples), 160) == case["mel_frames"]
    assert encoder_frames(case["mel_frames"]) == case["encoder_frames"]
    assert audio_encoder.tokens(len(samples)) == case["acoustic_tokens"] + case["semantic_tokens"]
    assert audio_encoder.tokens(10 * ASR_SAMPLE_RATE) == 189
    assert audio_encoder.tokens(30 * ASR_SAMPLE_RATE) == 439


@pytest.mark.parametrize(
    ("depth", "taps", "indices"),
    [(4, 4, [0, 1, 2, 3]), (12, 4, [2, 5, 8, 11]), (24, 4, [5, 11, 17, 23]), (32, 8, [3, 7, 11, 15, 19, 23, 27, 31])],
)
def test_taps_of_every_whisper_size(depth, taps, indices):
    assert tap_indices(depth, taps) == indices


def test_long_audio_is_encoded_in_pieces(audio_encoder, samples):
    whole = np.tile(samples, 12)[: 31 * ASR_SAMPLE_RATE]
    encoded = audio_encoder.encode(whole)
    window = audio_encoder.piece_samples
    parts = [audio_encoder.encode(part).embeddings for part in (whole[:window], whole[window:])]
    assert encoded.pieces == 2
    torch.testing.assert_close(encoded.embeddings, torch.cat(parts))
    assert len(encoded.embeddings) == 439 + 64 + 12 == audio_encoder.tokens(len(whole))


@pytest.mark.parametrize("length", [1, 160, 960, 1279])
def test_short_audio_is_lengthened_to_80_ms(audio_encoder, samples, length):
    encoded = audio_encoder.encode(samples[:length])
    padded = np.zeros(1280, np.float32)
    padded[:length] = samples[:length]
    torch.testing.assert_close(encoded.embeddings, audio_encoder.encode(padded).embeddings)
    assert encoded.padded
    assert len(encoded.embeddings) == 65 == audio_encoder.tokens(length)


@pytest.mark.parametrize(
    "bad", [np.zeros(0, np.float32), np.full(2000, np.nan, np.float32), np.zeros((2, 2000), np.float32)]
)
def test_unusable_samples_are_refused(audio_encoder, bad):
    with pytest.raises(InvalidInput):
        audio_encoder.encode(bad)


def test_read_only_samples_are_encoded(audio_encoder, samples):
    frozen = samples.copy()
    frozen.setflags(write=False)
    assert len(audio_encoder.encode(frozen).embeddings) == 98


# --- Folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path, data):
    """A copy of the adapter folder's config, and its tensors to be stored in some way."""
    (tmp_path / "config.json").write_bytes((data / "adapter" / "config.json").read_bytes())
    return tmp_path, load_file(data / "adapter" / "model.safetensors")


def embeddings_of(folder, data, samples):
    return load_audio_encoder(data / "whisper", folder, 64, CPU).encode(samples).embeddings


def test_the_published_pickle_with_foreign_keys(adapter, data, samples, expected):
    folder, tensors = adapter
    extra = {
        "whisper_model.encoder.conv1.weight": torch.ones(3),
        "llm_model.model.transformer.wte.weight": torch.ones(4),
    }
    torch.save(tensors | extra, folder / "pytorch_model.bin")
    np.testing.assert_allclose(embeddings_of(folder, data, samples), expected["speech"], atol=2e-5)


def test_an_old_style_pickle_and_bfloat16_values(adapter, data, samples, expected):
    folder, tensors = adapter
    narrow = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    torch.save(narrow, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    encoded = embeddings_of(folder, data, samples)
    assert encoded.dtype == torch.float32
    np.testing.assert_allclose(encoded, expected["speech"], atol=0.2)


def test_shards_with_an_index(adapter, data, samples, expected):
    folder, tensors = adapter
    names = sorted(tensors | {"llm_model.x": torch.ones(1)})
    tensors["llm_model.x"] = torch.ones(1)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, here in files.items():
        save_file({name: tensors[name].clone() for name in here}, folder / file)
    weight_map = {name: file for file, here in files.items() for name in here}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    np.testing.assert_allclose(embeddings_of(folder, data, samples), expected["speech"], atol=2e-5)
    (folder / "b.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"b\.safetensors"):
        embeddings_of(folder, data, samples)


def test_a_sharded_pickle(adapter, data, samples, expected):
    folder, tensors = adapter
    names = sorted(tensors)
    for file, here in (("a.bin", names[::2]), ("b.bin", names[1::2])):
        torch.save({name: tensors[name] for name in here}, folder / file)
    weight_map = dict.fromkeys(names[::2], "a.bin") | dict.fromkeys(names[1::2], "b.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    np.testing.assert_allclose(embeddings_of(folder, data, samples), expected["speech"], atol=2e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [("encoder_layers", 10**9), ("encoder_layers", "4"), ("d_model", 0), ("encoder_attention_heads", 2**40)],
)
def test_an_encoder_of_impossible_sizes_is_refused(data, tmp_path, key, value):
    shutil.copytree(data / "whisper", tmp_path / "whisper")
    file = tmp_path / "whisper" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {key: value}), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match=f"not a usable Whisper configuration.*{key} is"):
        load_audio_encoder(tmp_path / "whisper", data / "adapter", 64, torch.device("cpu"))


def test_a_pickle_of_something_else_is_refused(adapter, data, samples):
    folder, tensors = adapter
    torch.save(tensors | {"hook": shutil.rmtree}, folder / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="refused"):
        embeddings_of(folder, data, samples)


def test_seventy_one_tensors_are_demanded(data):
    names = required_names(Checkpoint.from_folder(data / "adapter"), 12)
    assert len(set(names)) == 71


@pytest.mark.parametrize(
    "name",
    [
        "acoustic_connector.layer_weights",
        "acoustic_connector.layer_prompts.2",
        "acoustic_connector.qformer.layer.1.crossattention.self.key.bias",
        "semantic_connector.linear_connector.2.weight",
    ],
)
def test_a_missing_adapter_tensor_is_named(adapter, data, samples, name):
    folder, tensors = adapter
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelUnavailable, match=name.replace(".", r"\.")):
        embeddings_of(folder, data, samples)


def test_a_truncated_file_is_told(adapter, data, samples):
    folder, tensors = adapter
    save_file(tensors, folder / "model.safetensors")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors"):
        embeddings_of(folder, data, samples)


def test_a_wrong_whisper_folder_is_told(tmp_path, data):
    with pytest.raises(ModelUnavailable, match="not a Whisper model"):
        load_audio_encoder(data / "llm", data / "adapter", 64, CPU)
    shutil.copytree(data / "whisper", tmp_path / "whisper")
    weights = tmp_path / "whisper" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.encoder.layers.7.fc1.bias"]
    save_file(tensors, weights)
    with pytest.raises(ModelUnavailable, match=r"model\.encoder\.layers\.7\.fc1\.bias"):
        load_audio_encoder(tmp_path / "whisper", data / "adapter", 64, CPU)


@pytest.mark.parametrize(("depth", "taps", "width", "heads"), [(4, 4, 24, 6), (24, 4, 16, 2), (32, 8, 16, 4)])
def test_other_whisper_sizes(tmp_path, samples, depth, taps, width, heads):
    """Tiny, medium and large have other taps; heads come from the adapter's config, the feed-forward from its
    tensors."""
    config = WhisperConfig(
        d_model=width, encoder_layers=depth, encoder_attention_heads=heads, encoder_ffn_dim=32, num_mel_bins=80,
        decoder_layers=1, decoder_attention_heads=1, decoder_ffn_dim=8, vocab_size=8, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = WhisperEncoder(config)
    whisper, adapter = tmp_path / "whisper", tmp_path / "adapter"
    config.save_pretrained(whisper)
    save_file(
        {f"model.encoder.{n}": t.contiguous() for n, t in encoder.state_dict().items()}, whisper / "model.safetensors"
    )
    adapter.mkdir()
    (adapter / "config.json").write_text(
        json.dumps({"whisper_config": {"d_model": width, "encoder_attention_heads": heads}}), encoding="utf-8"
    )
    save_file(random_adapter(width, taps, 40), adapter / "model.safetensors")
    audio_encoder = load_audio_encoder(whisper, adapter, 40, CPU)
    assert audio_encoder.taps == tap_indices(depth, taps)
    assert audio_encoder.acoustic.layers[0].self_attention.heads == heads
    assert audio_encoder.encode(samples).embeddings.shape == (98, 40)


def random_adapter(width: int, taps: int, out: int) -> dict[str, torch.Tensor]:
    linear = {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"}
    linear |= {f"cross{name}" for name in linear}
    shapes = {f"{name}.weight": (width, width) for name in linear} | {f"{name}.bias": (width,) for name in linear}
    for norm in ("attention.output", "crossattention.output", "output"):
        shapes |= {f"{norm}.LayerNorm.weight": (width,), f"{norm}.LayerNorm.bias": (width,)}
    shapes |= {"intermediate.dense.weight": (96, width), "intermediate.dense.bias": (96,)}
    shapes |= {"output.dense.weight": (width, 96), "output.dense.bias": (width,)}
    acoustic = {f"qformer.layer.{n}.{name}": shape for n in range(2) for name, shape in shapes.items()}
    acoustic |= {f"layer_prompts.{n}": (1, 64, width) for n in range(taps)} | {"layer_weights": (64, taps)}
    acoustic |= {
        "proj.0.weight": (width,),
        "proj.0.bias": (width,),
        "proj.1.weight": (out, width),
        "proj.1.bias": (out,),
    }
    semantic = {"conv.0.weight": (width, width, 3), "conv.0.bias": (width,), "conv.2.weight": (4 * width, width, 3)}
    semantic |= {
        "conv.2.bias": (4 * width,),
        "linear_connector.0.weight": (width, 4 * width),
        "linear_connector.0.bias": (width,),
    }
    semantic |= {"linear_connector.2.weight": (out, width), "linear_connector.2.bias": (out,)}
    semantic |= {"layernorm.weight": (out,), "layernorm.bias": (out,)}
    names = {f"acoustic_connector.{n}": s for n, s in acoustic.items()} | {
        f"semantic_connector.{n}": s for n, s in semantic.items()
    }
    return {name: torch.randn(shape) * 0.1 for name, shape in names.items()}
