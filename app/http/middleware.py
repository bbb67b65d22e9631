"""What happens around every request: ids, logs, metrics, error bodies, then the checks in the contract's order.

Plain ASGI classes. `Observe` is the outermost; `Guard` is the innermost and runs the operation. Neither knows what an
operation does. Order of checks: route, key, api-version, deployment, content type, size; the rest is the route's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import cast

import structlog
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.booleans import is_true
from app.config.settings import Settings
from app.errors import (
    ApiError,
    Draining,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RequestTimeout,
    UnsupportedContentType,
    from_http_exception,
    internal_error,
)
from app.http.auth import Keyring
from app.http.key_limits import KeyUsage
from app.http.request_body import ClientGone, RequestBody, capped, never
from app.http.socket_guard import SocketGuard
from app.http.versions import check_api_version
from app.media.fair import current_owner
from app.routes.context import Gateway, RequestContext, Target, find_deployment, header_text
from app.routes.operations import WORK_QUERY, Match, Operation, Table
from app.serving.shares import FairShares

log = structlog.get_logger("gateway")

CLIENT_GONE = 499  # the status logs and metrics use for a client that left
_UPGRADED = 101
_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
_CONSTANT_HEADERS = [(b"x-ms-region", b"local"), (b"x-content-type-options", b"nosniff")]


class AccessRecord:
    """What the log and the headers say of one request."""

    __slots__ = ("deployment", "owner", "quiet", "request_id", "route", "started", "status")

    def __init__(self, request_id: str = "") -> None:
        """request_id: the one that a server around this one has given; empty: a new one."""
        self.request_id = request_id or str(uuid.uuid4())
        self.started = time.perf_counter()
        self.route, self.owner, self.deployment, self.status = "unknown", "", "", 0
        self.quiet = False  # probes and scrapes come every few seconds and would drown the rest of the log

    @property
    def milliseconds(self) -> float:
        return (time.perf_counter() - self.started) * 1000


class Observe:
    """Gives every answer its headers, every error its body, every request a log line and a count."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self.app, self.gateway = app, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        record = scope["gateway.record"] = AccessRecord(scope.get("gateway.request_id", ""))
        send = self._with_headers(scope, send, record)
        try:
            await self.app(scope, receive, send)
        except ClientGone:
            record.status = CLIENT_GONE
            self.gateway.metrics.cancelled_total.inc()
        except asyncio.CancelledError:  # the server around this one learnt first that the client has left
            record.status = CLIENT_GONE
            self.gateway.metrics.cancelled_total.inc()
            raise
        except Exception as error:
            await self._refuse(error, record, scope, receive, send)
        finally:
            self._record(scope, record)

    async def _refuse(self, error: Exception, record: AccessRecord, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _api_error(error)
        if answer.status >= 500 and not isinstance(error, ApiError):
            log.error("internal_error", request_id=record.request_id, route=record.route, exc_info=error)
        if answer.reason:
            self.gateway.metrics.refused_total.labels(answer.reason).inc()
        if record.status:  # the answer has begun: only cutting the connection can tell the client
            log.warning("answer_cut", request_id=record.request_id, route=record.route, code=answer.code)
            return
        await answer.response()(scope, receive, send)

    def _with_headers(self, scope: Scope, send: Send, record: AccessRecord) -> Send:
        async def with_headers(message: Message) -> None:
            if message["type"] in _STARTS:
                record.status = message.get("status", _UPGRADED)
                message = {**message, "headers": [*message.get("headers", ()), *self._headers(scope, record)]}
            await send(message)

        return with_headers

    def _headers(self, scope: Scope, record: AccessRecord) -> Iterator[tuple[bytes, bytes]]:
        request_id = record.request_id.encode("ascii")
        yield b"x-request-id", request_id
        yield b"apim-request-id", request_id
        yield b"x-ms-client-request-id", _client_request_id(scope) or request_id
        yield b"openai-processing-ms", b"%d" % round(record.milliseconds)
        yield from _CONSTANT_HEADERS
        yield from scope.get("gateway.cors", ())
        if self.gateway.draining and scope["type"] == "http":
            yield b"connection", b"close"

    def _record(self, scope: Scope, record: AccessRecord) -> None:
        self.gateway.metrics.requests_total.labels(record.route, str(record.status)).inc()
        (log.debug if record.quiet else log.info)(
            "request",
            request_id=record.request_id,
            method=scope.get("method", "GET"),
            route=record.route,
            status=record.status,
            ms=round(record.milliseconds, 1),
            owner=record.owner,
            deployment=record.deployment,
        )


class Guard:
    """Runs an operation once key, api-version, deployment, content type and size are right; stops it if the client
    leaves.

    pages: apps by path prefix that serve themselves, such as a web page, which calls the API with its visitor's key.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway, table: Table, pages: Mapping[str, ASGIApp]) -> None:
        self.app, self.gateway, self.table, self.pages = app, gateway, table, pages
        self._keyring = Keyring(gateway.settings.server)
        self._usage = KeyUsage.of(gateway.settings.server)
        self._body_budget = _body_budget(gateway.settings)
        server = gateway.settings.server
        self._owner_is_address = (
            server.several_owners and not server.needs_key
        )  # any key is accepted: they tell nobody apart
        self._socket_guard = SocketGuard(
            gateway, table, self._keyring, self._within_limits, owner_is_address=self._owner_is_address
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket_guard(scope, receive, send)
        elif page := self._page(scope["path"]):
            scope["gateway.record"].route, scope["gateway.record"].quiet = "page", True
            await page(scope, capped(receive, self.gateway.settings.limits.body_bytes), send)
        else:
            await self._operation(scope, receive, send)

    def _page(self, path: str) -> ASGIApp | None:
        return next((page for at, page in self.pages.items() if path == at or path.startswith(f"{at}/")), None)

    async def _operation(self, scope: Scope, receive: Receive, send: Send) -> None:
        record: AccessRecord = scope["gateway.record"]
        headers = Headers(scope=scope)
        request_body = RequestBody(receive, headers.get("content-length"), headers.get("expect"))
        async with contextlib.AsyncExitStack() as stack:
            try:
                match, operation = self._route(scope)
                record.route, record.quiet = operation.path, operation.access == "public"
                if not self._is_open(operation, QueryParams(scope["query_string"])):
                    stack.enter_context(self.gateway.request())
                context = self._call(scope, headers, match, operation, stack)
                record.owner, record.deployment = context.owner, context.target.name if context.target else ""
                current_owner.set(context.client)
                stack.callback(request_body.give_back)
                context.body = await self._read(request_body, context.client)
                context.body_dropped = request_body.give_back
            except ApiError as error:
                if isinstance(error, RequestTimeout) or not await request_body.drain():
                    error.headers["connection"] = "close"
                raise
            await self._run(context, request_body, scope, send)
            record.deployment = context.deployment.name if context.deployment else record.deployment

    def _route(self, scope: Scope) -> tuple[Match, Operation]:
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        match = self.table.match(path)
        if match is None:
            near = self.table.nearest(path)
            raise NotFound(f"Resource not found; did you mean {near}?" if near else "Resource not found.")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        operation = match.operations.get(method)
        if operation is None:
            allowed = ", ".join(sorted(match.operations))
            raise MethodNotAllowed(f"{method} is not allowed here; allowed: {allowed}.", headers={"allow": allowed})
        return match, operation

    def _call(
        self, scope: Scope, headers: Headers, match: Match, operation: Operation, stack: contextlib.AsyncExitStack
    ) -> RequestContext:
        query = QueryParams(scope["query_string"])
        owner, client = "", (scope.get("client") or ("", 0))[0]
        if not self._is_open(operation, query):
            owner = scope["gateway.record"].owner = self._admit(operation, match, headers, query, client)
            stack.enter_context(self._within_limits(owner))
        check_api_version(match.scheme, query.get("api-version"), self.gateway.settings.server.api_versions)
        target = self._target(match)
        _check_content_type(operation, headers)
        context = RequestContext(
            gateway=self.gateway,
            operation=operation,
            scheme=match.scheme,
            request_id=scope["gateway.record"].request_id,
            owner=owner,
            client=client if self._owner_is_address else owner,
            headers=headers,
            query=query,
            stack=stack,
            target=target,
            parameter=match.parameter,
        )
        stack.callback(context.observe_stages)
        return context

    def _target(self, match: Match) -> Target | None:
        """The deployment that the path names. Raises DeploymentNotFound or ModelNotFound."""
        if match.deployment is None:
            return None
        return Target(match.deployment, find_deployment(self.gateway.deployments, match.deployment, match.scheme))

    def _is_open(self, operation: Operation, query: QueryParams) -> bool:
        """No key is needed. What is public stays so with any key accepted, even where it does work: nobody is kept
        out."""
        server = self.gateway.settings.server
        if operation.access == "public":
            return not (server.needs_key and operation.path == "health" and is_true(query.get(WORK_QUERY)))
        return operation.access == "listing" and server.open_listings

    @contextlib.contextmanager
    def _within_limits(self, owner: str) -> Iterator[None]:
        """Count the request among those of its key. Raises Overloaded."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._usage.request(owner))
            except Overloaded:
                self.gateway.metrics.refused_total.labels("key_limit").inc()
                raise
            yield

    def _admit(self, operation: Operation, match: Match, headers: Headers, query: QueryParams, client: str) -> str:
        owner = self._keyring.owner(headers, query, match.scheme)
        if operation.access == "admin":
            self._keyring.admit_admin(headers, query, client)
        if self.gateway.draining and operation.task is not None:
            self.gateway.metrics.refused_total.labels("draining").inc()
            raise Draining("The server is shutting down and takes no new work.")
        return owner

    async def _read(self, request_body: RequestBody, owner: str) -> bytes:
        limits = self.gateway.settings.limits
        try:
            return await request_body.read(limits.body_bytes, limits.upload_seconds, self._body_budget, owner)
        except Overloaded:
            self.gateway.metrics.refused_total.labels("body_memory").inc()
            raise

    async def _run(self, context: RequestContext, request_body: RequestBody, scope: Scope, send: Send) -> None:
        """The operation and its answer; ClientGone if the client leaves before the end of it."""
        task = cast("asyncio.Task[object]", asyncio.current_task())
        watch = _Watch(request_body, task)
        try:
            answer = await context.operation.handler(context)
            await answer(scope, never, watch.sending(send))
        except asyncio.CancelledError:
            if watch.client_gone and task.uncancel() == 0:
                raise ClientGone from None
            raise
        finally:
            watch.end()


def _body_budget(settings: Settings) -> FairShares:
    """The memory for bodies. Where several owners share it, half of it is kept for those that hold less than one
    body."""
    limits = settings.limits
    reserve = limits.body_memory // 2 if settings.server.several_owners else 0
    return FairShares(limits.body_memory, reserve=reserve, floor=limits.body_bytes)


class _Watch:
    """Cancels a task when the client leaves before the whole answer was sent."""

    __slots__ = ("_over", "_task", "_watcher", "client_gone")

    def __init__(self, request_body: RequestBody, task: asyncio.Task[object]) -> None:
        self._over = self.client_gone = False
        self._task = task
        self._watcher = asyncio.ensure_future(self._wait(request_body))

    async def _wait(self, request_body: RequestBody) -> None:
        await request_body.left()
        if not self._over:
            self.client_gone = True
            self._task.cancel("the client has gone")

    def sending(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            # Set before the server learns that the answer is complete: it reports that as a disconnect too.
            self._over = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        return sending

    def end(self) -> None:
        self._over = True
        self._watcher.cancel()


def _check_content_type(operation: Operation, headers: Headers) -> None:
    sent = headers.get("content-type", "").partition(";")[0].strip().lower()
    if operation.consumes and sent not in operation.consumes:
        accepted = " or ".join(operation.consumes)
        raise UnsupportedContentType(f"The content type must be {accepted}, not {sent or 'missing'!r}.")


def _client_request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-ms-client-request-id":
            return header_text(value.decode("latin-1"))[:256].encode("ascii")
    return b""


def _api_error(error: Exception) -> ApiError:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, HTTPException):
        error = error.__cause__  # Starlette's word for one that was raised once the answer had begun
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return from_http_exception(error)
    return internal_error()
