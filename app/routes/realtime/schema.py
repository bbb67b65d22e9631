"""What the OpenAPI document says of the realtime operations."""

from __future__ import annotations

from typing import Any

from app.routes.openapi_schema import text


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
