"""Builds the gateway: one function makes the app, one runs it.

Owns the order in which the parts start and stop. Nothing happens at import; `uvicorn app.main:create_app --factory`
works.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI

from app import VERSION, logs
from app.banner import banner
from app.config.deployments import Deployments
from app.config.loading import load_settings
from app.config.settings import Settings
from app.http.cors import OriginGuard
from app.http.middleware import Guard, Observe
from app.media.fair import FairMediaPool
from app.metrics import Metrics
from app.routes.context import Gateway
from app.routes.table import OPERATIONS, build_table
from app.serving.interfaces import Pool
from app.ui.login import PageLogin
from app.ui.mount import PATH as PAGE_PATH
from app.ui.mount import LazyPage

__all__ = ["MakePool", "banner", "create_app", "run_server"]
MakePool = Callable[[Settings, Deployments, Metrics], Pool]


def create_app(
    settings: Settings | None = None, *, pool: Pool | None = None, make_pool: MakePool | None = None
) -> FastAPI:
    """The gateway as an ASGI app. settings: None loads them from file and environment; pool: None makes one, by
    `make_pool` or of worker processes.

    Raises ConfigError.
    """
    if settings is None:
        settings = load_settings()
        logs.configure(settings.log)
    deployments, metrics = Deployments.from_settings(settings), Metrics()
    gateway = Gateway(
        settings,
        deployments,
        pool or (make_pool or _worker_pool)(settings, deployments, metrics),
        FairMediaPool(settings.limits, fair=settings.server.several_owners),
        metrics,
        OPERATIONS,
    )
    app = FastAPI(
        title="Speech gateway",
        version=VERSION,
        openapi_url=None,  # the documents and pages are operations of our own table
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.gateway = gateway
    app.state.page = LazyPage(_page_builder(app, gateway))
    page = PageLogin(app.state.page, PAGE_PATH, settings.server)
    app.add_middleware(Guard, gateway=gateway, table=build_table(), pages={PAGE_PATH: page})
    app.add_middleware(OriginGuard, server=settings.server)
    app.add_middleware(Observe, gateway=gateway)
    return app


def run_server(settings: Settings, make_pool: MakePool | None = None) -> int:
    """Serve until a signal comes. Returns the exit code: 0, 1 (could not start), 4 (shutdown cut requests off)."""
    from app.http.server import serve  # uvicorn is not needed by those who bring their own server

    logs.configure(settings.log)
    return serve(create_app(settings, make_pool=make_pool), settings)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    gateway: Gateway = app.state.gateway
    async with contextlib.AsyncExitStack() as stack:
        await gateway.media.start()
        stack.push_async_callback(gateway.media.close)
        stack.push_async_callback(app.state.page.close)
        stack.push_async_callback(gateway.drain)
        await gateway.pool.start()
        yield


def _worker_pool(settings: Settings, deployments: Deployments, metrics: Metrics) -> Pool:
    from app.serving.pool import WorkerPool

    return WorkerPool(settings, deployments, metrics)


def _page_builder(app: FastAPI, gateway: Gateway) -> Callable[[], FastAPI]:
    def build() -> FastAPI:
        from app.ui.page import build_page

        needs_key, body_bytes = gateway.settings.server.needs_key, gateway.settings.limits.body_bytes
        return build_page(app, gateway.deployments, gateway.media, needs_key=needs_key, body_bytes=body_bytes)

    return build
