"""The load that `speech-gateway bench` makes, and its arithmetic."""

from __future__ import annotations

import json

import pytest

from app.commands.bench import Call, summary
from app.errors import Overloaded
from tests.app.commands.conftest import Run
from tests.support.server import Running


def test_figures_are_over_the_requests_that_went_well() -> None:
    calls = [Call(seconds / 10, {"model": 100.0 * seconds}) for seconds in range(1, 11)] + [Call(9.0, {}, "429")]
    result = summary(calls, clients=2, wall=5.0)
    assert (result.requests, result.failed, result.per_second) == (11, 1, 2.0)
    assert (result.median, result.p95, result.slowest) == pytest.approx((0.6, 1.0, 1.0))
    assert result.stage_ms == {"model": pytest.approx(550.0)}


def test_no_request_went_well() -> None:
    result = summary([Call(1.0, {}, "no")], clients=1, wall=1.0)
    assert (result.failed, result.per_second, result.median, result.stage_ms) == (1, 0.0, 0.0, {})


def test_speech_is_measured(run: Run, served: Running) -> None:
    result = run("bench", "-m", "fake-tts", "--requests", "6", "--clients", "3", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["requests"], document["failed"]) == (6, 0)
    assert document["per_second"] > 0
    assert {"queue", "model", "encode"} <= set(document["stage_ms"])
    assert len(served.pool.requests) == 7  # one to warm up


def test_transcription_is_measured_as_a_table(run: Run, recording: str) -> None:
    result = run("bench", "-m", "fake-asr", "--file", recording, "--requests", "3")
    assert result.exit_code == 0, result.stderr
    assert "3, 2 at a time, 0 refused or failed" in result.stdout


def test_a_server_that_refuses_is_told(run: Run, served: Running) -> None:
    served.pool.refuse = Overloaded("Full.", retry_after=1)
    result = run("bench", "-m", "fake-tts")
    assert result.exit_code == 1
    assert "Full. (429)" in result.stderr
