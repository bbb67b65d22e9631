"""Switches that libraries read at their import stand before it, and calls that switch off come with it."""

from __future__ import annotations

import importlib
import os
from unittest.mock import Mock

import pytest

import backends.onnx_runtime
from backends.privacy import NO_TELEMETRY, disable_telemetry


def test_onnxruntime_comes_with_its_events_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what its builds for Windows know."""
    switch_off = Mock()
    monkeypatch.setattr("onnxruntime.disable_telemetry_events", switch_off)
    importlib.reload(backends.onnx_runtime)
    switch_off.assert_called_once_with()


def test_the_switches_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NO_TELEMETRY:
        monkeypatch.setenv(name, "on")
    disable_telemetry()
    assert {name: os.environ[name] for name in NO_TELEMETRY} == dict(NO_TELEMETRY)
