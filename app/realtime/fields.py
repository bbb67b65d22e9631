"""The fields of a session's update: how each is read, and what it becomes in the session.

Owns names, ranges and defaults of the GA shape. A reader takes the value in effect, the one given and the field's path,
and returns the new value or raises InvalidRequest. Knows no deployment and no event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from app.errors import InvalidRequest
from app.realtime.formats import read_format
from app.routes.fields import checked_keywords, checked_number, checked_text, read_flag
from backends.languages import language_code, wants_detection

Reader = Callable[[Any, Any, str], Any]
Fields = Mapping[str, "Reader | Fields"]

MOST_CHARACTERS = 262_144  # of a text: more than any context here holds
MOST_NAMES = 1000  # of keywords, languages or tools
MOST_TOKENS = 4096
TOOL_CHOICES = ("auto", "none", "required")
MOST_TOOL_BYTES = 262_144  # of all tools, as JSON
MOST_FREE_BYTES = 16_384  # of a setting that means nothing here, as JSON
LONGEST_MS = 60_000  # of padding or silence
LONGEST_IDLE_MS = 600_000
# What a fixed silence must be, ms, where upstream's end-of-turn model would wait at most 8, 4 and 2 s: it only waits so
# long after words that sound unfinished, and a silence that is always waited for would make every answer that late.
EAGERNESS = "eagerness"
EAGERNESS_MS = {"low": 1600, "medium": 800, "auto": 800, "high": 500}
DEFAULT_TURNS: Mapping[str, Any] = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
    "create_response": True,
    "interrupt_response": True,
    "idle_timeout_ms": None,
}


def merged(current: dict[str, Any], given: object, known: Fields, param: str) -> dict[str, Any]:
    """`current` with what is given laid over it. Raises InvalidRequest naming the field."""
    if given is None:
        return current
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"{param} must be an object.", param=param)
    for name, value in given.items():
        where = f"{param}.{name}"
        field = known.get(name)
        if field is None:
            raise InvalidRequest(f"Unknown parameter: {where[:200]!r}.", param=where[:200], code="unknown_parameter")
        if isinstance(field, Mapping):
            current[name] = merged(current[name], value, field, where)
        elif field is not _kept:
            current[name] = field(current.get(name), value, where)
    return current


def copied(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that `merged` may change without changing these: it replaces values and never changes one, so that tools
    of any number are not copied for every event."""
    return {**fields, "audio": {side: dict(settings) for side, settings in fields["audio"].items()}}


def _kept(current: Any, given: Any, param: str) -> Any:
    """What the server alone decides; clients that send the whole session back may name it."""
    return current


def read_text(current: Any, given: Any, param: str) -> str:
    """A string; null clears it."""
    return checked_text(given, param, MOST_CHARACTERS)


def one_of(*choices: str, default: str | None) -> Reader:
    """One of several words; null is the default."""

    def read(current: Any, given: Any, param: str) -> str | None:
        if given is None:
            return default
        if given not in choices:
            raise InvalidRequest(f"{param} must be one of {', '.join(choices)}.", param=param)
        return str(given)

    return read


def number(low: float, high: float, default: float, *, whole: bool = False) -> Reader:
    """A number in a range; null is the default."""

    def read(current: Any, given: Any, param: str) -> float:
        if isinstance(given, str):
            raise InvalidRequest(f"{param} must be a number.", param=param)
        value = default if given is None else checked_number(given, param, low, high)
        return int(value) if whole else value

    return read


def flag(default: bool) -> Reader:
    """true or false; null is the default."""

    def read(current: Any, given: Any, param: str) -> bool:
        return read_flag(given, param, default=default)

    return read


def free(*words: str, default: Any = None) -> Reader:
    """Settings that are kept and shown but mean nothing here: an object, or one of some words."""

    def read(current: Any, given: Any, param: str) -> Any:
        if given is None:
            return default
        if not isinstance(given, dict) and given not in words:
            raise InvalidRequest(f"{param} has a value of the wrong kind.", param=param)
        return _not_longer(given, MOST_FREE_BYTES, param)

    return read


