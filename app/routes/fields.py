"""Readers of single fields, shared by all routes: each checks one value of a JSON body or a form.

Owns their rules and messages. Every reader raises InvalidRequest with the field as `param`. Knows
no operation.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from app.errors import InvalidRequest
from app.routes.json_text import NAME_CHARACTERS

DEFAULT_VOICE = "default"  # the name that stands for the first voice, unless a deployment has one of that name
MOST_KEYWORDS = 1000
KEYWORD_CHARACTERS = 200  # of one; a keyword is a name or a term, not a sentence
_SEED_BITS = (1 << 63) - 1


def clean(text: str) -> str:
    """Text without control characters (line ends and tabs stay) and without halves of surrogate pairs."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cs"})


def voice_name(voice: object, param: str) -> str:
    """A name, or the id of {"id": ...}; the default voice where none is given. Raises InvalidRequest."""
    if isinstance(voice, dict):
        voice = voice.get("id")
    if voice is None or voice == "":
        return DEFAULT_VOICE
    if not isinstance(voice, str):
        raise InvalidRequest('The voice must be a name or an object {"id": NAME}.', param=param)
    if len(voice) > NAME_CHARACTERS:
        raise InvalidRequest(
            f"The voice has {len(voice)} characters; at most {NAME_CHARACTERS} are allowed.",
            param=param,
            code="string_above_max_length",
        )
    return voice


def read_seed(body: Mapping[str, Any]) -> int | None:
    """The seed as a number that fits 63 bits; equal seeds stay equal."""
    seed = body.get("seed")
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidRequest("seed must be a whole number.", param="seed")
    return seed & _SEED_BITS


def read_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """The `options` object, which goes to the backend as it is."""
    options = body.get("options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise InvalidRequest("options must be an object.", param="options")
    return options


def text_field(body: Mapping[str, Any], name: str, longest: int) -> str:
    """An optional string. Raises InvalidRequest."""
    return checked_text(body.get(name), name, longest)


def checked_text(value: Any, name: str, longest: int) -> str:
    """A string, "" for none. Raises InvalidRequest."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string.", param=name)
    if len(value) > longest:
        raise InvalidRequest(
            f"{name} has {len(value)} characters; at most {longest} are allowed.",
            param=name,
            code="string_above_max_length",
        )
    return value


def checked_keywords(keywords: Sequence[str], name: str) -> tuple[str, ...]:
    """Words to expect, each in one line; empty ones are left out. Raises InvalidRequest."""
    keywords = tuple(text for one in keywords if (text := " ".join(clean(one).split())))
    if len(keywords) > MOST_KEYWORDS:
        raise InvalidRequest(
            f"{name} has {len(keywords)} entries; at most {MOST_KEYWORDS} are allowed.",
            param=name,
            code="array_above_max_length",
        )
    for keyword in keywords:
        if len(keyword) > KEYWORD_CHARACTERS:
            raise InvalidRequest(
                f"{name} has an entry of {len(keyword)} characters; at most {KEYWORD_CHARACTERS} are allowed.",
                param=name,
                code="string_above_max_length",
            )
    return keywords


def choice(body: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    """An optional string out of `choices`, in capitals too and with blanks around it, as menus of programs write
    them. Raises InvalidRequest."""
    value = body.get(name)
    if value is None or value == "":
        return default
    found = value.strip().lower() if isinstance(value, str) else None
    if found not in choices:
        raise InvalidRequest(f"{name} must be one of {', '.join(choices)}, not {str(value)[:40]!r}.", param=name)
    return found


def read_flag(value: object, name: str, *, default: bool = False) -> bool:
    """A JSON boolean; unset is `default`. Raises InvalidRequest."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false, not {str(value)[:40]!r}.", param=name)
    return value


def checked_number(value: object, name: str, low: float, high: float) -> float:
    """A number within low..high from a JSON value or a form's text. Raises InvalidRequest."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name} must be a number, not {str(value)[:40]!r}.", param=name) from None
    if not low <= number <= high:  # also false for NaN
        raise InvalidRequest(f"{name} must be between {low:g} and {high:g}.", param=name)
    return number


def as_mapping(value: object, name: str) -> Mapping[str, Any]:
    """A JSON value that must be an object. Raises InvalidRequest."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be an object.", param=name)
    return value
