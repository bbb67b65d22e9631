"""How the server is: /health for people, /health/live and /health/ready for supervisors, /metrics for Prometheus.

Liveness never depends on a model; readiness does. None of these needs a key, but ?deep=1 where keys are set: it makes
the models work. Also the control routes that load and unload
a deployment, which need the admin key.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.types import ASGIApp

from app import VERSION
from app.booleans import is_true
from app.config.deployments import Deployment
from app.errors import ApiError, NotFound
from app.routes.context import Gateway, RequestContext
from app.routes.openapi_schema import answers, array, integer, number, obj, schema_with, text
from app.routes.operations import JSON, WORK_QUERY, Operation, Scheme
from app.serving.interfaces import DeploymentStatus

DEEP_SECONDS = 30.0  # a canary that takes longer has failed
_STARTING = ("pulling", "loading")

_HEALTH = obj(
    {
        "status": schema_with(text(""), enum=["ok", "loading", "degraded", "draining"]),
        "version": text(""),
        "uptime_seconds": number(""),
        "devices": array(obj({"id": text(""), "kind": text(""), "name": text("")})),
        "deployments": {"type": "object", "additionalProperties": obj({"state": text(""), "backend": text("")})},
        "in_flight": integer(""),
        "realtime": obj({"sessions": integer(""), "limits": obj({})}, ("sessions", "limits")),
    },
    ("status", "version", "uptime_seconds", "devices", "deployments", "in_flight"),
)
_READY = obj({"status": text(""), "reasons": array(text(""))}, ("status", "reasons"))


async def health(context: RequestContext) -> ASGIApp:
    """The whole document; with ?deep=1 every loaded deployment runs its canary first."""
    gateway = context.gateway
    failures = await _canaries(gateway) if is_true(context.query.get(WORK_QUERY)) else {}
    statuses = gateway.pool.status()
    deployments = {name: msgspec.to_builtins(status) for name, status in statuses.items()}
    for name, message in failures.items():
        deployments[name]["error"] = message
    document = {
        "status": "degraded" if failures and not gateway.draining else _overall(gateway, statuses),
        "version": VERSION,
        "uptime_seconds": round(time.monotonic() - gateway.started, 1),
        "devices": [msgspec.to_builtins(device) for device in gateway.pool.devices()],
        "deployments": deployments,
        "in_flight": gateway.in_flight,
        "realtime": gateway.realtime.status(),
    }
    return Response(msgspec.json.encode(document), media_type=JSON)


async def live(context: RequestContext) -> ASGIApp:
    """The event loop turns; nothing else is asked."""
    return Response(b'{"status":"ok"}', media_type=JSON)


async def ready(context: RequestContext) -> ASGIApp:
    """503 with the reasons while draining, loading what must be loaded at start, or after a failed load."""
    reasons = _not_ready(context.gateway)
    if reasons:
        body = msgspec.json.encode({"status": "not ready", "reasons": reasons})
        return Response(body, 503, {"retry-after": "2", "retry-after-ms": "2000"}, JSON)
    return Response(b'{"status":"ready","reasons":[]}', media_type=JSON)


async def metrics(context: RequestContext) -> ASGIApp:
    return Response(context.gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)


async def load(context: RequestContext) -> ASGIApp:
    """Load a deployment now."""
    deployment = _controlled(context)
    await context.gateway.pool.load(deployment.name)
    return _state(context, deployment)


async def unload(context: RequestContext) -> ASGIApp:
    """End a deployment's worker and give its memory back."""
    deployment = _controlled(context)
    await context.gateway.pool.unload(deployment.name)
    return _state(context, deployment)


def _state(context: RequestContext, deployment: Deployment) -> ASGIApp:
    return context.json({"deployment": deployment.name, "state": context.gateway.pool.status()[deployment.name].state})


def _controlled(context: RequestContext) -> Deployment:
    if not context.parameter:
        raise NotFound("Resource not found.")
    return context.find(context.parameter)


def _overall(gateway: Gateway, statuses: dict[str, DeploymentStatus]) -> str:
    if gateway.draining or gateway.pool.draining:
        return "draining"
    if any(status.state in _STARTING for status in statuses.values()):
        return "loading"
    return "degraded" if any(status.state == "failed" for status in statuses.values()) else "ok"


def _not_ready(gateway: Gateway) -> list[str]:
    """What keeps the server from being ready: only deployments that are loaded at start count, others load when asked
    for."""
    if gateway.draining or gateway.pool.draining:
        return ["draining"]
    reasons = []
    for name, status in gateway.pool.status().items():
        if gateway.deployments[name].preload and status.state not in ("ready", "busy", "unloaded"):
            reasons.append(f"{name}: {status.state}" + (f": {status.error}" if status.error else ""))
    return reasons


async def _canaries(gateway: Gateway) -> dict[str, str]:
    """Error by name of the loaded deployments whose canary failed."""
    loaded = [name for name, status in gateway.pool.status().items() if status.state in ("ready", "busy")]
    outcomes = await asyncio.gather(
        *(gateway.canaries.run(gateway.deployments[name], DEEP_SECONDS) for name in loaded), return_exceptions=True
    )
    failures: dict[str, str] = {}
    for name, outcome in zip(loaded, outcomes, strict=True):
        if isinstance(outcome, ApiError):
            failures[name] = f"canary: {outcome.message}"
        elif isinstance(outcome, BaseException):
            raise outcome
    return failures


_LOCAL = frozenset({Scheme.LOCAL})
_STATE_SCHEMA: dict[str, Any] = obj({"deployment": text(""), "state": text("")}, ("deployment", "state"))
OPERATIONS = (
    Operation(
        "health",
        "GET",
        health,
        access="public",
        schemes=_LOCAL,
        doc={
            "summary": "State of the server, its devices and deployments",
            "parameters": [{"name": "deep", "in": "query", "schema": {"type": "string"}}],
            "responses": answers(_HEALTH),
        },
    ),
    Operation(
        "health/live",
        "GET",
        live,
        access="public",
        schemes=_LOCAL,
        doc={"summary": "The process answers", "responses": answers(obj({"status": text("")}, ("status",)))},
    ),
    Operation(
        "health/ready",
        "GET",
        ready,
        access="public",
        schemes=_LOCAL,
        doc={
            "summary": "Work is welcome",
            "responses": answers(_READY) | {"503": answers(_READY, "Not now; the reasons say why.")["200"]},
        },
    ),
    Operation(
        "metrics",
        "GET",
        metrics,
        access="public",
        schemes=_LOCAL,
        doc={
            "summary": "Prometheus metrics",
            "responses": {"200": {"description": "Text format.", "content": {"text/plain": {"schema": text("")}}}},
        },
    ),
    Operation(
        "admin/load/{deployment}",
        "POST",
        load,
        access="admin",
        schemes=_LOCAL,
        doc={"summary": "Load a deployment now", "responses": answers(_STATE_SCHEMA)},
    ),
    Operation(
        "admin/unload/{deployment}",
        "POST",
        unload,
        access="admin",
        schemes=_LOCAL,
        doc={"summary": "Unload a deployment and give its memory back", "responses": answers(_STATE_SCHEMA)},
    ),
)
