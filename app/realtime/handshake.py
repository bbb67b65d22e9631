"""What a client asks for by the URL and the headers of its WebSocket handshake.

Owns every form that clients use to name a model, a kind of session and a key. Opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, QueryParams

from app.config.deployments import Deployment, Deployments
from app.errors import ApiError, InvalidRequest, NotFound
from app.realtime.session import Kind
from app.routes.context import find_deployment
from app.routes.operations import Scheme

SUBPROTOCOL = "realtime"
_KEY_SUBPROTOCOL = "openai-insecure-api-key."
_PREVIEW_SUBPROTOCOL = "openai-beta.realtime-v1"
_KEY_QUERIES = ("api-key", "api_key")
DEFAULT_MODEL = "gpt-realtime"
# Names of upstream's models that hold a conversation; deployments and aliases of such a name come first.
_CONVERSATION_MODELS = re.compile(r"gpt-(4o-|4o-mini-)?realtime(?!.*(whisper|transcri|transl)).*")


@dataclass(frozen=True, slots=True)
class Handshake:
    """kind: None = the first update decides; model: of the session, "" if none was named; chat: a deployment that the
    URL names to answer; preview: the preview's shape until a message shows otherwise; defaults: a session object from
    the URL."""

    kind: Kind | None
    model: str
    chat: Deployment | None
    preview: bool
    defaults: Mapping[str, Any] | None = None


def read_handshake(
    query: QueryParams,
    headers: Headers,
    subprotocols: Sequence[str],
    deployments: Deployments,
    scheme: Scheme,
    *,
    named: str = "",
    ephemeral: Mapping[str, Any] | None = None,
) -> Handshake:
    """named: a deployment in the path; ephemeral: the session object of an ephemeral key. Raises ApiError."""
    model = named or query.get("model") or query.get("deployment") or ""
    intent = query.get("intent")
    if intent not in (None, "", "transcription", "conversation"):
        raise InvalidRequest("intent must be transcription, or left out.", param="intent")
    if query.get("call_id"):
        raise NotFound("There is no such call: calls over WebRTC and SIP are not served.", param="call_id")
    kind = _kind(intent, model, ephemeral)
    preview = "realtime=v1" in headers.get("openai-beta", "") or _PREVIEW_SUBPROTOCOL in subprotocols
    if kind == "transcription":
        model = query.get("transcription_model") or _transcription_model(model, deployments, scheme)
        return Handshake(kind, model, None, preview, ephemeral or _input_defaults(query, ("language",)))
    model = model or (ephemeral or {}).get("model") or DEFAULT_MODEL
    chat = _chat(model, deployments, scheme)
    defaults = ephemeral or _input_defaults(query, ("transcription_model", "language"))
    return Handshake(kind, model, chat, preview, defaults)


def handshake_keys(query: QueryParams, subprotocols: Sequence[str]) -> Iterator[bytes]:
    """Keys where only a WebSocket has them: browsers cannot set its headers."""
    for name in subprotocols:
        if name.startswith(_KEY_SUBPROTOCOL) and (key := name.removeprefix(_KEY_SUBPROTOCOL)):
            yield key.encode("latin-1", "replace")
    for name in _KEY_QUERIES:
        if key := query.get(name, "").strip():
            yield key.encode()


def chosen_subprotocol(subprotocols: Sequence[str]) -> str | None:
    """`realtime` where it is offered: a client closes on another one, or on none; a key must not be sent back."""
    return next((name for name in (SUBPROTOCOL, _PREVIEW_SUBPROTOCOL) if name in subprotocols), None)


def _transcription_model(name: str, deployments: Deployments, scheme: Scheme) -> str:
    """A recognizer's name; "" where none or a conversation's was named, which some clients always do."""
    if not name:
        return ""
    found = deployments.resolve(name)
    if found is None and _CONVERSATION_MODELS.fullmatch(name):
        return ""
    if found is None:
        find_deployment(deployments, name, scheme)
    elif not {"transcription", "diarization"} & set(found.tasks):
        if "chat" in found.tasks:
            return ""
        raise _no_realtime_model(name)
    return name


def _chat(name: str, deployments: Deployments, scheme: Scheme) -> Deployment | None:
    """The deployment that the name means; None: the configured one."""
    found = deployments.resolve(name)
    if found is not None and "chat" in found.tasks:
        return found
    if found is None and _CONVERSATION_MODELS.fullmatch(name):
        return None
    if found is None:
        find_deployment(deployments, name, scheme)
    raise _no_realtime_model(name)


def _no_realtime_model(name: str) -> ApiError:
    return InvalidRequest(
        f"The realtime operation does not work with the model {name[:256]!r}. A session that only transcribes has "
        "intent=transcription in its URL.",
        param="model",
        code="OpperationNotSupported",  # so spelled by Azure
    )


def _kind(intent: str | None, model: str, ephemeral: Mapping[str, Any] | None) -> Kind | None:
    """An ephemeral key's session decides, as its client may add a model to any URL."""
    if ephemeral is not None:
        return "transcription" if ephemeral.get("type") == "transcription" else "realtime"
    if intent == "transcription":
        return "transcription"
    return "realtime" if intent or model else None


def _input_defaults(query: QueryParams, names: tuple[str, ...]) -> Mapping[str, Any] | None:
    """A session object of queries that some clients use."""
    given = {name.removeprefix("transcription_"): value for name in names if (value := query.get(name))}
    return {"audio": {"input": {"transcription": given}}} if given else None
