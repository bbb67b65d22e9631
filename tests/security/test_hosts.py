"""Names that a rebinding page has, and what a proxy in front changes."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.server import Running, fake_settings, running, server_fixture

OPEN = {"host": "0.0.0.0", "open_to_network": True, "allowed_hosts": ["speech.example"]}  # noqa: S104 # nothing listens there


@pytest.fixture(scope="module")
def open_server() -> Iterator[Running]:
    with running(fake_settings(server=OPEN)) as server:
        yield server


server = server_fixture()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("192.168.0.7:8000", 200),
        ("[fe80::1]", 200),
        ("gateway", 200),
        ("nas.local", 200),
        ("nas.home.arpa", 200),
        ("speech.example:8000", 200),
        ("rebind.example", 403),
        ("local.rebind.example", 403),
    ],
)
def test_hosts_of_a_server_that_is_open_to_the_network(open_server: Running, host: str, status: int) -> None:
    headers = {"api-key": "k", "host": host, "origin": f"http://{host}"}
    assert httpx.get(f"{open_server.url}/v1/models", headers=headers).status_code == status


def test_a_server_with_keys_may_have_any_name() -> None:
    tables = {"host": "0.0.0.0", "api_keys": [{"name": "one", "key": "k"}]}  # noqa: S104 # nothing listens there
    with running(fake_settings(server=tables)) as server:
        answer = httpx.get(f"{server.url}/v1/models", headers={"api-key": "k", "host": "speech.example"})
        assert answer.status_code == 200


@pytest.mark.parametrize("name", ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"])
def test_control_routes_need_the_admin_key_behind_a_proxy(server: Running, name: str) -> None:
    url, key = f"{server.url}/admin/unload/fake-asr", {"api-key": "k"}
    assert httpx.post(url, headers=key).status_code == 200
    refused = httpx.post(url, headers=key | {name: "127.0.0.1"})
    assert (refused.status_code, "admin_key" in refused.text) == (403, True)
    with running(fake_settings(server={"admin_key": "a"})) as guarded:
        answer = httpx.post(f"{guarded.url}/admin/unload/fake-asr", headers={"api-key": "a", name: "127.0.0.1"})
        assert answer.status_code == 200
