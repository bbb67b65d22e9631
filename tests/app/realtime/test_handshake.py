"""Every form in which clients open a session, and what they are told where none is opened."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.live_pool import connected, realtime_server
from tests.support.server import Running
from tests.support.waiting import wait_until

KEYED = {"server": {"api_keys": [{"name": "one", "key": "secret"}]}}


def _kind(server: Running, target: str, **options: Any) -> str:
    with connected(server, target, **options) as socket:
        return str(socket.seen[0]["session"].get("object"))


def _refusal(server: Running, target: str, **options: Any) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as refused, connected(server, target, **options):
        pass
    answer = refused.value.response
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    return answer.status_code, json.loads(answer.body)["error"]


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/v1/realtime?model=gpt-realtime", "realtime"),
        ("/v1/realtime?intent=transcription", "transcription"),
        ("/v1/realtime?intent=transcription&model=fake-asr", "transcription"),
        ("/v1/realtime?model=gpt-4o-realtime-preview&intent=transcription", "transcription"),
        ("/openai/v1/realtime?model=fake-chat", "realtime"),
        ("/openai/v1/realtime?intent=transcription", "transcription"),
        ("/openai/v1/realtime?model=gpt-realtime-2.1&api-version=2025-04-01-preview", "realtime"),
        ("/openai/realtime?api-version=2025-04-01-preview&deployment=gpt-realtime", "realtime"),
        ("/openai/realtime?intent=transcription&api-version=2025-03-01-preview&deployment=diffa", "transcription"),
        ("/openai/realtime?api-version=2025-04-01-preview&intent=transcription", "transcription"),
        ("/realtime?model=gpt-realtime-mini", "realtime"),
        ("/api/v1/realtime?model=gpt-realtime", "realtime"),
        ("/v1/realtime?intent=transcription&transcription_model=fake-asr&language=en", "transcription"),
        ("/v1/realtime", "realtime"),
    ],
)  # fmt: skip
def test_addresses(server: Running, target: str, kind: str) -> None:
    name = "realtime.session" if kind == "realtime" else "realtime.transcription_session"
    assert _kind(server, target) == name


def test_the_first_update_decides_where_the_address_does_not(server: Running) -> None:
    with connected(server, "/v1/realtime") as socket:
        assert socket.update("transcription")["type"] == "transcription"
        socket.send("session.update", session={"type": "realtime"})
        assert socket.until("error")["error"]["param"] == "session.type"


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v1/realtime?model=gpt-realtime-whisper", 400, "OpperationNotSupported"),
        ("/v1/realtime?model=fake-asr", 400, "OpperationNotSupported"),
        ("/v1/realtime?model=fake-tts", 400, "OpperationNotSupported"),
        ("/v1/realtime?intent=transcription&model=fake-tts", 400, "OpperationNotSupported"),
        ("/v1/realtime?model=nobody", 404, "model_not_found"),
        ("/openai/v1/realtime?model=nobody", 404, "DeploymentNotFound"),
        ("/v1/realtime?call_id=c", 404, "404"),
        ("/v1/realtime/translations?model=gpt-realtime-translate", 404, "404"),
        ("/v1/live", 404, "404"),
        ("/v1/models", 404, "404"),
        ("/openai/realtime?deployment=gpt-realtime", 404, "404"),
        ("/openai/realtime?deployment=gpt-realtime&api-version=1999-01-01", 404, "404"),
    ],
)
def test_refusals_carry_status_and_error(server: Running, target: str, status: int, code: str) -> None:
    answered, error = _refusal(server, target)
    assert (answered, error["code"]) == (status, code)


def test_keys() -> None:
    target = "/v1/realtime?intent=transcription"
    with realtime_server(**KEYED) as server:
        for headers in ({"authorization": "Bearer secret"}, {"api-key": "secret"}):
            assert _kind(server, target, additional_headers=headers)
        for query in ("api-key", "api_key"):
            assert _kind(server, f"{target}&{query}=secret", additional_headers={})
        status, error = _refusal(server, target, additional_headers={})
        assert (status, error["type"]) == (401, "invalid_request_error")
        assert _refusal(server, target, key="wrong")[1]["code"] == "invalid_api_key"
        assert _refusal(server, target, key="ek_unknown")[0] == 401


def test_a_key_as_subprotocol_is_taken_and_never_sent_back() -> None:
    with realtime_server(**KEYED) as server:
        offered = ["realtime", "openai-insecure-api-key.secret", "openai-beta.realtime-v1"]
        with connected(server, subprotocols=offered, additional_headers={}) as socket:
            assert socket.connection.subprotocol == "realtime"
            assert "secret" not in str(socket.connection.response.headers)
            assert socket.seen[0]["type"] == "transcription_session.created"
        wrong = ["realtime", "openai-insecure-api-key.other"]
        assert _refusal(server, "/v1/realtime", subprotocols=wrong, additional_headers={})[0] == 401


def test_the_previews_subprotocol_is_chosen_where_it_is_the_only_one(server: Running) -> None:
    """A client that offered some and is given none breaks off."""
    with connected(server, subprotocols=["openai-insecure-api-key.k", "openai-beta.realtime-v1"]) as socket:
        assert socket.connection.subprotocol == "openai-beta.realtime-v1"


@pytest.mark.parametrize(
    ("origin", "allowed"), [("http://localhost:3000", True), ("https://evil.example", False), ("null", False)]
)
def test_foreign_pages_open_nothing(server: Running, origin: str, allowed: bool) -> None:
    headers = {"origin": origin, "api-key": "k"}
    if allowed:
        assert _kind(server, "/v1/realtime", additional_headers=headers)
    else:
        assert _refusal(server, "/v1/realtime", additional_headers=headers)[1]["code"] == "origin_not_allowed"


def test_limits_of_sessions() -> None:
    with realtime_server(realtime={"sessions": 2, "sessions_per_key": 1}) as server:
        with connected(server, key="a"):
            status, error = _refusal(server, "/v1/realtime", key="a")
            assert (status, "This key" in error["message"]) == (429, True)
            with connected(server, key="b"):
                assert _refusal(server, "/v1/realtime", key="c")[0] == 429
            shown = httpx.get(f"{server.url}/health").json()["realtime"]
            assert shown["limits"]["sessions"] == 2
        wait_until(lambda: httpx.get(f"{server.url}/health").json()["realtime"]["sessions"] == 0)
        assert _kind(server, "/v1/realtime", key="a")


def test_without_an_upgrade_the_answer_says_what_is_missing(server: Running) -> None:
    answer = httpx.get(f"{server.url}/v1/realtime?model=gpt-realtime", headers={"api-key": "k"})
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")


def test_a_shutdown_ends_sessions_with_1001() -> None:
    with realtime_server() as server, connected(server) as socket:
        server.do(server.gateway.realtime.drain)
        with pytest.raises(ConnectionClosed) as closed:
            socket.until("never")
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the server is shutting down")


def test_idle_and_long_sessions_are_closed_with_a_reason() -> None:
    with realtime_server(realtime={"idle_seconds": 0.05}) as server, connected(server) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.until("never")
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, "nothing came" in closed.value.rcvd.reason) == (1000, True)
    with realtime_server(realtime={"session_seconds": 0.05}) as server, connected(server) as socket:
        assert socket.until("error")["error"]["code"] == "session_expired"
        with pytest.raises(ConnectionClosed) as closed:
            socket.until("never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000
