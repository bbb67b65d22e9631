"""The page costs nothing until somebody opens it, and says how to get it where it is not installed."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.ui.mount import LazyPage
from tests.support.waiting import LIMIT, until


def _client(page: LazyPage) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=page), base_url="http://127.0.0.1")


def _host(built: list[FastAPI], events: list[str]) -> FastAPI:
    import contextlib
    from collections.abc import AsyncIterator

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        events.append("opened")
        yield
        events.append("closed")

    host = FastAPI(lifespan=lifespan)
    host.get("/ui/")(lambda: "the page")
    built.append(host)
    return host


async def test_the_page_is_built_once_and_closed_with_the_server() -> None:
    built: list[FastAPI] = []
    events: list[str] = []
    page = LazyPage(lambda: _host(built, events))
    assert not built
    async with _client(page) as client:
        answers = [await client.get("/ui/") for _ in range(3)]
    assert [answer.json() for answer in answers] == ["the page"] * 3
    await page.close()
    assert (len(built), events) == (1, ["opened", "closed"])


async def test_a_browser_is_told_that_the_page_is_being_opened() -> None:
    import threading

    may_end = threading.Event()

    def slow() -> FastAPI:
        may_end.wait(LIMIT)
        return _host([], [])

    page = LazyPage(slow, patience=0.05)
    async with _client(page) as client:
        first = await client.get("/ui/")
        may_end.set()
        asset = await client.get("/ui/anything-else")
        second = await client.get("/ui/")
    assert "http-equiv=refresh" in first.text
    assert asset.status_code == 404  # of the page itself
    assert second.json() == "the page"
    await page.close()


async def test_a_page_that_could_not_be_built_is_tried_again() -> None:
    attempts: list[int] = []

    def build() -> FastAPI:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("the disk is full")
        return _host([], [])

    page = LazyPage(build)
    async with _client(page) as client:
        with pytest.raises(OSError, match="disk is full"):
            await client.get("/ui/")
        assert (await client.get("/ui/")).json() == "the page"
    await page.close()


async def test_closing_while_it_is_being_opened_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    page = LazyPage(lambda: _host([], []), patience=0.0)
    async with _client(page) as client:
        await client.get("/ui/")
    assert asyncio.all_tasks() > before
    await page.close()
    await until(lambda: asyncio.all_tasks() == before)


async def test_without_gradio_the_answer_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name == "gradio" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    async with _client(LazyPage(lambda: pytest.fail("built without gradio"))) as client:
        answer = await client.get("/ui/")
    assert answer.status_code == 501
    assert "make serve EXTRAS=ui" in answer.text


def test_importing_the_mount_does_not_import_gradio() -> None:
    import subprocess

    code = "import sys, app.ui.mount; print('gradio' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