def _not_longer(given: Any, most: int, param: str) -> Any:
    """A value that every event of the session repeats. Raises InvalidRequest for one of more than `most` bytes."""
    if (size := len(msgspec.json.encode(given))) > most:
        raise InvalidRequest(f"{param} has {size} bytes of JSON; at most {most} are allowed.", param=param)
    return given


def read_modalities(current: Any, given: Any, param: str) -> list[str]:
    """["audio"] or ["text"]; both together are spoken, as speech brings its transcript."""
    if given is None:
        return ["audio"]
    if not isinstance(given, list) or not given or not all(name in ("audio", "text") for name in given):
        raise InvalidRequest(f'{param} must be ["audio"] or ["text"].', param=param)
    return ["audio"] if "audio" in given else ["text"]


def read_max_tokens(current: Any, given: Any, param: str) -> int | str:
    """1..4096, or "inf"."""
    if given is None or given == "inf":
        return "inf"
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_TOKENS:
        raise InvalidRequest(f'{param} must be a whole number from 1 to {MOST_TOKENS}, or "inf".', param=param)
    return given


def read_tools(current: Any, given: Any, param: str) -> list[Any]:
    """Function tools; null and [] mean none."""
    if given is None:
        return []
    if not isinstance(given, list) or len(given) > MOST_NAMES:
        raise InvalidRequest(f"{param} must be a list of at most {MOST_NAMES} tools.", param=param)
    for index, tool in enumerate(given):
        where = f"{param}[{index}]"
        if not isinstance(tool, dict):
            raise InvalidRequest(f"{where} must be an object.", param=where)
        if tool.get("type") != "function":
            raise InvalidRequest(
                f"{where}.type must be function; no others are supported.",
                param=f"{where}.type",
                code="unsupported_value",
            )
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise InvalidRequest(f"{where}.name must be a string.", param=f"{where}.name")
    return list(_not_longer(given, MOST_TOOL_BYTES, param))


def read_voice(current: Any, given: Any, param: str) -> str:
    """A name, or {"id": name}; null keeps the voice."""
    name = given.get("id") if isinstance(given, dict) else given
    if name is None:
        return str(current)
    if not isinstance(name, str) or not name or len(name) > 256:
        raise InvalidRequest(f'{param} must be a name or an object {{"id": NAME}}.', param=param)
    return name


def _read_include(current: Any, given: Any, param: str) -> list[str] | None:
    known = "item.input_audio_transcription.logprobs"
    if given is None or given == []:
        return None
    if not isinstance(given, list) or any(name != known for name in given):
        raise InvalidRequest(f"{param} may hold {known}.", param=param)
    return [known]


def read_audio_format(current: Any, given: Any, param: str) -> dict[str, Any]:
    """A format's document; null is 24 kHz PCM."""
    return read_format({} if given is None else given, param).document()


def _read_names(current: Any, given: Any, param: str) -> list[str] | None:
    if given is None:
        return None
    if not isinstance(given, list) or len(given) > MOST_NAMES or not all(isinstance(name, str) for name in given):
        raise InvalidRequest(f"{param} must be a list of at most {MOST_NAMES} strings.", param=param)
    if sum(map(len, given)) > MOST_CHARACTERS:
        raise InvalidRequest(f"{param} is too long.", param=param, code="string_above_max_length")
    return given


def _read_keywords(current: Any, given: Any, param: str) -> list[str] | None:
    names = _read_names(current, given, param)
    return None if names is None else list(checked_keywords(names, param))


def _read_language(current: Any, given: Any, param: str) -> str | None:
    if given is None or given == "":
        return None
    if not isinstance(given, str) or (language_code(given) is None and not wants_detection(given)):
        raise InvalidRequest(f"{param} must be an ISO 639-1 code such as en.", param=param)
    return given


def _read_languages(current: Any, given: Any, param: str) -> list[str] | None:
    names = _read_names(current, given, param)
    for index, name in enumerate(names or ()):
        _read_language(None, name, f"{param}[{index}]")
    return names


def _read_name(current: Any, given: Any, param: str) -> str | None:
    return read_text(current, given, param) or None


