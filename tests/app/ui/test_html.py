"""What the page says: in plain words, complete, and with everything from outside escaped."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from app.serving.interfaces import DeploymentState
from app.ui import html

HOSTILE = "<script>alert(1)</script>"


def _deployment(**more: Any) -> dict[str, Any]:
    plain = {
        "backend": "whisper",
        "model": "a/model",
        "engine": "auto",
        "device": "auto",
        "dtype": "auto",
        "reason": "",
        "error": None,
    }
    return (
        plain
        | {"state": "unloaded", "footprint_bytes": 0, "jobs_active": 0, "queue_depth": 0, "real_time_factor": None}
        | more
    )


def _health(**more: Any) -> dict[str, Any]:
    device = {"id": "cpu", "name": "A processor", "memory_used_bytes": 512 * 2**20, "budget_bytes": 2 * 2**30}
    plain = {"status": "ok", "version": "1.2.3", "uptime_seconds": 45.0, "in_flight": 0, "devices": [device]}
    return plain | {"deployments": {"one": _deployment()}} | more


def test_the_strip_says_how_full_and_how_busy() -> None:
    loaded = {"one": _deployment(state="busy"), "two": _deployment(state="ready"), "three": _deployment(state="absent")}
    shown = html.strip(_health(deployments=loaded, in_flight=1))
    for text in ("Ready", "512 MiB of 2.0 GiB", "2 models loaded", "1 request running"):
        assert text in shown


@pytest.mark.parametrize("state", get_args(DeploymentState))
def test_every_state_has_words_of_its_own(state: str) -> None:
    assert state in html.STATES
    assert html.state_text(state) in html.health(_health(deployments={"one": _deployment(state=state)}))


def test_a_card_tells_where_it_runs_and_why() -> None:
    running = _deployment(
        state="busy",
        engine="onnx",
        device="directml:0",
        dtype="float32",
        reason="fastest of two",
        footprint_bytes=3 * 2**30,
    )
    shown = html.health(
        _health(deployments={"one": running | {"real_time_factor": 0.125, "jobs_active": 2, "queue_depth": 1}})
    )
    for text in (
        "onnx on directml:0 in float32",
        "fastest of two",
        "3.0 GiB",
        "0.12 s of work",
        "2 running, 1 waiting",
    ):
        assert text in shown
    assert "None" not in shown


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12_000, "3 h 20 min")])
def test_how_long_it_has_been_up(seconds: float, text: str) -> None:
    assert f"up {text}" in html.health(_health(uptime_seconds=seconds))


def test_a_device_without_a_budget_is_empty_and_no_error() -> None:
    device = {"id": "x", "name": "none", "memory_used_bytes": 0, "budget_bytes": 0}
    assert "width:0%" in html.health(_health(devices=[device]))


def test_the_note_names_stand_ins_remarks_and_what_was_ignored() -> None:
    headers = {
        "x-gateway-model-ms": "1250",
        "x-gateway-engine": "onnx",
        "x-gateway-device": "cpu",
        "x-gateway-dtype": "int8",
    }
    told = {"x-gateway-fallback": "embedded-tts", "x-gateway-note": "The end was cut.", "x-gateway-ignored": "speed"}
    shown = html.note(headers | told)
    for text in ("1.25 s", "onnx cpu int8", "embedded-tts", "The end was cut.", "Not used here: speed"):
        assert text in shown
    assert "Inference time" in html.note({})


def test_words_come_before_segments_and_neither_is_nothing() -> None:
    segment = {"start": 0.5, "end": 2.0, "text": "both words"}
    words = [{"word": "both", "start": 0.5, "end": 1.0}]
    assert "0.50" in html.times({"words": words, "segments": [segment]})
    assert "both words" not in html.times({"words": words, "segments": [segment]})
    assert "0.50 to 2.00" in html.times({"segments": [segment]})
    assert html.times({}) == ""


@pytest.mark.parametrize(
    "shown",
    [
        html.problem(HOSTILE),
        html.unreachable(HOSTILE),
        html.note({"x-gateway-note": HOSTILE, "x-gateway-fallback": HOSTILE, "x-gateway-engine": HOSTILE}),
        html.times({"words": [{"word": HOSTILE, "start": 0.0}]}),
        html.times({"segments": [{"text": HOSTILE, "start": 0.0, "end": 1.0}]}),
        html.health(_health(deployments={HOSTILE: _deployment(error=HOSTILE, state=HOSTILE, device=HOSTILE)})),
        html.strip(_health(status=HOSTILE)),
    ],
)
def test_nothing_from_outside_becomes_markup(shown: str) -> None:
    assert HOSTILE not in shown
    assert "&lt;script&gt;" in shown
