"""What a request asks for against what its deployment does by default."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from backends.diffa.decoding import PRESETS, DecodingOptions, deployment_defaults, resolve
from backends.diffa.info import INFO, DiffaOptions
from backends.interface import InvalidInput
from backends.registry import UnknownOption, check_options

DEFAULTS = deployment_defaults(asdict(DiffaOptions()))


def test_the_default_is_prefix_cache_threshold_and_early_stop():
    assert DecodingOptions(128, 32, 128, 0.0, 0.0, "prefix", 0.9, None, True) == DEFAULTS


def test_presets_are_the_published_settings():
    shapes = {name: (p.steps, p.block_length, p.max_new_tokens) for name, p in PRESETS.items()}
    assert shapes == {"reference": (128, 32, 128), "mmsu": (4, 4, 4), "mmau": (16, 16, 16), "voicebench": (16, 16, 16)}
    assert resolve(DEFAULTS, {"preset": "mmau"}).options == PRESETS["mmau"]
    fast = resolve(DEFAULTS, {"preset": "mmau", "cache": "dual", "threshold": 0.8}).options
    assert (fast.steps, fast.cache, fast.threshold, fast.early_stop) == (16, "dual", 0.8, False)


def test_max_tokens_is_rounded_up_to_blocks_and_steps_follow():
    resolved = resolve(DEFAULTS, {}, max_tokens=40)
    assert (resolved.options.max_new_tokens, resolved.options.steps) == (64, 64)
    assert "40" in resolved.notes[0]
    assert "64" in resolved.notes[0]
    assert resolve(DEFAULTS, {}, max_tokens=64).notes == ()
    assert resolve(DEFAULTS, {"block_length": 8}, max_tokens=12).options.max_new_tokens == 16


def test_steps_keep_the_deployments_tokens_per_step():
    half = deployment_defaults(asdict(DiffaOptions(steps=64)))
    assert resolve(half, {}, max_tokens=32).options.steps == 16
    assert resolve(half, {"block_length": 16}).options.steps == 64


@pytest.mark.parametrize("off", [None, 0, "null", 0.0])
def test_a_rule_can_be_switched_off(off):
    options = resolve(DEFAULTS, {"threshold": off}).options
    assert (options.threshold, options.factor) == (None, None)


def test_a_factor_replaces_the_default_threshold():
    options = resolve(DEFAULTS, {"factor": 1.5}).options
    assert (options.threshold, options.factor) == (None, 1.5)
    by_factor = deployment_defaults(asdict(DiffaOptions(factor=1.0)))
    assert (by_factor.threshold, by_factor.factor) == (None, 1.0)
    assert resolve(by_factor, {"threshold": 0.7}).options.factor is None


def test_fields_of_a_form_are_strings():
    given = {
        "steps": "16",
        "block_length": "8",
        "max_new_tokens": "16",
        "cfg_scale": "0.5",
        "early_stop": "false",
        "cache": "none",
    }
    options = resolve(DEFAULTS, given).options
    assert (options.steps, options.block_length, options.cfg_scale, options.early_stop) == (16, 8, 0.5, False)


def test_the_requests_temperature_is_taken():
    assert resolve(DEFAULTS, {}, temperature=0.7).options.temperature == 0.7


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ({"steps": 30}, "steps", "multiple of the number of blocks"),
        ({"max_new_tokens": 100}, "max_new_tokens", "multiple of block_length"),
        ({"block_length": 0}, "block_length", "at least 1"),
        ({"max_new_tokens": -32}, "max_new_tokens", "at least 1"),
        ({"threshold": 1.5}, "threshold", "at most 1"),
        ({"threshold": -1}, "threshold", "above 0"),
        ({"threshold": 0.9, "factor": 1}, "factor", "exclude each other"),
        ({"factor": "inf"}, "factor", "above 0"),
        ({"cfg_scale": -1}, "cfg_scale", "0 or more"),
        ({"temperature": float("nan")}, "temperature", "0 or more"),
        ({"cache": "both"}, "cache", "none, prefix or dual"),
        ({"preset": "best"}, "preset", "mmsu"),
        ({"steps": "many"}, "steps", "decoding fields"),
        ({"step": 4}, "step", "decoding fields"),
    ],
    ids=str,
)
def test_broken_options_are_refused_with_their_rule(given, param, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        resolve(DEFAULTS, given)
    assert caught.value.param == param


def test_two_lengths_are_too_many():
    with pytest.raises(InvalidInput, match="not both"):
        resolve(DEFAULTS, {"max_new_tokens": 32}, max_tokens=32)
    with pytest.raises(InvalidInput, match="at least 1"):
        resolve(DEFAULTS, {}, max_tokens=0)


def test_a_deployments_broken_rule_is_told_at_load():
    with pytest.raises(InvalidInput, match="multiple of block_length"):
        deployment_defaults(asdict(DiffaOptions(max_new_tokens=100)))


def test_the_registry_checks_the_options():
    assert check_options(INFO, {"cache": "dual"})["cache"] == "dual"
    with pytest.raises(UnknownOption, match="cache"):
        check_options(INFO, {"cache": "all"})
