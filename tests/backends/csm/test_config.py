"""config.json in both vocabularies."""

import pytest

from backends.csm.config import parse_config
from backends.registry import backend_info, check_options
from backends.transformer.rope import Llama3Scaling, Rope
from backends.weights import required_models

PUBLISHED = Rope(500_000.0, Llama3Scaling(32.0, 1.0, 4.0, 8192.0))


def test_what_is_absent_is_as_published() -> None:
    for values in ({"backbone_flavor": "llama-1B", "decoder_flavor": "llama-100M"}, {"hidden_size": 2048}):
        config = parse_config(values)
        assert (config.codebooks, config.audio_vocabulary, config.text_vocabulary) == (32, 2051, 128_256)
        assert (config.backbone.layers, config.backbone.width, config.backbone.hidden) == (16, 2048, 8192)
        assert (config.decoder.layers, config.decoder.heads, config.decoder.head_dim) == (4, 8, 128)
        assert config.backbone.rope == config.decoder.rope == PUBLISHED
        assert config.allowed_codes == 2048


def test_absent_rope_scaling_is_llama3_and_default_is_plain() -> None:
    assert parse_config({"hidden_size": 2048, "rope_theta": 10.0}).backbone.rope == Rope(10.0, PUBLISHED.scaling)
    plain = parse_config({"hidden_size": 2048, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})
    assert plain.backbone.rope == Rope(7.0)


def test_old_and_new_names_of_rope_scaling() -> None:
    scaling = {
        "factor": 32.0,
        "low_freq_factor": 0.125,
        "high_freq_factor": 0.5,
        "original_max_position_embeddings": 1024,
    }
    expected = Rope(500_000.0, Llama3Scaling(32.0, 0.125, 0.5, 1024.0))
    new = {"hidden_size": 64, "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **scaling}}
    old = {"hidden_size": 64, "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **scaling}}
    assert parse_config(new).backbone.rope == parse_config(old).backbone.rope == expected


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"model_type": "llama"},
        {"backbone_flavor": "llama-8B"},
        {"hidden_size": 64, "rope_parameters": {"rope_type": "yarn"}},
        {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 3},
        {"hidden_size": 64, "head_dim": 7},
        {"hidden_size": 64, "num_codebooks": 1},
        {"hidden_size": 64, "num_hidden_layers": 0},
        {"hidden_size": 64, "vocab_size": 0},
        {"backbone": {"embed_dim": -64}},
        {"backbone": {"num_layers": 10**9}},
        {"hidden_size": 64, "num_hidden_layers": 10**9},
        {"hidden_size": 64, "num_codebooks": 10**9},
        {"hidden_size": 64, "intermediate_size": 2**50},
        {"hidden_size": 64, "text_vocab_size": 2**50},
        {"hidden_size": 64, "rms_norm_eps": float("nan")},
        {"hidden_size": 64, "depth_decoder_config": {"num_hidden_layers": 513}},
    ],
)
def test_other_things_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_config(values)


def test_a_deployment_without_a_watermark_needs_no_weights_for_it() -> None:
    info = backend_info("csm")
    for watermark, models in ((True, ["sesame/csm-1b", "sony/silentcipher"]), (False, ["sesame/csm-1b"])):
        options = check_options(info, {"watermark": watermark})
        assert [wanted.model for wanted in required_models(info, "", "", options)] == models
