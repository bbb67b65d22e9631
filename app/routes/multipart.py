"""multipart/form-data of a body that is already in memory, split by python-multipart, and typed reading of its fields.

Owns the name variants that clients send: name[] and name[0] for lists, name[key] for objects, JSON strings for both,
empty for unset. Knows no operation. File parts stay slices of the body; nothing is written to disk.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState

from app.booleans import parse_boolean
from app.errors import BrokenBody, InvalidRequest, MissingParameter
from app.routes.fields import checked_number, choice, read_flag
from app.routes.json_text import NAME_CHARACTERS, decode

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_HEADER_BYTES = 4 * 1024  # of one header: a file name of 255 characters, percent-encoded, and the rest
TEXT_BYTES = 64 * 1024  # of one text field
ALL_TEXT_BYTES = 1024 * 1024  # of a form's text fields together
# Text fields that may hold audio in base64: only the whole body and the readers of audio bound them.
_AUDIO_FIELDS = ("reference_audio", "known_speaker_references", "context")
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^;,\s]+))', re.IGNORECASE)
_PARAMETER = re.compile(r';\s*([a-z]+\*?)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^;\s]*))', re.IGNORECASE)
_INDEXED = re.compile(r"^(.+)\[(\d*)\]$")
_SOUND = (b"audio/", b"video/")  # types of parts that hold a file

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a broken body is described to its client, not logged


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """name: as sent, meaningless for the content; data: a view of the request body."""

    name: str
    data: memoryview


@dataclass(slots=True)
class Form:
    """Text fields in the order sent, and files by name. text_bytes: of all text fields that hold no audio."""

    texts: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, UploadedFile] = field(default_factory=dict)
    text_bytes: int = 0

    def count_text(self, name: str, size: int) -> None:
        """Raises InvalidRequest for a text field that is too long, or one too many."""
        if name.partition("[")[0] in _AUDIO_FIELDS:
            return
        self.text_bytes += size
        if size > TEXT_BYTES:
            raise InvalidRequest(
                f"{name} has {size} bytes; a text field may have {TEXT_BYTES}.",
                param=name,
                code="string_above_max_length",
            )
        if self.text_bytes > ALL_TEXT_BYTES:
            raise InvalidRequest(f"The text fields of a form may have {ALL_TEXT_BYTES} bytes together.", param=name)

    def text(self, name: str) -> str | None:
        """The last value of a field; None if it is unset or empty."""
        values = [value for key, value in self.texts if key == name and value != ""]
        return values[-1] if values else None

    def texts_of(self, name: str) -> list[str]:
        """A list field, whether sent as repeated `name`, `name[]`, `name[0]`, or as a JSON array."""
        values: list[str] = []
        for key, value in self.texts:
            indexed = _INDEXED.match(key)
            if value != "" and (key == name or (indexed and indexed[1] == name)):
                values += _array(value)
        return values

    def names(self) -> list[str]:
        """The fields that are set, in the order sent, without what follows a bracket; the files' names after them."""
        texts = [key.partition("[")[0] for key, value in self.texts if value != ""]
        return list(dict.fromkeys([*texts, *self.files]))

    def mapping(self, name: str) -> str | dict[str, Any] | None:
        """An object field sent as `name[key]` parts or as a JSON object; a plain string stays one."""
        parts = {
            key[len(name) + 1 : -1]: value
            for key, value in self.texts
            if key.startswith(f"{name}[") and key.endswith("]")
        }
        if parts:
            return {key: value for key, value in parts.items() if key}
        value = self.text(name)
        if value is not None and value.lstrip().startswith("{"):
            document = _decoded(value)
            if not isinstance(document, dict):
                raise InvalidRequest(f"{name} is not a valid JSON object.", param=name)
            return document
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A decimal number within low..high; None if unset."""
        value = self.text(name)
        return None if value is None else checked_number(value, name, low, high)

    def flag(self, name: str) -> bool:
        """A boolean; unset is false. Raises InvalidRequest."""
        text = self.text(name)
        known = None if text is None else parse_boolean(text)
        return read_flag(text if known is None else known, name)

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        return choice({name: self.text(name)}, name, choices, default)

    def file(self, name: str) -> UploadedFile:
        """The uploaded file. Raises MissingParameter or, for text where a file should be, InvalidRequest."""
        if name in self.files:
            return self.files[name]
        if self.text(name) is not None:
            raise InvalidRequest(
                f"{name} is a text field, not an uploaded file (with curl: -F {name}=@PATH, with the @).", param=name
            )
        raise MissingParameter(f"You must upload a {name}.", param=name)


def parse_form(content_type: str, body: bytes, most_fields: int) -> Form:
    """The parts of a multipart body. Raises BrokenBody, or InvalidRequest above `most_fields` parts."""
    matched = _BOUNDARY.search(content_type)
    if matched is None:
        raise BrokenBody("The content type has no multipart boundary.")
    boundary = (matched[1] or matched[2]).encode("latin-1")
    reader = _FormReader(body, most_fields)
    try:
        parser = MultipartParser(boundary, reader.callbacks(), max_header_size=_HEADER_BYTES)
        if not body.startswith(b"--" + boundary):
            parser.state = MultipartState.PART_DATA  # a preamble ends where the first part begins, as a part does
        parser.write(body)
    except FormParserError as error:
        raise BrokenBody(
            f"The multipart body is broken, or a part has a header of more than {_HEADER_BYTES} bytes: {error}."
        ) from error
    if not reader.complete:
        raise BrokenBody("The multipart body ends before its closing boundary.")
    return reader.form


class _FormReader:
    """Fills a Form from the parser's callbacks; each part's data is one slice of the body, because it is parsed whole.

    complete: the closing boundary came.
    """

    def __init__(self, body: bytes, most_fields: int) -> None:
        self.form, self.complete = Form(), False
        self._body, self._most_fields, self._parts = memoryview(body), most_fields, 0
        self._begin()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._count,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_part_data": self._part_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._header = b""
        self._disposition: bytes | None = None
        self._content_type = b""
        self._data = self._body[:0]

    def _count(self) -> None:
        self._parts += 1
        if self._parts > self._most_fields:
            raise InvalidRequest(f"The form has more than {self._most_fields} fields.", code="too_many_fields")
        self._begin()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = data[start:end].lower()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        if self._header == b"content-disposition":
            self._disposition = data[start:end]
        elif self._header == b"content-type":
            self._content_type = data[start:end]

    def _part_data(self, _data: bytes, start: int, end: int) -> None:
        self._data = self._body[start:end]

    def _finish(self) -> None:
        self.complete = True

    def _end(self) -> None:
        if not self._parts:  # the preamble
            return
        name, filename = _names(self._disposition)
        if len(name) > NAME_CHARACTERS:
            raise InvalidRequest(
                f"The name of a form field has {len(name)} characters; at most {NAME_CHARACTERS} are allowed."
            )
        if filename is None and self._is_sound(name):
            filename = ""
        if filename is not None:
            self.form.files[name] = UploadedFile(filename, self._data)
            return
        self.form.count_text(name, len(self._data))
        try:
            self.form.texts.append((name, str(self._data, "utf-8")))
        except UnicodeDecodeError:
            raise InvalidRequest(f"{name} is not valid UTF-8 text.", param=name) from None

    def _is_sound(self, name: str) -> bool:
        """A file's name is optional (RFC 7578, 4.2). What has none is a file by its type, or if it is no text."""
        if self._content_type.strip().lower().startswith(_SOUND):
            return True
        if name != "file":
            return False
        try:
            str(self._data, "utf-8")
        except UnicodeDecodeError:
            return True
        return False


def _names(disposition: bytes | None) -> tuple[str, str | None]:
    """Field name and, for a file part, its file name. The parser's own reader knows no filename*, which clients
    send."""
    if disposition is None:
        raise BrokenBody("A multipart part has no Content-Disposition.")
    given = {
        match[1].lower(): match[2] if match[2] is not None else match[3]
        for match in _PARAMETER.finditer(disposition.decode("utf-8", "replace"))
    }
    if "name" not in given:
        raise BrokenBody("A multipart part has no name.")
    filename = given.get("filename")
    if "filename*" in given:
        filename = unquote(given["filename*"].rpartition("'")[2], errors="replace")
    return _unescaped(given["name"]), None if filename is None else _unescaped(filename)


def _unescaped(name: str) -> str:
    """Browsers write a quote as %22, older clients as a backslash and a quote."""
    return name.replace('\\"', '"').replace("%22", '"')


def _array(value: str) -> list[str]:
    if value.lstrip().startswith("["):
        document = _decoded(value)
        if isinstance(document, list) and all(isinstance(item, str) for item in document):
            return document
    return [value]


def _decoded(value: str) -> Any:
    try:
        return decode(value)
    except ValueError:
        return None
