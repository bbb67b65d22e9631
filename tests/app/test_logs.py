"""Log lines: one JSON object each, the same for other libraries, and nothing secret in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app import logs
from app.config.settings import LogSettings


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, structure = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**structure)
    logging.getLogger("uvicorn.access").disabled = False
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)


def _lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json"))
    structlog.get_logger().info("request", request_id="r", status=200)
    logging.getLogger("somebody").warning("their words: %s", "x")
    ours, theirs = _lines(capsys.readouterr().err)
    assert (ours["event"], ours["request_id"], ours["status"], ours["level"]) == ("request", "r", 200, "info")
    assert (theirs["event"], theirs["level"]) == ("their words: x", "warning")
    assert "timestamp" in ours
    assert "timestamp" in theirs


def test_console_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="console"))
    structlog.get_logger().info("request", status=200)
    told = capsys.readouterr().err
    assert "request" in told
    assert "status=200" in told
    assert not told.startswith("{")


def test_the_level_holds_and_access_lines_of_the_server_are_off(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json", level="warning"))
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    logging.getLogger("uvicorn.access").warning("GET /?api-key=k")
    logging.getLogger("uvicorn.error").info("Started server process")
    assert [line["event"] for line in _lines(capsys.readouterr().err)] == ["loud"]


def test_fields_named_like_secrets_are_hidden_and_traces_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json"))
    try:
        raise ValueError("broken")
    except ValueError as error:
        structlog.get_logger().error("internal_error", api_key="k1", Authorization="Bearer k2", exc_info=error)
    text = capsys.readouterr().err
    (line,) = _lines(text)
    assert (line["api_key"], line["Authorization"]) == ("(hidden)", "(hidden)")
    assert "ValueError: broken" in str(line["exception"])
