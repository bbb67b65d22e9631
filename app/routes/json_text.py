"""JSON that clients send, parsed only where that is cheap.

Owns the bounds: how many values a text may hold, how many bytes one without inline audio may have, and how long the
names are that are told back. A parser builds an object per value while every other request waits, so both are counted
before it runs. Knows no operation.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from app.errors import BrokenBody, TooLarge

# A thousand messages of a few parts each are 20,000; a hundred thousand values take the parser about 20 ms.
MOST_VALUES = 100_000
# Of a body without inline audio: the longest texts that a request may hold together, escaped, and some room.
TEXT_BYTES = 4 * 1024 * 1024
NAME_CHARACTERS = 256  # of a voice, model, language or format
_AUDIO_KEYS = (b'"data"', b'"audio"', b'"reference_audio"')
_STARTS = (b",", b"[", b"{")  # each value but the first comes after one of these
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s;"]+)', re.IGNORECASE)
_MOST_NAMES, _NAME_SHOWN = 32, 64


def charset_of(content_type: str) -> str:
    """The charset that a content type declares, "" if none."""
    found = _CHARSET.search(content_type)
    return found[1].lower() if found else ""


def decode_object(body: bytes, charset: str = "") -> dict[str, Any]:
    """A request body as a JSON object. charset: as declared; JSON is UTF-8 (RFC 8259) where none is.

    Raises BrokenBody, or TooLarge for a long body that holds no audio.
    """
    if len(body) > TEXT_BYTES and not any(key in body for key in _AUDIO_KEYS):
        raise TooLarge(
            f"A JSON body without inline audio may have at most {TEXT_BYTES} bytes; this one has {len(body)}."
        )
    try:
        document = decode(_utf8(body, charset).removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise BrokenBody(f"The request body is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise BrokenBody("The request body must be a JSON object.")
    return document


def _utf8(body: bytes, charset: str) -> bytes:
    """The body in UTF-8. Windows PowerShell 5.1 sends ISO 8859-1 and does not say so."""
    if not charset and body.isascii():
        return body
    try:
        text = str(body, charset or "utf-8")
    except LookupError:
        raise BrokenBody(f"The charset {charset[:40]!r} of the request body is not known; send UTF-8.") from None
    except UnicodeError:
        how = f"it declares {charset[:40]}" if charset else "declare its charset in the content type if it has another"
        raise BrokenBody(f"The request body is not valid {charset[:40] or 'UTF-8'} text ({how}); send UTF-8.") from None
    return body if charset in ("", "utf-8", "utf8") else text.encode("utf-8", "surrogatepass")


def decode(text: bytes | str) -> Any:
    """Any JSON value. Raises ValueError where the text is none, holds too many values, or is nested too deeply."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if sum(data.count(start) for start in _STARTS) > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES} values")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def named(names: Iterable[str]) -> str:
    """Names that a client chose, for one line: the first few dozen, each cut."""
    shown: list[str] = []
    for name in names:
        if len(shown) == _MOST_NAMES:
            shown.append("...")
            break
        shown.append(name if len(name) <= _NAME_SHOWN else f"{name[:_NAME_SHOWN]}...")
    return ", ".join(shown)
