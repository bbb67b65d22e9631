"""A gateway inside Ray Serve, without Ray: one request id, and a departure that the server around it reports."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.cluster.request_ids import ServesRequestId
from app.config.deployments import Deployments
from app.main import create_app
from tests.support.fake_pool import FakePool
from tests.support.server import fake_settings
from tests.support.waiting import until


def app() -> Any:
    settings = fake_settings()
    return create_app(settings, pool=FakePool(Deployments.from_settings(settings)))


class AsServe:
    """What Serve does around an app: an id for every request, added to the answer."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = MutableHeaders(scope=scope)
        request_id = headers.setdefault("x-request-id", "from-serve")

        async def added(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("x-request-id", request_id)
            await send(message)

        await self.inner(scope, receive, added)


@pytest.mark.parametrize(
    ("given", "logged"), [({}, "from-serve"), ({"x-request-id": "mine-1"}, "mine-1"), ({"x-request-id": "a b"}, "")]
)
async def test_the_id_of_serve_is_the_only_one(given: dict[str, str], logged: str) -> None:
    inner = app()
    inner.add_middleware(ServesRequestId)
    transport = httpx.ASGITransport(app=AsServe(inner))
    async with httpx.AsyncClient(transport=transport, base_url="http://served") as client:
        answer = await client.get("/health/live", headers=given)
    (told,) = answer.headers.get_list("x-request-id")
    assert told == (given.get("x-request-id") or "from-serve")
    own = answer.headers["apim-request-id"]
    assert own == logged if logged else own != told


async def test_a_request_that_the_server_around_cancels_counts_as_a_departure() -> None:
    inner = app()
    began = asyncio.Event()

    async def receive() -> Message:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(_: Message) -> None: ...

    headers = [(b"host", b"127.0.0.1"), (b"api-key", b"k"), (b"content-type", b"application/json")]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
    scope |= {"path": "/v1/audio/speech", "raw_path": b"/v1/audio/speech", "query_string": b"", "root_path": ""}
    scope |= {"headers": headers, "client": ("127.0.0.1", 1)}
    scope |= {"server": ("127.0.0.1", 80), "extensions": {}}
    task = asyncio.create_task(inner(scope, receive, send), name="request")
    await until(began.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    labels = {"route": "audio/speech", "status": "499"}
    assert inner.state.gateway.metrics.registry.get_sample_value("gateway_requests_total", labels) == 1
