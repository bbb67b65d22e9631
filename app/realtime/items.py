"""Items that clients send: read, checked, and turned into items of the conversation.

Owns what each kind may hold. Lenient where clients differ: a text part may have any of the names for text.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

from app.errors import InvalidRequest
from app.realtime.conversation import Item
from app.realtime.fields import MOST_CHARACTERS
from app.realtime.formats import AudioFormat
from app.realtime.outputs import NewId

_ID_CHARACTERS = 256
_TEXTS = ("input_text", "output_text", "text")
_AUDIO = {"user": ("input_audio", "audio"), "assistant": ("output_audio", "audio")}
_TEXT_OF_ROLE = {"user": "input_text", "system": "input_text", "assistant": "output_text"}


def read_item(given: object, form: AudioFormat, new_id: NewId, param: str = "item") -> Item:
    """form: of audio in it. Raises InvalidRequest naming the field."""
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"{param} must be an object.", param=param)
    item_id = given.get("id")
    if item_id is not None and (not isinstance(item_id, str) or not 0 < len(item_id) <= _ID_CHARACTERS):
        raise InvalidRequest(f"{param}.id must be a string of 1 to {_ID_CHARACTERS} characters.", param=f"{param}.id")
    kind = given.get("type", "message")
    reader = {"message": _message, "function_call": _call, "function_call_output": _call_output}.get(str(kind))
    if reader is None:
        raise InvalidRequest(
            f"{param}.type must be message, function_call or function_call_output.", param=f"{param}.type"
        )
    item = reader(given, form, param)
    item.id = item_id or new_id("item_")
    return item


def _message(given: Mapping[str, Any], form: AudioFormat, param: str) -> Item:
    role = "system" if given.get("role") == "developer" else given.get("role")
    if role not in _TEXT_OF_ROLE:
        raise InvalidRequest(f"{param}.role must be user, system or assistant.", param=f"{param}.role")
    content = given.get("content")
    if not isinstance(content, list) or (not content and role != "assistant"):
        raise InvalidRequest(f"{param}.content must be a list of parts.", param=f"{param}.content")
    item = Item("", role=str(role), format=form)
    for index, part in enumerate(content):
        _add_part(item, part, f"{param}.content[{index}]")
    return item


def _add_part(item: Item, part: object, where: str) -> None:
    """Several parts become one: texts are joined, and beside audio a text is its transcript."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind in _TEXTS:
        item.text = " ".join(filter(None, (item.text, _text(part, "text", where))))
        item.content = item.content or _TEXT_OF_ROLE[item.role]
        return
    if not isinstance(part, Mapping) or kind not in _AUDIO.get(item.role, ()):
        known = (_TEXT_OF_ROLE[item.role], *_AUDIO.get(item.role, ())[:1])
        raise InvalidRequest(f"{where}.type must be {' or '.join(known)}.", param=f"{where}.type")
    transcript = _text(part, "transcript", where, required=False)
    if item.role == "assistant" and part.get("audio"):
        raise InvalidRequest(f"{where}: an assistant's audio cannot be created.", param=f"{where}.audio")
    if item.role == "user":
        item.audio += _audio(part, where, item.format)
        item.shown = bool(transcript)
    item.content = _AUDIO[item.role][0]
    item.text = " ".join(filter(None, (item.text, transcript)))


def _call(given: Mapping[str, Any], form: AudioFormat, param: str) -> Item:
    fields = {name: _text(given, name, param) for name in ("call_id", "name", "arguments")}
    return Item("", kind="function_call", call=fields)


def _call_output(given: Mapping[str, Any], form: AudioFormat, param: str) -> Item:
    fields = {name: _text(given, name, param) for name in ("call_id", "output")}
    return Item("", kind="function_call_output", call=fields)


def _text(part: Mapping[str, Any], name: str, where: str, *, required: bool = True) -> str:
    text = part.get(name)
    if text is None and not required:
        return ""
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.{name} must be a string.", param=f"{where}.{name}")
    if len(text) > MOST_CHARACTERS:
        raise InvalidRequest(
            f"{where}.{name} has {len(text)} characters; at most {MOST_CHARACTERS} are allowed.",
            param=f"{where}.{name}",
            code="string_above_max_length",
        )
    return text


def _audio(part: Mapping[str, Any], where: str, form: AudioFormat) -> bytes:
    audio = part.get("audio")
    if not isinstance(audio, str):
        raise InvalidRequest(f"{where}.audio must be a base64 string.", param=f"{where}.audio")
    try:
        data = binascii.a2b_base64(audio, strict_mode=True)
    except ValueError as error:
        raise InvalidRequest(f"{where}.audio is not valid base64: {error}.", param=f"{where}.audio") from None
    return data[: len(data) - len(data) % form.width]
