"""The preview's shape of the protocol, mapped at the edge: events of the client into the GA shape, ours out of it.

Owns the renamed events and the flat session, and which of the shapes a client speaks: its messages decide, a header or
a subprotocol only until the first update. Knows no session's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = dict[str, Any]
_TRANSCRIPTION_UPDATE = "transcription_session.update"
_DEFAULT_TEMPERATURE = 0.8  # shown; no model here takes one in a session
_EVENTS = {
    "conversation.item.added": "conversation.item.created",
    **{
        f"response.output_{kind}.{end}": f"response.{kind}.{end}"
        for kind in ("text", "audio", "audio_transcript")
        for end in ("delta", "done")
    },
}
# Of which the preview knows nothing.
_DROPPED = (
    "conversation.item.done",
    "conversation.item.input_audio_transcription.segment",
    "input_audio_buffer.timeout_triggered",
)
_CONTENT = {"output_text": "text", "output_audio": "audio"}
_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_FORMAT_NAMES = {coding: name for name, coding in _FORMATS.items()}
# Key of the flat session -> where it stands in the GA shape.
_PLACES: Mapping[str, tuple[str, ...]] = {
    "modalities": ("output_modalities",),
    "input_audio_format": ("audio", "input", "format"),
    "input_audio_transcription": ("audio", "input", "transcription"),
    "input_audio_noise_reduction": ("audio", "input", "noise_reduction"),
    "turn_detection": ("audio", "input", "turn_detection"),
    "output_audio_format": ("audio", "output", "format"),
    "voice": ("audio", "output", "voice"),
    "speed": ("audio", "output", "speed"),
    "max_response_output_tokens": ("max_output_tokens",),
    **{name: (name,) for name in ("instructions", "tools", "tool_choice", "tracing", "include")},
}
_GA_KEYS = ("type", "audio", "output_modalities", "max_output_tokens")
_SHOWN_AS_THEY_ARE = ("id", "model", "expires_at")


class Dialect:
    """Translates between one client and the core. preview: whether it speaks the preview's shape, as far as known."""

    def __init__(self, *, preview: bool) -> None:
        self.preview = preview
        self._is_known = False
        self._temperature: Any = _DEFAULT_TEMPERATURE

    def incoming(self, event: Any) -> Any:
        """An event of the client in the GA shape. What is no event is left as it is, for the core to refuse."""
        kind = event.get("type") if isinstance(event, dict) else None
        if kind in ("session.update", _TRANSCRIPTION_UPDATE):
            self._learn(kind, event.get("session"))
        if not self.preview:
            return event
        if kind == _TRANSCRIPTION_UPDATE:
            return self._update(event, {"type": "transcription"})
        if kind == "session.update":
            return self._update(event, {})
        if kind == "response.create" and isinstance(event.get("response"), dict):
            return {**event, "response": self._settings(event["response"])}
        return event

    def outgoing(self, event: Document) -> list[Document]:
        """Our event as the client knows it; [] where it knows none."""
        if not self.preview:
            return [event]
        kind: str = event["type"]
        if kind in _DROPPED:
            return []
        if kind in ("session.created", "session.updated"):
            return [self._session_event(event)]
        event = {**event, "type": _EVENTS.get(kind, kind)}
        for name, change in (("item", _item), ("response", self._response)):
            if name in event:
                event[name] = change(event[name])
        return [event]

    def _learn(self, kind: str, session: Any) -> None:
        """The first update tells the shape; so does every one that is unmistakable."""
        if kind == _TRANSCRIPTION_UPDATE:
            self.preview = True
        elif isinstance(session, dict) and any(key in session for key in _GA_KEYS):
            self.preview = False
        elif isinstance(session, dict) and not self._is_known:
            self.preview = True
        self._is_known = True

    def _update(self, event: Document, head: Document) -> Document:
        session = event.get("session")
        if not isinstance(session, dict):
            return {**event, "type": "session.update"}
        return {**event, "type": "session.update", "session": head | self._settings(session)}

    def _settings(self, flat: Document) -> Document:
        """A flat session or response in the GA shape; keys that the preview does not know stay for the core to
        refuse."""
        document: Document = {}
        for name, value in flat.items():
            if name == "temperature":
                if isinstance(value, int | float):
                    self._temperature = value
                continue
            if name.endswith("_audio_format") and isinstance(value, str):
                value = {"type": _FORMATS.get(value, value)}
            *path, last = _PLACES.get(name, (name,))
            table = document
            for key in path:
                table = table.setdefault(key, {})
            table[last] = value
        return document

    def _session_event(self, event: Document) -> Document:
        session: Document = event["session"]
        name = "transcription_session" if session["type"] == "transcription" else "session"
        return {**event, "type": f"{name}.{event['type'].partition('.')[2]}", "session": self.flat(session)}

    def flat(self, session: Document) -> Document:
        """A session's document as the preview shows it."""
        document = {"object": session["object"]}
        document |= {name: session[name] for name in _SHOWN_AS_THEY_ARE if name in session}
        for name, path in _PLACES.items():
            found, value = _at(session, path)
            if found:
                document[name] = _FORMAT_NAMES[value["type"]] if name.endswith("_audio_format") else value
        if session["type"] == "realtime":
            document["modalities"] = _modalities(session["output_modalities"])
            document["temperature"] = self._temperature
        return document

    def _response(self, response: Document) -> Document:
        output = response["audio"]["output"]
        changed = {name: value for name, value in response.items() if name not in ("audio", "output_modalities")}
        return changed | {
            "output": [_item(item) for item in response["output"]],
            "modalities": _modalities(response["output_modalities"]),
            "voice": output["voice"],
            "output_audio_format": _FORMAT_NAMES[output["format"]["type"]],
            "temperature": self._temperature,
        }


def _at(document: Document, path: tuple[str, ...]) -> tuple[bool, Any]:
    value: Any = document
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False, None
        value = value[key]
    return True, value


def _modalities(names: list[str]) -> list[str]:
    return ["audio", "text"] if names == ["audio"] else ["text"]


def _item(item: Document) -> Document:
    if not item.get("content"):
        return item
    return {**item, "content": [{**part, "type": _CONTENT.get(part["type"], part["type"])} for part in item["content"]]}
