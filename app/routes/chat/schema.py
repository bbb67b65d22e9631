"""What the OpenAPI document says of chat completions and of questions about a file."""

from __future__ import annotations

from typing import Any

from app.routes.chat.request import MOST_STOPS
from app.routes.openapi_schema import (
    Schema,
    answers,
    array,
    boolean,
    form,
    integer,
    json_body,
    number,
    obj,
    schema_with,
    text,
)
from app.writers.formats import CHAT_FORMATS, INPUT_FORMATS

_PART = obj(
    {
        "type": schema_with(text(""), enum=["text", "input_audio"]),
        "text": text(""),
        "input_audio": obj(
            {"data": text("base64"), "format": schema_with(text(""), enum=list(INPUT_FORMATS))}, ("data",)
        ),
    },
    ("type",),
)
_MESSAGE = obj(
    {
        "role": schema_with(text(""), enum=["system", "developer", "user", "assistant"]),
        "content": {"oneOf": [text(""), array(_PART), {"type": "null"}]},
        "audio": obj({"id": text("Of an earlier spoken answer; good for an hour.")}, ("id",)),
    },
    ("role",),
)
_SAMPLING: dict[str, Schema] = {
    "max_tokens": schema_with(integer("Older name of max_completion_tokens."), minimum=1),
    "max_completion_tokens": schema_with(integer("Longest answer."), minimum=1),
    "temperature": schema_with(number(""), minimum=0, maximum=2),
    "top_p": schema_with(number(""), minimum=0, maximum=1),
    "seed": integer("The same seed gives the same answer."),
}
_VOICE = {"oneOf": [text("A voice of the speech deployment."), obj({"id": text("")}, ("id",))]}
_FIELDS: dict[str, Schema] = {
    "model": text("Name of a deployment; needed unless the path names one, which wins."),
    "messages": schema_with(array(_MESSAGE), minItems=1),
    "modalities": array(schema_with(text(""), enum=["text", "audio"])),
    "audio": obj({"voice": _VOICE, "format": schema_with(text(""), enum=list(CHAT_FORMATS))}, ("voice", "format")),
    "stream": schema_with(boolean("Spoken answers are streamed as pcm16 only."), default=False),
    "stream_options": obj({"include_usage": boolean("")}),
    **_SAMPLING,
    "stop": {"oneOf": [text(""), schema_with(array(text("")), maxItems=MOST_STOPS)]},
    "options": schema_with(obj({}), description="Ours. Options of the deployment's backend for this request."),
}
_USAGE = obj({name: integer("") for name in ("prompt_tokens", "completion_tokens", "total_tokens")})
_ANSWER = obj(
    {
        "id": text(""),
        "object": schema_with(text(""), enum=["chat.completion"]),
        "created": integer("Unix time."),
        "model": text(""),
        "choices": array(obj({"index": integer(""), "message": obj({}), "finish_reason": text("")})),
        "usage": _USAGE,
    },
    ("id", "object", "created", "model", "choices", "usage"),
)
_FORM_FIELDS: dict[str, Schema] = {
    "model": text("Name of a deployment; needed unless the path names one, which wins."),
    "file": {"type": "string", "format": "binary", "description": "Audio in any supported format."},
    "question": text("What to ask about it."),
    "system": text("How to answer."),
    "response_format": schema_with(text(""), enum=["json", "text"], default="json"),
    **_SAMPLING,
    "stop": array(text("")),
    "options": text("JSON object of options of the deployment's backend."),
}

COMPLETE: dict[str, Any] = {
    "summary": "Answer questions about audio",
    "description": "A streamed answer is a sequence of chat.completion.chunk events that ends with [DONE].",
    "tags": ["chat"],
    "requestBody": json_body(obj(_FIELDS, ("messages",))),
    "responses": answers(_ANSWER),
}
ASK: dict[str, Any] = {
    "summary": "Ask about an audio file (ours, for curl)",
    "tags": ["chat"],
    "requestBody": form(_FORM_FIELDS, ("file", "question")),
    "responses": answers(obj({"text": text(""), "finish_reason": text(""), "usage": _USAGE}, ("text", "usage"))),
}
