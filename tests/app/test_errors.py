"""One shape for every error, whoever raised it, and what clients conclude from its headers."""

from __future__ import annotations

import json

import pytest
from starlette.exceptions import HTTPException

from app.errors import (
    ApiError,
    InvalidRequest,
    ModelUnavailable,
    ServiceUnavailable,
    WorkerLost,
    from_failure,
    from_http_exception,
    internal_error,
)
from backends.interface import Failed


def test_the_envelope_has_all_four_keys_and_the_inner_error_if_any() -> None:
    plain = InvalidRequest("no", param="language").body()["error"]
    assert plain == {"code": "invalid_value", "message": "no", "type": "invalid_request_error", "param": "language"}
    inner = {"code": "ResponsibleAIPolicyViolation"}
    assert InvalidRequest("no", code="content_filter", inner=inner).body()["error"]["innererror"] == inner


@pytest.mark.parametrize(
    ("failure", "kind", "status", "code"),
    [
        (Failed("invalid_input", "bad", "language", "invalid_value"), InvalidRequest, 400, "invalid_value"),
        (Failed("model_unavailable", "pull it"), ModelUnavailable, 503, "ModelUnavailable"),
        (Failed("out_of_memory", "full"), ServiceUnavailable, 503, "out_of_memory"),
        (Failed("worker_lost", "gone"), WorkerLost, 503, "worker_lost"),
    ],
)
def test_what_backends_report_keeps_its_meaning(failure: Failed, kind: type[ApiError], status: int, code: str) -> None:
    error = from_failure(failure)
    assert isinstance(error, kind)
    assert (error.status, error.code, error.message, error.param) == (status, code, failure.message, failure.param)
    assert ("retry-after" in error.response_headers()) == (status == 503)


def test_an_unexpected_failure_keeps_its_text_to_itself() -> None:
    error = from_failure(Failed("internal", "RuntimeError: /home/me/secret"))
    assert (error.status, error.code) == (500, "internal_server_error")
    assert "secret" not in error.message
    assert internal_error().status == 500


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "404"), (405, "405"), (400, "invalid_value"), (415, "invalid_value"), (500, "internal_server_error")],
)
def test_exceptions_of_the_framework_are_rendered_like_ours(status: int, code: str) -> None:
    error = from_http_exception(
        HTTPException(status, detail="inner words", headers={"allow": "GET"} if status == 405 else None)
    )
    assert (error.status, error.code) == (status, code)
    answer = error.response()
    assert set(json.loads(bytes(answer.body))) == {"error"}
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert (answer.headers.get("allow") == "GET") == (status == 405)


@pytest.mark.parametrize(
    ("seconds", "whole", "milliseconds"),
    [(0.0, "1", "1"), (0.2, "1", "200"), (3.2, "4", "3200"), (999, "120", "120000"), (-5, "1", "1")],
)
def test_retry_times_are_whole_seconds_within_what_clients_obey(seconds: float, whole: str, milliseconds: str) -> None:
    headers = ServiceUnavailable("later", retry_after=seconds).response_headers()
    assert (headers["retry-after"], headers["retry-after-ms"]) == (whole, milliseconds)


def test_clients_can_be_told_not_to_repeat() -> None:
    assert ModelUnavailable("absent", should_retry=False).response_headers()["x-should-retry"] == "false"
    assert ModelUnavailable("loading", should_retry=True).response_headers()["x-should-retry"] == "true"
    assert "x-should-retry" not in InvalidRequest("no").response_headers()
    assert "retry-after" not in InvalidRequest("no").response_headers()
