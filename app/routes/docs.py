"""The API's own description: /openapi.json, and a page that shows it without reaching for any other site.

Both are open: they say what every copy of this server says.
"""

from __future__ import annotations

import functools
from importlib.resources import files

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp

from app.routes.context import RequestContext
from app.routes.openapi import document
from app.routes.openapi_schema import text
from app.routes.operations import JSON, Operation, Scheme

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


async def openapi(context: RequestContext) -> ASGIApp:
    return Response(_document(context.gateway.operations), media_type=JSON)


async def page(context: RequestContext) -> ASGIApp:
    return Response(_page(), headers={"content-security-policy": _POLICY}, media_type="text/html")


@functools.cache
def _document(operations: tuple[Operation, ...]) -> bytes:
    return msgspec.json.encode(document(operations))


@functools.cache
def _page() -> bytes:
    return files("app").joinpath("routes/docs.html").read_bytes()


_LOCAL = frozenset({Scheme.LOCAL})
_HTML = {"200": {"description": "A page.", "content": {"text/html": {"schema": text("")}}}}
OPERATIONS = (
    Operation(
        "openapi.json",
        "GET",
        openapi,
        access="public",
        schemes=_LOCAL,
        doc={
            "summary": "This description",
            "responses": {"200": {"description": "OpenAPI 3.1.", "content": {JSON: {"schema": {"type": "object"}}}}},
        },
    ),
    Operation(
        "docs", "GET", page, access="public", schemes=_LOCAL, doc={"summary": "A page for people", "responses": _HTML}
    ),
    Operation("", "GET", page, access="public", schemes=_LOCAL, doc={"summary": "The same page", "responses": _HTML}),
)
