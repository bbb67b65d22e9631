"""Custom voices and consents as clients see them: documents, pages of listings, and what the OpenAPI document says.

Knows no files and no request but the query of a listing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.custom_voices import Recording
from app.errors import InvalidRequest
from app.routes.fields import checked_number
from app.routes.openapi_schema import array, boolean, form, integer, json_body, obj, schema_with, text

MOST_BYTES = 10 * 1024 * 1024  # of a recording, by the contract
NAME_CHARACTERS = 256

Document = Callable[[Recording], dict[str, Any]]


def page(query: Mapping[str, str], recordings: Sequence[Recording], document: Document) -> dict[str, Any]:
    """A part of a listing, by `limit` (1 to 100, 20) and `after` (an id). Raises InvalidRequest."""
    limit = int(checked_number(query.get("limit") or 20, "limit", 1, 100))
    identities = [one.id for one in recordings]
    first = 0
    if after := query.get("after"):
        if after not in identities:
            raise InvalidRequest(f"after is {after[:64]!r}, which is not in the list.", param="after")
        first = identities.index(after) + 1
    shown = recordings[first : first + limit]
    return {
        "object": "list",
        "data": [document(one) for one in shown],
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": first + limit < len(recordings),
    }


def voice_document(voice: Recording) -> dict[str, Any]:
    return {
        "id": voice.id,
        "object": "audio.voice",
        "type": "audio_sample",
        "name": voice.name,
        "created_at": voice.created_at,
    }


def consent_document(consent: Recording) -> dict[str, Any]:
    return {
        "id": consent.id,
        "object": "audio.voice_consent",
        "name": consent.name,
        "language": consent.language,
        "created_at": consent.created_at,
    }


_BINARY = {"type": "string", "format": "binary", "description": f"Audio of at most {MOST_BYTES} bytes."}
_NAME = schema_with(text("For people."), maxLength=NAME_CHARACTERS)
_VOICE_FIELDS = {
    "id": text("What a speech request's voice names."),
    "object": schema_with(text(""), enum=["audio.voice"]),
    "type": schema_with(text(""), enum=["audio_sample"]),
    "name": _NAME,
    "created_at": integer("Unix time."),
}
_CONSENT_FIELDS = {
    "id": text(""),
    "object": schema_with(text(""), enum=["audio.voice_consent"]),
    "name": _NAME,
    "language": text("BCP 47 tag."),
    "created_at": integer("Unix time."),
}
VOICE, CONSENT = obj(_VOICE_FIELDS, tuple(_VOICE_FIELDS)), obj(_CONSENT_FIELDS, tuple(_CONSENT_FIELDS))
_PAGE_FIELDS = {
    "object": schema_with(text(""), enum=["list"]),
    "first_id": {"type": ["string", "null"]},
    "last_id": {"type": ["string", "null"]},
    "has_more": boolean("Ask again with after = last_id."),
}
VOICE_PAGE_FIELDS: dict[str, Any] = {**_PAGE_FIELDS, "data": array(VOICE)}
CONSENT_PAGE = obj({**_PAGE_FIELDS, "data": array(CONSENT)}, ("object", "data"))
VOICE_FORM = form(
    {
        "name": _NAME,
        "audio_sample": _BINARY,
        "consent": text("Id of a voice consent."),
        "type": schema_with(text(""), enum=["audio_sample"], default="audio_sample"),
        "reference_text": text("What the clip says; transcribed where it is left out."),
        "model": text("The deployment that is to clone it; the first that can where it is left out."),
    },
    ("name", "audio_sample", "consent"),
)
CONSENT_FORM = form(
    {"name": _NAME, "language": text("BCP 47 tag such as en-US."), "recording": _BINARY},
    ("name", "language", "recording"),
)
RENAME = json_body(obj({"name": _NAME}, ("name",)))
