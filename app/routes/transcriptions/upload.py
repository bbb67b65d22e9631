"""The fields and the file of a transcription, from either body that clients send.

Owns the JSON form of the request, which the contract does not have and Open WebUI can send: the fields by their names
and the file as `input_audio`, an object with base64 `data`, as in a chat's message. Knows no field's rules.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.errors import MissingParameter
from app.routes.context import RequestContext
from app.routes.fields import as_mapping
from app.routes.inline_audio import audio_bytes
from app.routes.multipart import Form, UploadedFile, parse_form
from app.routes.operations import FORM

_AUDIO = "input_audio"


def read_upload(context: RequestContext) -> Form:
    """Raises BrokenBody, or InvalidRequest and its kin, naming the field."""
    if context.content_type.lower().startswith(FORM):
        return parse_form(context.content_type, context.body, context.gateway.settings.limits.form_fields)
    return form_of_json(context.json_body())


def form_of_json(body: dict[str, Any]) -> Form:
    """A JSON body as the form that says the same: null is unset, a list is name[], other values are their JSON."""
    if body.get(_AUDIO) is None:
        raise MissingParameter(
            'You must upload a file: as multipart/form-data, or as "input_audio": {"data": BASE64}.', param=_AUDIO
        )
    form = Form()
    for name, value in body.items():
        for text in value if isinstance(value, list) else [value]:
            if name != _AUDIO and text is not None:
                _add(form, f"{name}[]" if isinstance(value, list) else name, text)
    data = as_mapping(body[_AUDIO], _AUDIO).get("data")
    form.files["file"] = UploadedFile("", memoryview(audio_bytes(data, f"{_AUDIO}.data", _AUDIO)))
    return form


def _add(form: Form, name: str, value: object) -> None:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode("utf-8")
    form.count_text(name, len(text.encode("utf-8", "surrogatepass")))
    form.texts.append((name, text))
