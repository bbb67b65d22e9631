"""The messages of a chat request: roles, text and audio parts, earlier spoken answers.

Owns their shape and its rules. Decodes nothing, runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.errors import InvalidRequest, MissingParameter, UnsupportedValue
from app.routes.inline_audio import audio_bytes
from app.writers.formats import INPUT_FORMATS

MOST_MESSAGES = 1000
MOST_CHARACTERS = 262_144  # of all texts together: more than any context here holds, and read in no time
PARAM = "messages"
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class SentAudio:
    """An audio part before decoding. param: the field that errors name."""

    data: bytes
    param: str = PARAM


@dataclass(frozen=True, slots=True)
class SentMessage:
    """role: system, user or assistant; parts: texts and audio in the order sent."""

    role: str
    parts: tuple[str | SentAudio, ...]


def read_messages(value: object, spoken: Callable[[str], str | None]) -> tuple[SentMessage, ...]:
    """spoken: transcript of an earlier answer by its audio id. Raises InvalidRequest and its kin with param
    messages."""
    if value is None:
        raise MissingParameter("You must provide messages.", param=PARAM)
    if not isinstance(value, list) or not value:
        raise InvalidRequest("messages must be a list with at least one message.", param=PARAM)
    if len(value) > MOST_MESSAGES:
        raise InvalidRequest(f"There are {len(value)} messages; at most {MOST_MESSAGES} are allowed.", param=PARAM)
    read = (_message(message, f"messages[{number}]", spoken) for number, message in enumerate(value))
    messages = tuple(message for message in read if message.parts or message.role != "system")
    characters = sum(len(part) for message in messages for part in message.parts if isinstance(part, str))
    if characters > MOST_CHARACTERS:
        raise InvalidRequest(
            f"The messages hold {characters} characters of text; at most {MOST_CHARACTERS} are allowed.",
            param=PARAM,
            code="string_above_max_length",
        )
    if not any(message.role == "user" and message.parts for message in messages):
        raise InvalidRequest("The messages hold no question: there is no user message with text or audio.", param=PARAM)
    return messages


def _message(message: object, where: str, spoken: Callable[[str], str | None]) -> SentMessage:
    if not isinstance(message, dict):
        raise InvalidRequest(f"{where} must be an object.", param=PARAM)
    role = message.get("role")
    if role in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
        raise UnsupportedValue(f"{where}: tools are not supported.", param=PARAM)
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"{where}.role must be one of {', '.join(_ROLES)}.", param=PARAM)
    parts = _content(message.get("content"), f"{where}.content", role)
    if role == "assistant" and message.get("audio") is not None:
        parts = (*parts, _earlier_answer(message["audio"], f"{where}.audio", spoken))
    elif not parts and role == "user":  # an agent without instructions sends an empty system message
        raise InvalidRequest(f"{where} has no content.", param=PARAM)
    return SentMessage(_ROLES[role], parts)


def _content(content: object, where: str, role: str) -> tuple[str | SentAudio, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,) if content.strip() else ()
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a string or a list of parts.", param=PARAM)
    parts = (_part(part, f"{where}[{number}]", role) for number, part in enumerate(content))
    return tuple(part for part in parts if part != "")


def _part(part: object, where: str, role: str) -> str | SentAudio:
    if not isinstance(part, dict):
        raise InvalidRequest(f"{where} must be an object.", param=PARAM)
    kind = part.get("type")
    if kind in ("text", "refusal"):
        text = part.get(kind)
        if not isinstance(text, str):
            raise InvalidRequest(f"{where}.{kind} must be a string.", param=PARAM)
        return text
    if kind not in ("input_audio", "audio_url"):
        raise InvalidRequest(f"{where}.type must be text or input_audio, not {str(kind)[:40]!r}.", param=PARAM)
    if role != "user":
        raise InvalidRequest(f"{where}: audio is allowed in user messages only.", param=PARAM)
    if kind == "audio_url":
        return _audio_url(part.get("audio_url"), f"{where}.audio_url")
    return _audio(part.get("input_audio"), f"{where}.input_audio")


def _audio(value: object, where: str) -> SentAudio:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} must be an object with data and format.", param=PARAM)
    # The name is checked as the contract says; what the bytes are is decided by looking at them.
    if value.get("format") not in (None, *INPUT_FORMATS):
        raise UnsupportedValue(
            f"{where}.format must be one of {', '.join(INPUT_FORMATS)}, not {str(value['format'])[:40]!r}.", param=PARAM
        )
    return SentAudio(audio_bytes(value.get("data"), f"{where}.data", PARAM))


def _audio_url(value: object, where: str) -> SentAudio:
    """Audio as vLLM's clients ("url") and Semantic Kernel ("uri") send it, if it is inside the message."""
    url = value.get("url", value.get("uri")) if isinstance(value, Mapping) else value
    if not isinstance(url, str) or not url.startswith("data:"):
        raise InvalidRequest(f"{where} must be a data: URL; nothing is fetched from other places.", param=PARAM)
    return SentAudio(audio_bytes(url, where, PARAM))


def _earlier_answer(value: object, where: str, spoken: Callable[[str], str | None]) -> str:
    name = value.get("id") if isinstance(value, Mapping) else None
    if not isinstance(name, str):
        raise InvalidRequest(f'{where} must be an object {{"id": ID}}.', param=PARAM)
    transcript = spoken(name)
    if transcript is None:
        raise InvalidRequest(f"{where}: there is no spoken answer {name[:80]!r}, or it has expired.", param=PARAM)
    return transcript
