"""The body of a speech request, read and checked: the contract's fields and our documented extra ones.

Knows the fields and their rules; decodes no audio, knows no backend's voices, runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import InvalidRequest, MissingParameter
from app.routes.context import RequestContext
from app.routes.fields import checked_number, choice, clean, read_flag, read_options, read_seed, text_field, voice_name
from app.routes.inline_audio import audio_bytes
from app.routes.json_text import decode
from app.routes.multipart import Form, parse_form
from app.routes.operations import FORM
from app.writers.formats import MEDIA_TYPES

MOST_CHARACTERS = 4096  # of input, and of instructions
MOST_TURNS = 64  # of context
_WHOLE = re.compile(r"-?[0-9]{1,100}")  # int() also takes other scripts' digits, and fails over 4,300 of them
_KNOWN = (
    "model", "input", "voice", "response_format", "speed", "instructions", "stream_format", "stream", "seed", "context",
    "reference_audio", "reference_text", "options",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier utterance, as sent: audio (still encoded) or the id of an answer, or neither."""

    speaker: str
    text: str
    audio: bytes | None = None
    answer_id: str | None = None


@dataclass(frozen=True, slots=True)
class SpeechBody:
    """One request. stream: send audio as it is made; sse: as events; ignored: keys that mean nothing here."""

    text: str
    voice: str
    format: str = "mp3"
    speed: float = 1.0
    instructions: str = ""
    stream: bool = True
    sse: bool = False
    seed: int | None = None
    context: tuple[Turn, ...] = ()
    reference_audio: bytes | None = None
    reference_text: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


def read_fields(context: RequestContext) -> dict[str, Any]:
    """The fields of the body. JSON is the rule; a form is tolerated, because Azure's reference pages show one."""
    if not context.content_type.lower().startswith(FORM):
        return context.json_body()
    form = parse_form(context.content_type, context.body, context.gateway.settings.limits.form_fields)
    fields: dict[str, Any] = {name: value for name in _KNOWN if (value := form.text(name)) is not None}
    fields |= {name: None for name in form.names() if name not in _KNOWN}  # to be told that they are ignored
    for name in ("options", "context"):
        if name in fields:
            fields[name] = _json_text(fields[name], name)
    if "stream" in fields:
        fields["stream"] = form.flag("stream")
    if "seed" in fields and _WHOLE.fullmatch(fields["seed"]):
        fields["seed"] = int(fields["seed"])
    return _with_upload(fields, form)


def read_speech(body: Mapping[str, Any]) -> SpeechBody:
    """Raises InvalidRequest or MissingParameter, naming the field."""
    stream_format = choice(body, "stream_format", ("audio", "sse"), "audio")
    reference = body.get("reference_audio")
    if isinstance(reference, str):
        reference = audio_bytes(reference, "reference_audio", "reference_audio")
    elif reference is not None and not isinstance(reference, bytes):
        raise InvalidRequest("reference_audio must be a base64 string.", param="reference_audio")
    return SpeechBody(
        text=_input(body),
        voice=voice_name(body.get("voice"), "voice"),
        format=choice(body, "response_format", tuple(MEDIA_TYPES), "mp3"),
        speed=1.0 if body.get("speed") is None else checked_number(body["speed"], "speed", 0.25, 4.0),
        instructions=clean(text_field(body, "instructions", MOST_CHARACTERS)),
        stream=read_flag(body.get("stream"), "stream", default=True),
        sse=stream_format == "sse",
        seed=read_seed(body),
        context=_context(body.get("context")),
        reference_audio=reference,
        reference_text=clean(text_field(body, "reference_text", MOST_CHARACTERS)),
        options=read_options(body),
        ignored=tuple(name for name in body if name not in _KNOWN),
    )


def _input(body: Mapping[str, Any]) -> str:
    if body.get("input") is None:
        raise MissingParameter("You must provide an input: the text to speak.", param="input")
    text = clean(text_field(body, "input", MOST_CHARACTERS))
    if not text.strip():
        raise InvalidRequest("The input has no text to speak.", param="input")
    return text


def _context(turns: object) -> tuple[Turn, ...]:
    if turns is None:
        return ()
    if not isinstance(turns, list) or len(turns) > MOST_TURNS:
        raise InvalidRequest(f"context must be a list of at most {MOST_TURNS} earlier utterances.", param="context")
    return tuple(_turn(turn, f"context[{number}]") for number, turn in enumerate(turns))


def _turn(turn: object, where: str) -> Turn:
    if not isinstance(turn, dict):
        raise InvalidRequest(f"{where} must be an object with speaker, text, and audio or answer_id.", param="context")
    speaker, text, answer_id = turn.get("speaker", ""), turn.get("text"), turn.get("answer_id")
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        raise InvalidRequest(f"{where}.text must be a string of at most {MOST_CHARACTERS} characters.", param="context")
    if isinstance(speaker, bool) or not isinstance(speaker, str | int):
        raise InvalidRequest(f"{where}.speaker must be a name or a number.", param="context")
    if answer_id is not None and not isinstance(answer_id, str):
        raise InvalidRequest(f"{where}.answer_id must be a string.", param="context")
    audio = None if turn.get("audio") is None else audio_bytes(turn["audio"], f"{where}.audio", "context")
    if audio is not None and answer_id is not None:
        raise InvalidRequest(f"{where} has both audio and answer_id; give one of them.", param="context")
    return Turn(str(speaker), clean(text), audio, answer_id)


def _with_upload(fields: dict[str, Any], form: Form) -> dict[str, Any]:
    """In a form the reference clip may be a file part."""
    if "reference_audio" in form.files:
        fields["reference_audio"] = bytes(form.files["reference_audio"].data)
    return fields


def _json_text(value: str, name: str) -> Any:
    try:
        return decode(value)
    except ValueError:
        raise InvalidRequest(f"{name} is not valid JSON.", param=name) from None
