"""Runs the app under uvicorn with our signals: the first drains while still answering, the second ends at once.
A closed terminal or console drains as well.

Owns the listening socket, the timeouts and the exit code. Knows no route.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import sys
import time
from typing import TYPE_CHECKING

import structlog
import uvicorn

from app.banner import banner
from app.console_events import shutdown_on_close
from app.http.http1 import GatewayProtocol
from app.http.tls import TlsFiles, tls_files
from app.http.websockets import MOST_FRAME_BYTES, PONG_SECONDS, GatewaySocket

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from fastapi import FastAPI

    from app.config.settings import Settings
    from app.routes.context import Gateway

log = structlog.get_logger("gateway")

EXIT_CLEAN, EXIT_NOT_STARTED, EXIT_CUT = 0, 1, 4
_KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections in their pools, so that they, not we, close them
_LAST_SECONDS = 2  # for answers that are being cut, and for workers after a second signal
_BACKLOG = 2048
_REFRESH_TICKS = 36_000  # of uvicorn's 0.1 s: certificate files are looked at every hour


def serve(app: FastAPI, settings: Settings) -> int:
    """Serve until a signal comes and return the exit code. Raises ConfigError for a certificate that cannot be used."""
    files = tls_files(settings.server)
    try:
        listeners = _listen(settings.server.host, settings.server.port)
    except OSError as error:
        where = f"{settings.server.host}:{settings.server.port}"
        log.error("cannot_listen", address=where, error=str(error), hint="another program may use the port; try --port")
        return EXIT_NOT_STARTED
    gc.freeze()  # what start-up made stays; walking it in each full collection stopped the loop for over 50 ms
    server = GatewayServer(_config(app, files), app, files)
    try:
        server.run(listeners)
    except SystemExit as error:
        return EXIT_CLEAN if error.code == 0 else EXIT_NOT_STARTED
    if not server.started:
        return EXIT_NOT_STARTED
    return EXIT_CUT if server.cut else EXIT_CLEAN


class GatewayServer(uvicorn.Server):
    """uvicorn's server with a drain before its shutdown. cut: requests or jobs were ended before their answer was
    complete."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, files: TlsFiles | None = None) -> None:
        super().__init__(config)
        self._files = files
        self._files_changed = files.changed_at() if files is not None else (0, 0)
        self._refreshing: asyncio.Task[None] | None = None
        self.cut = False
        self._app = app
        self._gateway: Gateway = app.state.gateway
        self._asked = False
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal handler: only flags are set here; the loop sees them at its next tick."""
        if self._asked:
            self._cut()
        self._ask()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        with super().capture_signals(), shutdown_on_close(self._ask, self._cut):
            yield

    def _ask(self) -> None:
        self._asked = True

    def _cut(self) -> None:
        self.force_exit = self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            _say(banner(self._app, sockets[0].getsockname()[1]))

    async def on_tick(self, counter: int) -> bool:
        if self._asked and self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        if self._files is not None and counter % _REFRESH_TICKS == _REFRESH_TICKS - 1:
            self._refreshing = asyncio.create_task(self._refresh_certificate(self._files))
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._draining is not None and not self._draining.done():
            self._draining.cancel()
        self.cut = self.cut or self._gateway.in_flight > 0
        await super().shutdown(sockets)
        if self.force_exit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gateway.pool.drain(0), _LAST_SECONDS)

    async def _refresh_certificate(self, files: TlsFiles) -> None:
        """Serve new connections with files that were renewed or changed. What fails is tried again at the next look."""
        try:
            await asyncio.to_thread(files.renewed)
            changed = files.changed_at()
            if changed != self._files_changed and self.config.ssl is not None:
                self.config.ssl.load_cert_chain(files.certificate, files.key)
                self._files_changed = changed
                log.info("certificate_read_again", file=str(files.certificate))
        except (OSError, ValueError) as error:
            log.error("certificate_not_read", file=str(files.certificate), error=str(error))

    async def _drain(self) -> None:
        seconds = self._gateway.settings.server.drain_seconds
        log.info("draining", seconds=seconds, in_flight=self._gateway.in_flight)
        ends = time.monotonic() + seconds
        clean = await self._gateway.drain()
        with contextlib.suppress(TimeoutError):  # answers that are still being written
            await asyncio.wait_for(self._gateway.idle.wait(), max(0.0, ends - time.monotonic()))
        self.cut = not clean or self._gateway.in_flight > 0
        self.should_exit = True
        log.info("drained", cut=self.cut)


def _config(app: FastAPI, files: TlsFiles | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=GatewayProtocol,
        ws=GatewaySocket,
        ws_max_size=MOST_FRAME_BYTES,
        ws_ping_timeout=PONG_SECONDS,
        ws_per_message_deflate=False,  # audio in base64 gains little, and inflating costs the loop its time
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
        ssl_certfile=files.certificate if files is not None else None,
        ssl_keyfile=files.key if files is not None else None,
    )


def _listen(host: str, port: int) -> list[socket.socket]:
    """A socket for every address of the host: clients take localhost for 127.0.0.1 or for ::1. Raises OSError.

    port 0: the first one's is that of all. An address that a machine names but lacks, as ::1 often is, is left out.
    """
    sockets: list[socket.socket] = []
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, address in dict.fromkeys((family, str(address[0])) for family, _, _, _, address in addresses):
        at = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(socket.create_server((address, at), family=family, backlog=_BACKLOG))
        except OSError as error:
            if error.errno == errno.EADDRINUSE or len(addresses) == 1:
                for opened in sockets:
                    opened.close()
                raise
            log.info("address_left_out", address=address, error=str(error))
    if not sockets:
        raise OSError(f"no address of {host} can be listened on")
    return sockets


def _say(text: str) -> None:
    """Print for a person; a console that lacks a character of a name shows a question mark instead of failing."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)
