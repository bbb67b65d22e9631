"""What supervisors and people are told, and the counts behind it."""

from __future__ import annotations

import httpx
import pytest

from app.errors import ServiceUnavailable
from app.serving import canaries
from tests.support.server import FAKES, Running, fake_settings, running

KEY = {"api-key": "any"}
TOP = {"status", "version", "uptime_seconds", "devices", "deployments", "in_flight", "realtime"}
ROW = {
    "backend",
    "model",
    "engine",
    "device",
    "dtype",
    "reason",
    "state",
    "error",
    "fallback",
    "footprint_bytes",
    "jobs_active",
}
ROW |= {"queue_depth", "live_sessions", "real_time_factor", "last_used"}
DEVICE = {"id", "kind", "name", "memory_total_bytes", "memory_used_bytes", "budget_bytes"}


def test_the_document_has_the_promised_keys(server: Running) -> None:
    document = httpx.get(f"{server.url}/health").json()
    assert set(document) == TOP
    assert document["status"] == "ok"
    assert all(set(row) >= ROW for row in document["deployments"].values())
    assert all(set(device) == DEVICE for device in document["devices"])
    assert document["in_flight"] == 0


def test_loading_and_failed_deployments_show() -> None:
    with running() as server:
        server.pool.states["fake-asr"] = "failed"
        assert httpx.get(f"{server.url}/health").json()["status"] == "degraded"
        server.pool.states["fake-tts"] = "loading"
        assert httpx.get(f"{server.url}/health").json()["status"] == "loading"
        assert httpx.get(f"{server.url}/health/ready").status_code == 200


def test_ready_waits_for_what_is_loaded_at_start() -> None:
    settings = fake_settings(deployments=FAKES | {"eager": {"backend": "fake", "preload": True}})
    with running(settings) as server:
        server.pool.states["eager"] = "loading"
        answer = httpx.get(f"{server.url}/health/ready")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["eager: loading"])
        assert answer.headers["retry-after"] == "2"
        server.pool.states["eager"] = "ready"
        assert httpx.get(f"{server.url}/health/ready").json() == {"status": "ready", "reasons": []}


def test_draining_turns_ready_red_but_not_live(wav: bytes) -> None:
    with running() as server:
        server.do(lambda: setattr(server.gateway, "draining", True))
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        ready = httpx.get(f"{server.url}/health/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["draining"])
        assert httpx.get(f"{server.url}/health").json()["status"] == "draining"
        path = f"{server.url}/v1/audio/transcriptions"
        refused = httpx.post(path, headers=KEY, data={"model": "fake-asr"}, files={"file": wav})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert server.gateway.metrics.registry.get_sample_value("gateway_refused_total", {"reason": "draining"}) == 1
        assert (refused.headers["connection"], refused.headers["retry-after"]) == ("close", "5")


def test_deep_health_runs_canaries(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "REMEMBERED_SECONDS", 0.0)
    assert httpx.get(f"{server.url}/health?deep=1").json()["status"] == "ok"
    server.pool.refuse_canary = ServiceUnavailable("too slow")
    try:
        document = httpx.get(f"{server.url}/health?deep=1").json()
    finally:
        server.pool.refuse_canary = None
    assert document["status"] == "degraded"
    assert document["deployments"]["fake-asr"]["error"] == "canary: too slow"


def test_metrics_count_requests_refusals_and_stages(wav: bytes) -> None:
    with running(fake_settings(server={"api_keys": [{"name": "one", "key": KEY["api-key"]}]})) as server:
        path = f"{server.url}/v1/audio/transcriptions"
        httpx.post(path, headers=KEY, data={"model": "fake-asr"}, files={"file": wav})
        httpx.post(path, files={"file": wav})
        told = httpx.get(f"{server.url}/metrics")
        assert told.headers["content-type"].startswith("text/plain")
        lines = told.text.splitlines()
        assert 'gateway_requests_total{route="audio/transcriptions",status="200"} 1.0' in lines
        assert 'gateway_requests_total{route="audio/transcriptions",status="401"} 1.0' in lines
        assert 'gateway_refused_total{reason="unauthorized"} 1.0' in lines
        assert "gateway_requests_in_flight 0.0" in lines
        assert any(line.startswith('gateway_stage_seconds_count{stage="decode"} 1') for line in lines)
        assert server.do(server.gateway.idle.is_set)


def test_pages_work_offline(server: Running) -> None:
    page = httpx.get(f"{server.url}/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert httpx.get(f"{server.url}/").text == page.text
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "/openai/deployments/{deployment}/audio/transcriptions" in document["paths"]


def test_the_web_page_prefix_is_its_own_app(server: Running) -> None:
    answer = httpx.get(f"{server.url}/uix")
    assert answer.status_code == 404
