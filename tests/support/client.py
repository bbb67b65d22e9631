"""What tests send to a running server and what they read in its refusals."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.server import Running
from tests.support.waiting import LIMIT

KEY = {"api-key": "k"}


def post(server: Running, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
    """POST a JSON body with a key."""
    return httpx.post(server.url + path, json=body, headers=KEY, timeout=LIMIT, **options)


def error_document(answer: httpx.Response) -> dict[str, Any]:
    """The error in an answer, once it has the shape that OpenAI and Azure give theirs."""
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert set(document) == {"error"}
    error: dict[str, Any] = document["error"]
    assert set(error) >= {"code", "message", "type", "param"}
    assert isinstance(error["message"], str)
    return error


def error_of(answer: httpx.Response, status: int = 400) -> tuple[str | None, str | None]:
    """Parameter and code of a refusal with that status."""
    assert answer.status_code == status, answer.text
    error = error_document(answer)
    return error["param"], error["code"]
