"""What the OpenAPI document says of the realtime operations."""

from __future__ import annotations

from typing import Any

from app.routes.openapi_schema import answers, integer, json_body, obj, schema_with, text


def _query(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": text(description)}


CONNECT: dict[str, Any] = {
    "summary": "Live transcription and spoken conversation (WebSocket)",
    "description": "Upgrade to a WebSocket and exchange JSON events, as docs/realtime.md tells.",
    "tags": ["realtime"],
    "parameters": [
        _query("model", "Name of a model or deployment (also: deployment)."),
        _query("intent", "transcription: a session that only writes down what is said."),
    ],
    "responses": {
        "101": {"description": "The session is open; its first event is session.created."},
        "426": {"description": "The request asked for no upgrade."},
    },
}

_SECONDS = schema_with(integer("How long the key opens sessions."), minimum=10, maximum=7200)
_ANCHOR = schema_with(text(""), enum=["created_at"])
_SECRET = obj({"value": text("Begins with ek_."), "expires_at": integer("Unix time.")}, ("value", "expires_at"))
_SESSION = obj({"type": schema_with(text(""), enum=["realtime", "transcription"])})

CLIENT_SECRET: dict[str, Any] = {
    "summary": "An ephemeral key for a page",
    "description": "The key opens sessions that begin as `session` says, until it expires.",
    "tags": ["realtime"],
    "requestBody": json_body(
        obj({"expires_after": obj({"anchor": _ANCHOR, "seconds": _SECONDS}), "session": _SESSION})
    ),
    "responses": answers(
        obj({"value": text("Begins with ek_."), "expires_at": integer("Unix time."), "session": _SESSION}, ("value",))
    ),
}


def _preview(summary: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "tags": ["realtime"],
        "requestBody": json_body(obj({"client_secret": obj({"expires_at": obj({"seconds": _SECONDS})})})),
        "responses": answers(obj({"id": text(""), "client_secret": _SECRET}, ("client_secret",))),
    }


PREVIEW_SESSION = _preview("The preview's form of a key for a conversation")
PREVIEW_TRANSCRIPTION_SESSION = _preview("The preview's form of a key for transcription")
