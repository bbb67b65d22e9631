"""The multipart parser against an independent encoder, broken bodies, and the field name variants."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BrokenBody, InvalidRequest, MissingParameter
from app.routes.multipart import Form, parse_form

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("C",), exclude_characters='"\\%'), min_size=1, max_size=20
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=50)


def _parsed(**parts: object) -> Form:
    request = httpx.Request("POST", "http://x", **parts)  # type: ignore[arg-type]
    return parse_form(request.headers["content-type"], request.read(), 1000)


@given(st.dictionaries(NAMES, TEXTS, min_size=1), st.binary(max_size=300), NAMES)
def test_what_an_independent_encoder_writes_is_read_back(texts: dict[str, str], data: bytes, filename: str) -> None:
    form = _parsed(data=texts, files={"the file": (filename, data)})
    assert dict(form.texts) == texts
    assert bytes(form.files["the file"].data) == data
    assert form.files["the file"].name == filename


@given(
    st.binary(max_size=200),
    st.sampled_from(["multipart/form-data; boundary=xx", 'multipart/form-data; boundary="x;y"', ""]),
)
def test_random_bytes_give_a_form_or_a_clear_error(body: bytes, content_type: str) -> None:
    with contextlib.suppress(InvalidRequest):
        parse_form(content_type, body, 1000)


@given(st.data())
def test_cut_and_damaged_bodies_never_fail_otherwise(data: st.DataObject) -> None:
    text = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    whole = text + b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nxyz\r\n--b--\r\n'
    at = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.binary(max_size=8))
    with contextlib.suppress(InvalidRequest):
        parse_form("multipart/form-data; boundary=b", whole[:at] + junk + whole[at + len(junk) :], 1000)


def _form(*parts: tuple[str, str]) -> Form:
    return Form(list(parts))


def test_a_preamble_and_an_epilogue_are_skipped() -> None:
    body = b'preamble\r\n--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\nepilogue'
    assert parse_form("multipart/form-data; boundary=b", body, 10).texts == [("a", "1")]


def test_empty_form_and_empty_parts() -> None:
    assert parse_form("multipart/form-data; boundary=b", b"--b--\r\n", 10).texts == []
    body = b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n--b--\r\n'
    assert parse_form("multipart/form-data; boundary=b", body, 10).texts == [("a", "")]


def test_extended_file_names_are_decoded() -> None:
    body = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''%e6%97%a5.wav\r\n\r\nx\r\n--b--\r\n"
    assert parse_form("multipart/form-data; boundary=b", body, 10).files["file"].name == "日.wav"


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(InvalidRequest) as told:
        parse_form(*_many(11), 10)
    assert told.value.code == "too_many_fields"
    assert len(parse_form(*_many(10), 10).texts) == 10


def _many(count: int) -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://x", files=[(f"f{n}", (None, "1")) for n in range(count)])
    return request.headers["content-type"], request.read()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--other\r\n",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1',
        b"--b\r\n\r\n\r\n1\r\n--b--",
        b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--",
        b"--bogus\r\n",
        b"--b\r\n--b--",
    ],
)
def test_broken_bodies(body: bytes) -> None:
    with pytest.raises(BrokenBody):
        parse_form("multipart/form-data; boundary=b", body, 10)


def test_text_that_is_not_utf_8_names_the_field() -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\xfe\r\n--b--\r\n'
    with pytest.raises(InvalidRequest) as told:
        parse_form("multipart/form-data; boundary=b", body, 10)
    assert told.value.param == "prompt"


@pytest.mark.parametrize(
    "parts",
    [
        [("g", "word"), ("g", "segment")],
        [("g[]", "word"), ("g[]", "segment")],
        [("g[0]", "word"), ("g[1]", "segment")],
        [("g", '["word", "segment"]')],
        [("g[]", '["word", "segment"]'), ("g[]", "")],
    ],
)
def test_lists_in_every_spelling(parts: list[tuple[str, str]]) -> None:
    assert _form(*parts).texts_of("g") == ["word", "segment"]


def test_objects_in_every_spelling() -> None:
    wanted = {"type": "server_vad", "threshold": "0.4"}
    assert _form(("c[type]", "server_vad"), ("c[threshold]", "0.4")).mapping("c") == wanted
    assert _form(("c", '{"type": "server_vad", "threshold": 0.4}')).mapping("c") == wanted | {"threshold": 0.4}
    assert _form(("c", "auto")).mapping("c") == "auto"
    assert _form(("c", "")).mapping("c") is None
    with pytest.raises(InvalidRequest):
        _form(("c", "{broken")).mapping("c")


def test_empty_is_unset_and_the_last_value_counts() -> None:
    assert _form(("a", "")).text("a") is None
    assert _form(("a", "1"), ("a", "2"), ("a", "")).text("a") == "2"


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False), ("", False)]
)
def test_flags(text: str, value: bool) -> None:
    assert _form(("stream", text)).flag("stream") is value


@pytest.mark.parametrize("text", ["maybe", "2"])
def test_flags_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest):
        _form(("stream", text)).flag("stream")


@pytest.mark.parametrize("text", ["nan", "inf", "-0.1", "1.01", "warm", "1e400"])
def test_numbers_out_of_range(text: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        _form(("temperature", text)).number("temperature", 0, 1)
    assert told.value.param == "temperature"


def test_a_file_sent_as_text_is_explained() -> None:
    with pytest.raises(InvalidRequest, match="-F file=@PATH"):
        _form(("file", "./a.wav")).file("file")
    with pytest.raises(MissingParameter):
        _form().file("file")


def _part(head: bytes, data: bytes) -> Form:
    body = b"--b\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data + b"\r\n--b--\r\n"
    return parse_form("multipart/form-data; boundary=b", body, 10)


@pytest.mark.parametrize(
    ("head", "data"),
    [
        (b'name="file"\r\nContent-Type: audio/wav', b"plain"),
        (b'name="clip"\r\nContent-Type: video/mp4', b"plain"),
        (b'name="file"', b"\xff\xfb" * 50_000),
        (b'name="file"; filename=""', b"plain"),
    ],
)
def test_a_file_needs_no_name(head: bytes, data: bytes) -> None:
    form = _part(head, data)
    assert [bytes(file.data) for file in form.files.values()] == [data]
    assert not form.texts


@pytest.mark.parametrize("head", [b'name="file"', b'name="prompt"\r\nContent-Type: application/octet-stream'])
def test_a_text_stays_one(head: bytes) -> None:
    assert [text for _, text in _part(head, b"clip.wav").texts] == ["clip.wav"]
