"""Keys of which only the digest is kept, their names in the log, and what one key may ask for."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest

from app.config.loading import load_settings
from app.config.settings import ConfigError, KeyLimits
from app.errors import Overloaded
from app.http.key_limits import KeyUsage
from tests.support.server import Running, server_fixture

DIGEST = hashlib.sha256(b"secret of the kitchen").hexdigest()
SERVER: dict[str, Any] = {
    "api_keys": [{"name": "desk", "key": "plain", "concurrent": 1}],
    "keys": {"kitchen": {"sha256": DIGEST.upper(), "requests_per_minute": 3}},
}


server = server_fixture(scope="function", server=SERVER)


def _models(server: Running, key: str) -> httpx.Response:
    return httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer {key}"})


def test_a_key_is_known_by_its_digest_and_the_digest_is_no_key(server: Running) -> None:
    assert _models(server, "secret of the kitchen").status_code == 200
    assert _models(server, "plain").status_code == 200
    assert _models(server, DIGEST).status_code == 401
    assert _models(server, "secret of the Kitchen").status_code == 401


def test_its_name_is_the_owner_of_its_requests(server: Running) -> None:
    body = {"model": "fake-tts", "input": "hi", "voice": "fake"}
    answer = httpx.post(f"{server.url}/v1/audio/speech", headers={"api-key": "secret of the kitchen"}, json=body)
    assert answer.status_code == 200
    assert server.pool.owners == ["kitchen"]


def test_requests_over_the_rate_of_a_key_are_refused_and_others_are_not(server: Running) -> None:
    answers = [_models(server, "secret of the kitchen") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert "3 requests per minute" in answers[-1].text
    assert _models(server, "plain").status_code == 200
    told = server.gateway.metrics.registry.get_sample_value("gateway_refused_total", {"reason": "key_limit"})
    assert told == 2


def test_the_rate_fills_again_and_requests_at_once_are_counted() -> None:
    now = [0.0]
    usage = KeyUsage({"one": KeyLimits(requests_per_minute=2, concurrent=1)}, lambda: now[0])
    with usage.request("one"), pytest.raises(Overloaded, match="at the same time"), usage.request("one"):
        pytest.fail("it was let in")
    with usage.request("one"):
        pass
    with pytest.raises(Overloaded, match="2 requests per minute") as refused, usage.request("one"):
        pytest.fail("it was let in")
    assert refused.value.retry_after == 30.0
    now[0] = 30.0
    with usage.request("one"), usage.request("another"):
        pass


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ({"keys": {"kitchen": {"sha256": "abc"}}}, "sha256"),
        ({"keys": {"desk": {"sha256": DIGEST}}, "api_keys": SERVER["api_keys"]}, "more than one key named desk"),
        ({"keys": {"kitchen": {"sha256": DIGEST, "colour": 1}}}, "colour"),
    ],
)
def test_wrong_keys_are_told(tables: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_settings(server=tables)


def test_a_key_lets_a_server_listen_on_the_network() -> None:
    settings = load_settings(server={"host": "0.0.0.0", "keys": SERVER["keys"]})  # noqa: S104 # nothing listens there
    assert settings.server.needs_key
