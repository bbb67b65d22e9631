"""What the OpenAPI document says of transcriptions and translations: fields, bodies, events."""

from __future__ import annotations

from typing import Any

from app.routes.fields import KEYWORD_CHARACTERS, MOST_KEYWORDS
from app.routes.openapi_schema import Schema, array, form, integer, json_body, number, obj, schema_with, text
from app.writers.transcripts import FORMATS

_FILE: Schema = {
    "type": "string",
    "format": "binary",
    "description": "flac, mp3, mp4, mpeg, mpga, m4a, oga, ogg, wav or webm; recognised by content.",
}
_MODEL = text("Name of a deployment; needed unless the path names one, which wins.")
_TEMPERATURE = schema_with(
    number("0 lets the model raise it where it repeats itself."), minimum=0, maximum=1, default=0
)
_LANGUAGE = text("ISO 639-1 code such as en (639-2 codes and English names work too); unset or auto: detected.")

_FIELDS: dict[str, Schema] = {
    "file": _FILE,
    "model": _MODEL,
    "language": _LANGUAGE,
    "languages[]": array(text("A language that may be spoken; no other is detected. One alone is the language.")),
    "keywords[]": schema_with(
        array(schema_with(text("A name or term to expect."), maxLength=KEYWORD_CHARACTERS)), maxItems=MOST_KEYWORDS
    ),
    "prompt": text("Text that might have come before; steers spelling."),
    "response_format": schema_with(text(""), enum=list(FORMATS), default="json"),
    "temperature": _TEMPERATURE,
    "timestamp_granularities[]": array(schema_with(text(""), enum=["word", "segment"])),
    "include[]": array(schema_with(text(""), enum=["logprobs"])),
    "stream": {"type": "boolean", "default": False},
    "chunking_strategy": text('"auto", or a JSON object {"type": "server_vad", ...}.'),
    "known_speaker_names[]": schema_with(array(text("")), maxItems=4),
    "known_speaker_references[]": schema_with(array(text("data: URL of a clip of 2 to 10 s.")), maxItems=4),
    "num_speakers": integer("How many speakers there are, where that is known."),
    "min_speakers": integer("At least so many speakers."),
    "max_speakers": integer("At most so many speakers."),
    "diarize": {
        "type": "boolean",
        "default": False,
        "description": "Speakers in verbose_json, srt and vtt too.",
    },
}
_TRANSLATION_FIELDS = {
    "file": _FILE,
    "model": _MODEL,
    "prompt": text("English text that might have come before."),
    "response_format": schema_with(
        text(""), enum=[name for name in FORMATS if name not in ("diarized_json", "rttm")], default="json"
    ),
    "temperature": _TEMPERATURE,
}

_USAGE = obj({"type": schema_with(text(""), enum=["duration"]), "seconds": integer("Rounded up.")}, ("type", "seconds"))
_LOGPROB = obj({"token": text(""), "bytes": array(integer("")), "logprob": number("")}, ("token", "bytes", "logprob"))
_SEGMENT_FIELDS = {
    "id": integer(""),
    "seek": integer("10 ms frames."),
    "start": number("Seconds."),
    "end": number("Seconds."),
    "text": text(""),
    "tokens": array(integer("")),
    "temperature": number(""),
    "avg_logprob": number(""),
    "compression_ratio": number(""),
    "no_speech_prob": number(""),
}
_SPEAKER = {"speaker": text("With diarize = true.")}
_WORD = obj(
    {"word": text(""), "start": number("Seconds."), "end": number("Seconds."), **_SPEAKER}, ("word", "start", "end")
)
_SPOKEN = obj(
    {
        "type": schema_with(text(""), enum=["transcript.text.segment"]),
        "id": text(""),
        "start": number("Seconds."),
        "end": number("Seconds."),
        "text": text(""),
        "speaker": text(""),
    },
    ("type", "id", "start", "end", "text", "speaker"),
)
SCHEMAS: dict[str, Schema] = {
    "Transcription": obj({"text": text(""), "usage": _USAGE, "logprobs": array(_LOGPROB)}, ("text",)),
    "VerboseTranscription": obj(
        {
            "task": schema_with(text(""), enum=["transcribe", "translate"]),
            "language": text("Lower-case English name."),
            "duration": number("Seconds."),
            "text": text(""),
            "segments": array(obj({**_SEGMENT_FIELDS, **_SPEAKER}, tuple(_SEGMENT_FIELDS))),
            "words": array(_WORD),
            "usage": _USAGE,
        },
        ("task", "language", "duration", "text"),
    ),
    "DiarizedTranscription": obj(
        {
            "task": text(""),
            "duration": number("Seconds."),
            "text": text(""),
            "segments": array(_SPOKEN),
            "usage": _USAGE,
        },
        ("task", "duration", "text", "segments"),
    ),
}


def _answers(names: tuple[str, ...], streamed: bool) -> dict[str, Any]:
    shapes = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}
    content: dict[str, Any] = {
        "application/json": {"schema": shapes},
        "text/plain": {"schema": text("response_format text, srt, vtt or rttm.")},
    }
    if streamed:
        events = "transcript.text.delta, transcript.text.segment and transcript.text.done events, then [DONE]."
        content["text/event-stream"] = {"schema": text(events)}
    return {"200": {"description": "The transcript.", "content": content}}


def _bodies(fields: dict[str, Schema]) -> dict[str, Any]:
    """The contract's form, and the same fields in JSON, with the file in base64."""
    body = form(fields, ("file",))
    file = obj({"data": text("Base64 of the file."), "format": text("Not used.")}, ("data",))
    others = {name.removesuffix("[]"): schema for name, schema in fields.items() if name != "file"}
    body["content"] |= json_body(obj({"input_audio": file, **others}, ("input_audio",)))["content"]
    return body


TRANSCRIBE: dict[str, Any] = {
    "summary": "Transcribe an audio file",
    "requestBody": _bodies(_FIELDS),
    "responses": _answers(("Transcription", "VerboseTranscription", "DiarizedTranscription"), True),
}
TRANSLATE: dict[str, Any] = {
    "summary": "Translate an audio file into English text",
    "requestBody": _bodies(_TRANSLATION_FIELDS),
    "responses": _answers(("Transcription", "VerboseTranscription"), False),
}
