"""A crowd, or a foreign page, that asks how the server is does not occupy its models."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.config.deployments import Deployment
from app.serving import canaries
from app.serving.canaries import Canaries
from tests.support.fake_pool import FakePool
from tests.support.server import Running, fake_settings, running, server_fixture

KEYS = [{"name": "one", "key": "k1"}, {"name": "two", "key": "k2"}]
CROSS = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}


@pytest.fixture
def with_keys() -> Iterator[Running]:
    with running(fake_settings(server={"api_keys": KEYS})) as server:
        yield server


def test_a_crowd_shares_one_canary_per_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, all_asked = list[str](), threading.Event()

    async def canary(self: FakePool, deployment: Deployment, timeout_seconds: float) -> None:
        asked.append(deployment.name)
        all_asked.set()

    monkeypatch.setattr(FakePool, "canary", canary)
    monkeypatch.setattr(canaries, "REMEMBERED_SECONDS", 1e9)
    with running() as server, ThreadPoolExecutor(20) as crowd:
        answers = list(crowd.map(lambda _: httpx.get(f"{server.url}/health?deep=1").status_code, range(60)))
        assert answers == [200] * 60
        assert sorted(asked) == sorted(server.pool.deployments)


async def test_an_outcome_is_remembered_and_then_found_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = list[str]()

    class Pool(FakePool):
        async def canary(self, deployment: Deployment, timeout_seconds: float) -> None:
            runs.append(deployment.name)

    with running() as server:
        pool = Pool(server.pool.deployments)
        shared, deployment = Canaries(pool), pool.deployments["fake-asr"]
        await shared.run(deployment, 1.0)
        await shared.run(deployment, 1.0)
        assert runs == ["fake-asr"]
        monkeypatch.setattr(canaries, "REMEMBERED_SECONDS", 0.0)
        await shared.run(deployment, 1.0)
        assert runs == ["fake-asr"] * 2


def test_deep_health_needs_a_key_where_keys_are_set(with_keys: Running) -> None:
    url = f"{with_keys.url}/health"
    assert httpx.get(url).status_code == 200
    assert httpx.get(url, params={"deep": "1"}).status_code == 401
    assert httpx.get(url, params={"deep": "1"}, headers={"api-key": "wrong"}).status_code == 401
    assert httpx.get(url, params={"deep": "1"}, headers={"api-key": "k1"}).status_code == 200
    assert httpx.get(url, params={"deep": "0"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/health?deep=1", CROSS, 403),
        ("/health?deep=1", LINK, 403),
        ("/health?deep=1", {"origin": "https://evil.example"}, 403),
        ("/health?deep=1", {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, 200),
        ("/health?deep=1", {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, 200),
        ("/v1/models?subscription-key=k", CROSS, 403),
        ("/health", LINK, 200),
        ("/docs", LINK, 200),
        ("/health", {}, 200),
    ],
)
def test_foreign_pages_make_nothing_work(server: Running, path: str, headers: dict[str, str], status: int) -> None:
    assert httpx.get(f"{server.url}{path}", headers=headers).status_code == status


server = server_fixture()


def test_pages_that_are_allowed_may_send_simple_requests() -> None:
    with running(fake_settings(server={"cors_origins": ["*"]})) as server:
        assert httpx.get(f"{server.url}/health?deep=1", headers=CROSS).status_code == 200
