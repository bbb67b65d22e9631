"""POST realtime/client_secrets, and the preview's realtime/sessions and realtime/transcription_sessions.

Owns what an ephemeral key, which pages use, is asked for with, and the shapes of the answers. Keys are kept by
`app/realtime/hub.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp

from app.errors import InvalidRequest
from app.realtime.driver import new_id
from app.realtime.handshake import DEFAULT_MODEL
from app.realtime.participants import Participants
from app.realtime.preview import Dialect
from app.realtime.session import Kind, Session
from app.routes.context import RequestContext
from app.routes.fields import as_mapping
from app.routes.json_text import NAME_CHARACTERS
from app.routes.operations import JSON, LISTING_SCHEMES, Operation
from app.routes.realtime import schema

SHORTEST_SECONDS, LONGEST_SECONDS, USUAL_SECONDS = 10, 7200, 600
PREVIEW_SECONDS = 60


async def client_secret(context: RequestContext) -> ASGIApp:
    """An ephemeral key, bound to the session that it will open."""
    body = context.json_body() if context.body else {}
    given = dict(as_mapping({"type": "realtime"} if body.get("session") is None else body["session"], "session"))
    if given.get("type") not in ("realtime", "transcription"):
        raise InvalidRequest("session.type must be realtime or transcription.", param="session.type")
    seconds = _seconds(body.get("expires_after"), "expires_after", USUAL_SECONDS)
    session, key = _made(context, given, seconds)
    return context.json({"value": key.value, "expires_at": key.expires_at, "session": session.document()})


async def preview_session(context: RequestContext) -> ASGIApp:
    """The same in the preview's shape, for a conversation."""
    return _preview(context, "session.update", PREVIEW_SECONDS)


async def preview_transcription_session(context: RequestContext) -> ASGIApp:
    """The same in the preview's shape, for transcription."""
    return _preview(context, "transcription_session.update", PREVIEW_SECONDS)


def _preview(context: RequestContext, kind: str, usual: int) -> ASGIApp:
    body = context.json_body() if context.body else {}
    secret = as_mapping(body.pop("client_secret", None) or {}, "client_secret")
    seconds = _seconds(secret.get("expires_at") or secret.get("expires_after"), "client_secret.expires_at", usual)
    dialect = Dialect(preview=True)
    given = dict(dialect.incoming({"type": kind, "session": body})["session"])
    given.setdefault("type", "realtime")
    session, key = _made(context, given, seconds)
    secret_document = {"value": key.value, "expires_at": key.expires_at}
    return context.json(dialect.flat(session.document()) | {"client_secret": secret_document})


def _made(context: RequestContext, given: dict[str, Any], seconds: int) -> tuple[Session, Any]:
    """The session, checked, and its key. Raises ApiError."""
    gateway, kind = context.gateway, given["type"]
    participants = Participants(gateway, None, owner=context.client, request_id=context.request_id)
    session = Session(
        _kind(kind), new_id("sess_"), _model(given), int(time.time()) + seconds, participants.surroundings()
    )
    session.update(given)
    return session, gateway.realtime.keys.new(context.client, context.owner, seconds, given)


def _kind(name: str) -> Kind:
    return "transcription" if name == "transcription" else "realtime"


def _model(given: Mapping[str, Any]) -> str:
    """A conversation's; a transcription's stands in its audio."""
    if given["type"] == "transcription":
        return ""
    model = given.get("model")
    if model is not None and (not isinstance(model, str) or not 0 < len(model) <= NAME_CHARACTERS):
        raise InvalidRequest(
            f"session.model must be a string of at most {NAME_CHARACTERS} characters.", param="session.model"
        )
    return model or DEFAULT_MODEL


def _seconds(given: object, param: str, usual: int) -> int:
    if given is None:
        return usual
    wanted = as_mapping(given, param)
    if wanted.get("anchor", "created_at") != "created_at":
        raise InvalidRequest(f"{param}.anchor must be created_at.", param=f"{param}.anchor")
    seconds = wanted.get("seconds", usual)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise InvalidRequest(
            f"{param}.seconds must be a whole number from {SHORTEST_SECONDS} to {LONGEST_SECONDS}.",
            param=f"{param}.seconds",
        )
    return seconds


OPERATIONS = (
    Operation(
        "realtime/client_secrets",
        "POST",
        client_secret,
        schemes=LISTING_SCHEMES,
        consumes=(JSON,),
        doc=schema.CLIENT_SECRET,
    ),
    Operation(
        "realtime/sessions",
        "POST",
        preview_session,
        schemes=LISTING_SCHEMES,
        consumes=(JSON,),
        doc=schema.PREVIEW_SESSION,
    ),
    Operation(
        "realtime/transcription_sessions",
        "POST",
        preview_transcription_session,
        schemes=LISTING_SCHEMES,
        consumes=(JSON,),
        doc=schema.PREVIEW_TRANSCRIPTION_SESSION,
    ),
)
