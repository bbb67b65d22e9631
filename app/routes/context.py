"""What every route works with: the gateway's shared parts and the context of one request.

Owns the way from a request to a running job (choose a deployment, take a slot in its queue, run) and the x-gateway-*
headers that describe it. Knows nothing of a particular operation and nothing of sockets: `app/http/middleware.py`
builds the contexts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from app.config.deployments import Deployment, Deployments
from app.config.settings import Settings
from app.errors import DeploymentNotFound, InvalidRequest, MissingParameter, ModelNotFound, OperationNotSupported
from app.metrics import Metrics
from app.realtime.hub import RealtimeHub
from app.routes.chat.history import SpokenHistory
from app.routes.json_text import NAME_CHARACTERS, charset_of, decode_object, named
from app.routes.operations import JSON, Operation, Scheme
from app.serving.canaries import Canaries
from app.serving.interfaces import Pool, Reservation
from app.writers import sse
from backends.interface import Capabilities, Done, Event, Request, Task

if TYPE_CHECKING:
    from app.media.pool import Decoded, MediaPool


_LONGEST_HEADER = 1000  # characters of a value that clients choose: many give up on an answer whose head is long
_Event = TypeVar("_Event")


@dataclass(slots=True)
class Gateway:
    """The parts that live as long as the app. operations: of its table, for the OpenAPI document."""

    settings: Settings
    deployments: Deployments
    pool: Pool
    media: MediaPool
    metrics: Metrics
    operations: tuple[Operation, ...] = ()
    canaries: Canaries = field(init=False)
    realtime: RealtimeHub = field(init=False)
    spoken: SpokenHistory = field(init=False)
    started: float = field(default_factory=time.monotonic)
    in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # set while nothing is in flight
    draining: bool = False

    def __post_init__(self) -> None:
        self.idle.set()
        self.canaries = Canaries(self.pool)
        fair = self.settings.server.several_owners
        self.realtime = RealtimeHub(self.settings.realtime, fair=fair)
        self.spoken = SpokenHistory(fair=fair)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one request as in flight."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    async def drain(self) -> bool:
        """Refuse new work and stop all workers once running work has ended or its time is up.

        Returns True if nothing was cut.
        """
        self.draining = True
        self.realtime.drain()
        return await self.pool.drain(self.settings.server.drain_seconds)

    def _count(self, step: int) -> None:
        self.in_flight += step
        self.metrics.requests_in_flight.inc(step)
        (self.idle.clear if self.in_flight else self.idle.set)()


class Target(NamedTuple):
    """The deployment that a path names. name: as the path has it, perhaps an alias."""

    name: str
    deployment: Deployment


@dataclass(slots=True)
class RequestContext:
    """One request after the guards let it in.

    request_id: GUID, the same in headers and logs; owner: name of the key, for logs; client: who shares fairly with
    others, the owner or, where any key is accepted from the network, the client's address; target: deployment that the
    path names; parameter: rest of the path for listings; body: the whole body; body_dropped: called when it is let go;
    timings: seconds by stage; notes: remarks for the client; ignored: parameters that have no meaning here. What is
    entered on `stack` is left when the answer is sent, or when the client has gone.
    """

    gateway: Gateway
    operation: Operation
    scheme: Scheme
    request_id: str
    owner: str
    headers: Headers
    query: QueryParams
    stack: AsyncExitStack
    client: str = ""
    target: Target | None = None
    parameter: str = ""
    body: bytes = b""
    body_dropped: Callable[[], None] = lambda: None
    arrived: float = field(default_factory=time.perf_counter)
    timings: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ignored: tuple[str, ...] = ()
    deployment: Deployment | None = None
    capabilities: Capabilities | None = None
    fallback_from: str | None = None
    reservation: Reservation | None = None

    def drop_body(self) -> None:
        """Free the body once it is read: a request that waits should not hold it, nor count as holding it."""
        self.body = b""
        self.body_dropped()

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "")

    def json_body(self) -> dict[str, Any]:
        """The body as a JSON object. Raises BrokenBody or TooLarge."""
        return decode_object(self.body, charset_of(self.content_type))

    def choose(self, model: object, *tasks: Task) -> Deployment:
        """The deployment for this request: the path's where it names one, else `model` of the body.

        tasks: it does one of them.
        Raises MissingParameter, DeploymentNotFound or ModelNotFound, OperationNotSupported.
        """
        name = self.target.name if self.target is not None else model
        if name is None or name == "":
            raise MissingParameter("You must provide a model: the name of a deployment.", param="model")
        if not isinstance(name, str):
            raise InvalidRequest("model must be a string.", param="model")
        if len(name) > NAME_CHARACTERS:
            raise InvalidRequest(
                f"model has {len(name)} characters; at most {NAME_CHARACTERS} are allowed.",
                param="model",
                code="string_above_max_length",
            )
        deployment = self.target.deployment if self.target is not None else self.find(name)
        if not set(tasks) & set(deployment.tasks):
            raise OperationNotSupported(
                f"The {self.operation.path} operation does not work with the deployment {name!r}, "
                f"which does {' and '.join(deployment.tasks)}.",
                param="model",
            )
        self.deployment = deployment
        return deployment

    def find(self, name: str) -> Deployment:
        """The deployment of a name or alias. Raises DeploymentNotFound or ModelNotFound."""
        return find_deployment(self.gateway.deployments, name, self.scheme)

    async def admit(self, deployment: Deployment) -> Reservation:
        """A slot in the deployment's queue until the answer is sent. Raises Overloaded, Draining, ModelUnavailable."""
        reservation = await self.stack.enter_async_context(
            self.gateway.pool.admit(deployment, owner=self.client, request_id=self.request_id)
        )
        self.deployment, self.fallback_from = reservation.deployment, reservation.fallback_from
        self.reservation = reservation
        return reservation

    async def run(self, reservation: Reservation, request: Request) -> AsyncIterator[Event]:
        """Wait for a worker to accept the request and return the events of its job. Raises ApiError."""
        events = await reservation.run(request)
        self.capabilities = reservation.capabilities
        self.record("queue", reservation.queue_seconds)
        self.remark(reservation.notes)
        return events

    async def peeked(
        self, events: AsyncIterator[_Event], *, stage: str = "", seconds: float | None = None
    ) -> AsyncGenerator[_Event, None]:
        """The same events, returned once the first has come or `seconds` have passed.

        An error before the first event is raised here, while the answer can still have its status. stage: the name
        under which the time is recorded; "" if the events record their own.
        """
        begun = time.perf_counter()
        first = asyncio.ensure_future(_next(events))
        self.stack.push_async_callback(_cancel, first)
        await asyncio.wait({first}, timeout=seconds)
        if stage:
            self.record(stage, time.perf_counter() - begun)
        if first.done():
            first.result()
        return self._resumed(first, events, stage)

    async def _resumed(
        self, first: asyncio.Task[_Event | None], events: AsyncIterator[_Event], stage: str
    ) -> AsyncGenerator[_Event, None]:
        with self.stage(stage) if stage else nullcontext():
            event = await first
            while event is not None:
                yield event
                event = await anext(events, None)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage: "decode", "model", "encode". Repeated stages add up."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.record(name, time.perf_counter() - begun)

    def record(self, name: str, seconds: float) -> None:
        """Add to a stage's time, for the answer's headers and the metrics."""
        self.timings[name] = self.timings.get(name, 0.0) + seconds

    def observe_stages(self) -> None:
        """Give the metrics each stage's time, once, at the end of the request."""
        for name, seconds in self.timings.items():
            self.gateway.metrics.stage_seconds.labels(name).observe(seconds)

    def keep(self, decoded: Decoded) -> None:
        """Close the audio with the request, and tell its client what of it could not be read."""
        self.stack.callback(decoded.close)
        if decoded.note:
            self.notes.append(decoded.note)
            self.gateway.metrics.damaged_audio_total.inc()

    def remark(self, notes: Iterable[str]) -> None:
        """Add notes to the answer's headers, each once."""
        self.notes += [note for note in dict.fromkeys(notes) if note not in self.notes]

    def finish(self, done: Done) -> None:
        """Add the notes of the last event to the answer's headers, as far as they are not sent."""
        self.remark(done.notes)

    def gateway_headers(self) -> dict[str, str]:
        """x-gateway-*: who answered, where, and how long each stage took so far (milliseconds)."""
        headers = {f"x-gateway-{name}-ms": f"{seconds * 1000:.1f}" for name, seconds in self.timings.items()}
        if self.deployment is not None:
            headers["x-ms-deployment-name"] = header_text(self.deployment.name)
        if (model := self.capabilities) is not None:
            headers |= {"x-gateway-engine": model.engine, "x-gateway-device": model.device}
            headers |= {"x-gateway-dtype": model.dtype}
        if self.fallback_from is not None and self.deployment is not None:
            headers["x-gateway-fallback"] = header_text(self.deployment.name)
        if self.notes:
            headers["x-gateway-note"] = header_text("; ".join(self.notes))
        if self.ignored:
            headers["x-gateway-ignored"] = header_text(named(self.ignored))[:_LONGEST_HEADER]
        return headers

    def answer(self, content: bytes, media_type: str) -> Response:
        """A complete answer with the request's headers. It counts as unread until it is sent."""
        if self.reservation is not None:
            self.reservation.hold(len(content))
        return Response(content, headers=self.gateway_headers() | {"content-type": media_type})

    def json(self, document: object) -> Response:
        """A complete JSON answer with the request's headers."""
        return self.answer(msgspec.json.encode(document), JSON)

    def stream(self, chunks: AsyncGenerator[bytes, None], media_type: str) -> Stream:
        """An answer sent as it is made; await the first chunk before (`peeked`), so that an error keeps its status."""
        headers = self.gateway_headers() | {
            "content-type": media_type,
            "cache-control": "no-cache, must-revalidate",
            "x-accel-buffering": "no",
        }
        return Stream(chunks, headers)

    def event_stream(self, events: AsyncIterator[bytes]) -> Stream:
        """An answer of server-sent events, kept alive while none comes."""
        return self.stream(sse.answer_body(events, self.request_id), sse.MEDIA_TYPE)


@dataclass(slots=True)
class Stream:
    """ASGI app that sends chunks as they come. Guard notices a client that leaves, not this."""

    chunks: AsyncGenerator[bytes, None]
    headers: dict[str, str]

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async with aclosing(self.chunks):  # before the request's stack is left, which closes what these read
            async for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def find_deployment(deployments: Deployments, name: str, scheme: Scheme) -> Deployment:
    """Raises DeploymentNotFound (Azure's schemes) or ModelNotFound (OpenAI's)."""
    deployment = deployments.resolve(name)
    if deployment is not None:
        return deployment
    if scheme is Scheme.OPENAI:
        raise ModelNotFound(
            f"The model {name!r} does not exist here; GET /v1/models lists those that do.", param="model"
        )
    raise DeploymentNotFound(f"The deployment {name!r} does not exist here; GET /openai/v1/models lists those that do.")


async def _next(events: AsyncIterator[_Event]) -> _Event | None:
    return await anext(events, None)


async def _cancel(task: asyncio.Task[_Event | None]) -> None:
    """Cancel a task and wait for its end: what it reads is closed next."""
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


def header_text(text: str) -> str:
    """Text as a header value: one line, anything outside printable ASCII replaced."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)
