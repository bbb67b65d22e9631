"""Built-in deployments, the user's over them, aliases, and every mistake in between."""

from __future__ import annotations

from typing import Any

import pytest

from app.config.deployments import BUILTIN, BUILTIN_ALIASES, Deployments
from app.config.settings import ConfigError, Settings

FAKE = {"backend": "fake", "task": "speech"}


def _deployments(**tables: Any) -> Deployments:
    return Deployments.from_settings(Settings.model_validate(tables))


def _mistake(**tables: Any) -> str:
    with pytest.raises(ConfigError) as told:
        _deployments(**tables)
    return str(told.value)


def test_the_built_in_ones_are_there_with_their_aliases() -> None:
    known = _deployments()
    assert set(BUILTIN) == set(known)
    assert all(known[name].builtin for name in known)
    for alias, name in BUILTIN_ALIASES.items():
        assert known.resolve(alias) is known[name]


def test_a_models_dated_snapshot_is_the_model() -> None:
    known = _deployments()
    assert known.resolve("gpt-4o-mini-transcribe-2025-12-15") is known["whisper-1"]
    assert known.resolve("whisper-1-2025-12-15-2025-12-16") is known["whisper-1"]
    assert known.resolve("gpt-4o-mini-transcribe-2025") is known.resolve("-2025-12-15") is None


def test_multi_gigabyte_models_are_fetched_only_when_asked_for() -> None:
    known = _deployments()
    assert {name for name in known if known[name].auto_pull} == {"embedded-tts", "embedded-asr", "whisper-1"}


def test_models_that_must_be_fetched_have_an_embedded_one_that_answers_meanwhile() -> None:
    known = _deployments()
    assert {name: known[name].fallback for name in known if known[name].fallback} == {
        "whisper-1": "embedded-asr",
        "csm-1b": "embedded-tts",
        "llasa-1b": "embedded-tts",
    }


def test_embedded_asr_is_whisper_base_and_a_smaller_one_can_be_chosen() -> None:
    recognizer = _deployments()["embedded-asr"]
    assert (recognizer.info.name, recognizer.model, recognizer.engine, recognizer.device) == (
        "whisper",
        "whisper-base",
        "onnx",
        "cpu",
    )
    small = _deployments(deployments={"embedded-asr": {"model": "whisper-tiny.en"}})["embedded-asr"]
    assert (small.info.name, small.model, small.device) == ("whisper", "whisper-tiny.en", "cpu")


def test_the_users_keys_lie_over_a_built_in_deployment() -> None:
    changed = _deployments(deployments={"csm-1b": {"device": "cpu", "fallback": ""}})["csm-1b"]
    assert (changed.device, changed.fallback, changed.model, changed.builtin) == ("cpu", "", "sesame/csm-1b", False)


def test_another_backend_drops_the_built_in_keys() -> None:
    changed = _deployments(deployments={"csm-1b": {"backend": "fake", "task": "speech"}})["csm-1b"]
    assert (changed.model, changed.fallback, changed.auto_pull) == ("", "", True)


def test_names_may_hold_slashes_and_spaces() -> None:
    known = _deployments(deployments={"team/my asr": {"backend": "fake"}}, aliases={"a / b": "team/my asr"})
    assert known.resolve("a / b") is known["team/my asr"]
    assert known.resolve("nobody") is None


def test_options_are_checked_and_completed() -> None:
    options = _deployments(deployments={"x": {"backend": "fake", "delay": 0.5}})["x"].options
    assert (options["delay"], options["max_batch"]) == (0.5, 4)


def test_the_task_option_narrows_what_a_deployment_does() -> None:
    assert _deployments(deployments={"x": {"backend": "fake", "task": "chat"}})["x"].tasks == ("chat",)


def test_aliases_of_aliases_and_links_through_aliases_are_followed() -> None:
    known = _deployments(
        deployments={
            "x": {"backend": "fake", "task": "speech", "fallback": "voice"},
            "c": {"backend": "fake", "audio_deployment": "v2"},
        },
        aliases={"voice": "v2", "v2": "embedded-tts"},
    )
    assert known["x"].fallback == "embedded-tts"
    assert known["c"].audio_deployment == "embedded-tts"


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        ({"deployments": {"x": {"backend": "nope"}}}, ['[deployments."x"]', "backend", "nope", "known:"]),
        ({"deployments": {"x": {}}}, ['[deployments."x"]', "backend: is missing"]),
        ({"deployments": {"x": FAKE | {"bem_size": 3}}}, ['[deployments."x"]', "bem_size"]),
        ({"deployments": {"x": FAKE | {"delay": "long"}}}, ['[deployments."x"]', "delay"]),
        ({"deployments": {"x": FAKE | {"engine": "warp"}}}, ['[deployments."x"]', "engine", "warp"]),
        ({"deployments": {"x": FAKE | {"fallback": "ghost"}}}, ['[deployments."x"]', "fallback", "ghost"]),
        (
            {"deployments": {"x": FAKE | {"fallback": "embedded-asr"}}},
            ['[deployments."x"]', "fallback", "does not do speech"],
        ),
        ({"deployments": {"x": FAKE | {"fallback": "x"}}}, ['[deployments."x"]', "circle"]),
        (
            {"deployments": {"x": FAKE | {"fallback": "y"}, "y": FAKE | {"fallback": "x"}}},
            ["fallback", "circle", "x -> y -> x"],
        ),
        ({"deployments": {"x": FAKE | {"audio_deployment": "embedded-asr"}}}, ["audio_deployment", "does not speak"]),
        ({"aliases": {"a": "ghost"}}, ['[aliases] "a"', "ghost"]),
        ({"realtime": {"chat": "ghost"}}, ["[realtime] chat", "ghost"]),
        ({"realtime": {"speech": "whisper-1"}}, ["[realtime] speech", "no speech is done by 'whisper-1'"]),
        ({"aliases": {"a": "b", "b": "a"}}, ["[aliases]", "circle"]),
        ({"aliases": {"embedded-tts": "whisper-1"}}, ['[aliases] "embedded-tts"', "is the name of a deployment"]),
    ],
)
def test_mistakes_name_table_and_key(tables: dict[str, Any], parts: list[str]) -> None:
    told = _mistake(**tables)
    for part in parts:
        assert part in told


@pytest.mark.security
@pytest.mark.parametrize("name", ["a\x1b[2J", "two\nlines", "bell\x07", "\x9b31m", "a\u2028b"])
def test_a_name_that_would_steer_a_terminal_is_refused(name: str) -> None:
    for tables in ({"deployments": {name: {"backend": "fake"}}}, {"aliases": {name: "embedded-tts"}}):
        with pytest.raises(ConfigError, match="control character") as told:
            Deployments.from_settings(Settings.model_validate(tables))
        assert str(told.value).isprintable()


def test_names_of_other_languages_are_taken() -> None:
    settings = Settings.model_validate({"deployments": {"\u97f3\u58f0\u3000\u8a8d\u8b58": {"backend": "fake"}}})
    assert "\u97f3\u58f0\u3000\u8a8d\u8b58" in Deployments.from_settings(settings)
