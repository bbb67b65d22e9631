"""The page's door, whichever way the server's keys are kept."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.config.settings import ServerSettings
from app.errors import Unauthorized
from app.ui.login import COOKIE, PageLogin

KEY = "the right key é"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
KEPT = [
    pytest.param({"api_keys": [{"name": "anna", "key": KEY}]}, id="plain"),
    pytest.param({"keys": {"anna": {"sha256": DIGEST}}}, id="digest"),
    pytest.param({"keys": {"ben": {"sha256": "0" * 64}}, "admin_key": KEY}, id="admin"),
]


async def _page(scope: Scope, receive: Receive, send: Send) -> None:
    """Says which key the page's own requests would carry."""
    await PlainTextResponse(b"key " + dict(scope["headers"]).get(b"api-key", b"none"))(scope, receive, send)


def _browser(server: dict[str, Any]) -> httpx.AsyncClient:
    login = PageLogin(_page, "/ui", ServerSettings.model_validate(server))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=login), base_url="http://127.0.0.1")


@pytest.mark.parametrize("server", KEPT)
async def test_nobody_gets_in_without_a_key(server: dict[str, Any]) -> None:
    async with _browser(server) as browser:
        assert "name=key" in (await browser.get("/ui/")).text
        for headers in ({}, {"api-key": "wrong"}, {"cookie": f"{COOKIE}={DIGEST}"}, {"api-key": DIGEST}):
            with pytest.raises(Unauthorized):
                await browser.post("/ui/gradio_api/upload", headers=headers)
        wrong = await browser.post("/ui/login", data={"key": DIGEST})
        assert (wrong.status_code, browser.cookies.get(COOKIE)) == (401, None)


@pytest.mark.parametrize("server", KEPT)
async def test_whoever_has_a_key_gets_in_with_it(server: dict[str, Any]) -> None:
    async with _browser(server) as browser:
        assert (await browser.post("/ui/login", data={"key": KEY})).status_code == 303
        assert (await browser.get("/ui/")).content == b"key " + KEY.encode()
        browser.cookies.clear()
        for headers in ({b"api-key": KEY.encode()}, {b"authorization": b"Bearer " + KEY.encode()}):
            assert (await browser.get("/ui/", headers=headers)).content == b"key " + KEY.encode()


async def test_a_cookie_of_another_server_opens_nothing() -> None:
    async with _browser(KEPT[0].values[0]) as one, _browser(KEPT[0].values[0]) as other:  # type: ignore[arg-type]
        await one.post("/ui/login", data={"key": KEY})
        other.cookies.set(COOKIE, one.cookies[COOKIE])
        assert "name=key" in (await other.get("/ui/")).text


async def test_without_keys_the_page_is_open() -> None:
    async with _browser({}) as browser:
        assert (await browser.get("/ui/")).text == "key none"