_TRANSCRIPTION: Fields = {
    "model": _read_name,
    "language": _read_language,
    "languages": _read_languages,
    "prompt": _read_name,
    "keywords": _read_keywords,
    "delay": one_of("minimal", "low", "medium", "high", "xhigh", default=None),
}


def _read_transcription(current: Any, given: Any, param: str) -> dict[str, Any] | None:
    """Only what was set is shown; null switches it off."""
    if given is None:
        return None
    fields = merged(dict(current or {}), given, _TRANSCRIPTION, param)
    return {name: value for name, value in fields.items() if value is not None}


_milliseconds = {
    name: number(0, LONGEST_MS, DEFAULT_TURNS[name], whole=True)
    for name in ("prefix_padding_ms", "silence_duration_ms")
}
_RESPONSES: Fields = {"create_response": flag(True), "interrupt_response": flag(True)}


def _read_idle(current: Any, given: Any, param: str) -> int | None:
    return None if given is None else int(checked_number(given, param, 1, LONGEST_IDLE_MS))


_SERVER_VAD: Fields = {
    "type": _kept,
    "threshold": number(0, 1, 0.5),
    **_milliseconds,
    **_RESPONSES,
    "idle_timeout_ms": _read_idle,
    EAGERNESS: _kept,
}
# What belongs to server_vad means nothing here, and is no mistake that a session should fail over.
_SEMANTIC_VAD: Fields = {
    **dict.fromkeys(_SERVER_VAD, _kept),
    EAGERNESS: one_of(*EAGERNESS_MS, default="auto"),
    **_RESPONSES,
}


def _read_turns(current: Any, given: Any, param: str) -> dict[str, Any] | None:
    """Turn detection; semantic_vad becomes the server_vad that it is here, and is shown as that. Its eagerness stays
    beside it, unshown, so that a change back to server_vad is known as one."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"{param} must be an object.", param=param)
    base = dict(current or DEFAULT_TURNS)
    kind = given.get("type", "semantic_vad" if EAGERNESS in given else "server_vad")
    if kind == "server_vad":
        if "type" in given and base.pop(EAGERNESS, None):
            base["silence_duration_ms"] = DEFAULT_TURNS["silence_duration_ms"]
        return merged(base, given, _SERVER_VAD, param)
    if kind != "semantic_vad":
        raise InvalidRequest(f"{param}.type must be server_vad or semantic_vad.", param=f"{param}.type")
    asked = merged({EAGERNESS: base.get(EAGERNESS, "auto")}, given, _SEMANTIC_VAD, param)
    silence = EAGERNESS_MS[asked[EAGERNESS]]
    return {**base, "threshold": 0.5, **asked, "type": "server_vad", "silence_duration_ms": silence}


def _read_noise_reduction(current: Any, given: Any, param: str) -> None:
    """Accepted and not done, which the session says by null."""
    if given is not None and (not isinstance(given, dict) or given.get("type") not in ("near_field", "far_field")):
        raise InvalidRequest(f"{param}.type must be near_field or far_field.", param=f"{param}.type")


INPUT_FIELDS: Fields = {
    "format": read_audio_format,
    "transcription": _read_transcription,
    "noise_reduction": _read_noise_reduction,
    "turn_detection": _read_turns,
}
OUTPUT_FIELDS: Fields = {
    "format": read_audio_format,
    "voice": read_voice,
    "speed": number(0.25, 1.5, 1.0),
}
SHARED_FIELDS: dict[str, Reader | Fields] = {
    **dict.fromkeys(("type", "object", "id", "expires_at"), _kept),
    "include": _read_include,
}
SPEECH_FIELDS: dict[str, Reader | Fields] = {
    "model": _kept,  # clients name their own default inside a session whose URL names another
    "client_secret": _kept,
    "output_modalities": read_modalities,
    "instructions": read_text,
    "tools": read_tools,
    "tool_choice": free(*TOOL_CHOICES, default="auto"),
    "max_output_tokens": read_max_tokens,
    "parallel_tool_calls": flag(True),
    "reasoning": free(),
    "prompt": free(),
    "tracing": free("auto"),
    "truncation": free("auto", "disabled", default="auto"),
}
