"""What the OpenAPI document says of speech requests: fields, formats, events."""

from __future__ import annotations

from typing import Any

from app.routes.openapi_schema import Schema, array, boolean, integer, json_body, number, obj, schema_with, text
from app.writers.formats import MEDIA_TYPES

_TURN = obj(
    {
        "speaker": text("Name or number of the speaker."),
        "text": schema_with(text("What was said."), maxLength=4096),
        "audio": text("The utterance as base64 of an audio file; or use answer_id."),
        "answer_id": text("x-gateway-answer-id of an earlier answer, which is not encoded again."),
    },
    ("text",),
)
_FIELDS: dict[str, Schema] = {
    "model": text("Name of a deployment; needed unless the path names one, which wins."),
    "input": schema_with(text("The text to speak."), minLength=1, maxLength=4096),
    "voice": {
        "oneOf": [
            text("One of OpenAI's names, a configured name, or a voice of the backend; unset or default: the first."),
            obj({"id": text("")}, ("id",)),
        ]
    },
    "response_format": schema_with(text("24 kHz, 16 bit, mono."), enum=list(MEDIA_TYPES), default="mp3"),
    "speed": schema_with(number("The pitch is kept."), minimum=0.25, maximum=4.0, default=1.0),
    "instructions": schema_with(text("How to speak, for models that can."), maxLength=4096),
    "stream_format": schema_with(text("sse: events with base64 audio."), enum=["audio", "sse"], default="audio"),
    "stream": schema_with(
        boolean("Ours. false: one complete file with its length, and a whole-utterance watermark."), default=True
    ),
    "seed": integer("Ours. The same seed gives the same speech."),
    "context": schema_with(array(_TURN), maxItems=64, description="Ours. Earlier utterances of a conversation."),
    "reference_audio": text("Ours. Base64 of a clip whose voice is cloned."),
    "reference_text": schema_with(text("Ours. The clip's transcript."), maxLength=4096),
    "options": schema_with(obj({}), description="Ours. Options of the deployment's backend for this request."),
}
_USAGE = obj({name: integer("") for name in ("input_tokens", "output_tokens", "total_tokens")})

SPEAK: dict[str, Any] = {
    "summary": "Turn text into speech",
    "description": "Audio is sent as it is made. Events: speech.audio.delta (audio: base64), then speech.audio.done "
    "(usage).",
    "tags": ["speech"],
    "requestBody": json_body(obj(_FIELDS, ("input",))),
    "responses": {
        "200": {
            "description": "The audio.",
            "headers": {"x-gateway-answer-id": {"schema": text("For answer_id of a later request's context.")}},
            "content": {
                **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
                "text/event-stream": {
                    "schema": obj({"type": text(""), "audio": text("base64"), "usage": _USAGE}, ("type",))
                },
            },
        }
    },
}
