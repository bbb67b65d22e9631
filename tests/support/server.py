"""Real servers on a free loopback port: in a thread of the test process, or in a process of their own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from app.config.deployments import Deployments
from app.config.settings import Settings
from app.http.server import _config
from app.http.tls import tls_files
from app.main import create_app
from app.routes.context import Gateway
from backends import children
from tests.support.fake_pool import FakePool, Script, answer
from tests.support.waiting import LIMIT, wait_until

FAKES = {
    "fake-asr": {"backend": "fake", "task": "transcription"},
    "fake-tts": {"backend": "fake", "task": "speech"},
    "fake-chat": {"backend": "fake", "task": "chat", "audio_deployment": "fake-tts"},
    "team/asr model": {"backend": "fake", "task": "transcription"},
}


def fake_settings(**tables: Any) -> Settings:
    """Settings with fake deployments of every task, one of them with a name that must be percent-encoded."""
    tables.setdefault("deployments", FAKES)
    return Settings.model_validate({"offline": True, **tables})


@dataclass
class Running:
    """A server that answers. pool: the fake one, if the settings were given without a pool."""

    port: int
    gateway: Gateway
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"{self.gateway.settings.server.scheme}://127.0.0.1:{self.port}"

    @property
    def pool(self) -> FakePool:
        if over_cluster():
            pytest.skip("looks into the pool of --server=uvicorn")
        assert isinstance(self.gateway.pool, FakePool)
        return self.gateway.pool

    @contextmanager
    def fresh_pool(self, script: Script = answer) -> Iterator[FakePool]:
        """The fake pool as it was made, but for its script; afterwards waits until no request is left in it."""
        self.pool.reset(script)
        yield self.pool
        wait_until(lambda: self.pool.active == 0)  # the answer's last byte comes before the server has tidied up

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)

    def do(self, work: Callable[[], Any]) -> Any:
        """Run something on the server's loop and give its result."""

        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(LIMIT)


_engine: list[str] = []


def use_engine(name: str) -> None:
    """What `running` serves with from now on: "cluster", or anything else for the usual pools."""
    _engine[:] = [name]


def over_cluster() -> bool:
    return _engine == ["cluster"]


def skip_over_cluster(why: str) -> None:
    """Leave out a test of what is otherwise over a cluster, and documented so."""
    if over_cluster():
        pytest.skip(f"over a cluster {why}")


def _app(settings: Settings, pool: FakePool | None, real: bool) -> FastAPI:
    if over_cluster() and pool is None:
        from tests.support.cluster import local_pool

        return create_app(settings, make_pool=local_pool)
    return create_app(settings, pool=None if real else pool or FakePool(Deployments.from_settings(settings)))


@contextmanager
def running(settings: Settings | None = None, pool: FakePool | None = None, *, real: bool = False) -> Iterator[Running]:
    """Serve until the block ends, with TLS if so set. real: with worker processes instead of a fake pool.

    With --server=cluster the pool is that of a cluster, over replicas in this process, unless one is given.
    """
    settings = settings or fake_settings()
    app = _app(settings, pool, real)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(_config(app, tls_files(settings.server)))
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.005)
        assert thread.is_alive(), "the server did not start"
    if over_cluster() and pool is None:
        wait_until(lambda: all(row.state != "loading" for row in app.state.gateway.pool.status().values()))
    try:
        yield Running(listener.getsockname()[1], app.state.gateway, loops[0])
    finally:
        server.should_exit = True
        thread.join(LIMIT)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


def server_fixture(*, scope: Literal["function", "module"] = "module", real: bool = False, **tables: Any) -> Any:
    """A fixture that serves `fake_settings(**tables)`; a module assigns it to `server`."""

    @pytest.fixture(scope=scope)
    def server() -> Iterator[Running]:
        with running(fake_settings(**tables), real=real) as one:
            yield one

    return server


def free_port() -> int:
    """A TCP port of loopback on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def server_process(
    log: Path, *arguments: str, folder: Path = children.ROOT, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run `python -m app` with `arguments` until the block ends; gives its address once it answers.

    log: the file for its output. folder: its working folder. environment: instead of the one that our children get.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = children.command("app", "--port", str(port), *arguments)
    variables = children.environment() if environment is None else dict(environment)
    with log.open("wb") as out, subprocess.Popen(command, cwd=folder, env=variables, stdout=out, stderr=out) as one:
        try:
            wait_until_live(url, one)
            yield url
        finally:
            one.terminate()
            one.wait(LIMIT)


def wait_until_live(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for a server in a process of its own to answer. Raises AssertionError if the process ends instead."""

    def answers() -> bool:
        assert process.poll() is None, "the server ended"
        try:
            return httpx.get(f"{url}/health/live", timeout=LIMIT).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answers)
