"""A body that would occupy the parser, and with it every other request, is refused before it is parsed; no value that a
client chose is repeated at any length."""

from __future__ import annotations

import json

import httpx
import msgspec
import pytest

from app.errors import LONGEST_MESSAGE, ApiError, BrokenBody, InvalidRequest, TooLarge
from app.logs import _shortened
from app.routes import json_text
from app.routes.chat.messages import MOST_CHARACTERS, read_messages
from app.routes.json_text import MOST_VALUES, decode_object, named
from app.routes.multipart import ALL_TEXT_BYTES, TEXT_BYTES, parse_form
from tests.support.audio import wav_of
from tests.support.server import Running, server_fixture

SPEECH = {"model": "fake-tts", "input": "hi", "voice": "alloy"}
KEY = {"api-key": "k"}


@pytest.fixture(scope="module")
def wav() -> bytes:
    return wav_of(2.0)


server = server_fixture()


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"0,", b"[[],{}],"])
def test_too_many_values_are_refused_before_they_are_parsed(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text.msgspec.json, "decode", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(BrokenBody, match="more than 100000 values"):
        decode_object(b'{"a":[' + piece * MOST_VALUES + b"0]}")


def test_a_long_body_without_audio_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text.msgspec.json, "decode", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(TooLarge, match="without inline audio"):
        decode_object(b'{"' + b"k" * json_text.TEXT_BYTES + b'":1}')


def test_a_long_body_with_inline_audio_is_parsed() -> None:
    data = "A" * (json_text.TEXT_BYTES + 1)
    assert decode_object(msgspec.json.encode({"reference_audio": data})) == {"reference_audio": data}


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(BrokenBody, match="not valid JSON"):
        decode_object(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}")


def test_as_many_values_as_a_long_conversation_has_are_taken(server: Running) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a, b"}]} for _ in range(1000)]
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", headers=KEY, json={"model": "fake-chat", "messages": messages}
    )
    assert answer.status_code == 200


def test_ignored_keys_are_named_up_to_a_few_dozen_and_cut(server: Running) -> None:
    assert named([f"k{number}" for number in range(40)]).count("k") == 32
    assert named(["x" * 100]) == "x" * 64 + "..."
    answer = httpx.post(f"{server.url}/v1/audio/speech", headers=KEY, json=SPEECH | {f"k{n}": 1 for n in range(5000)})
    assert answer.status_code == 200
    assert answer.headers["x-gateway-ignored"].endswith("k31, ...")


@pytest.mark.parametrize("name", ["voice", "model", "response_format"])
def test_a_long_value_is_refused_and_not_repeated(server: Running, name: str) -> None:
    answer = httpx.post(f"{server.url}/v1/audio/speech", headers=KEY, json=SPEECH | {name: "v" * 100_000})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert len(answer.content) < 500


@pytest.mark.parametrize("name", ["model", "response_format", "language", "stream", "whatever"])
def test_a_long_form_field_is_refused_and_not_repeated(server: Running, wav: bytes, name: str) -> None:
    form = {"model": "fake-asr"} | {name: "v" * (TEXT_BYTES + 1)}
    answer = httpx.post(f"{server.url}/v1/audio/transcriptions", headers=KEY, data=form, files={"file": ("f.wav", wav)})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert len(answer.content) < 500


def _part(name: str, value: str, more: str = "") -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (_part("n" * 300, "v"), "The name of a form field has 300 characters"),
        (_part("n", "v", " " * 5000), "more than 4096 bytes"),
        (
            "".join(_part(f"n{number}", "v" * TEXT_BYTES) for number in range(17)),
            f"may have {ALL_TEXT_BYTES} bytes together",
        ),
    ],
    ids=["long name", "long head", "many texts"],
)
def test_forms_whose_names_heads_or_texts_are_too_long_are_refused(form: str, text: str) -> None:
    with pytest.raises((InvalidRequest, BrokenBody), match=text):
        parse_form("multipart/form-data; boundary=b", f"{form}--b--\r\n".encode(), 1000)


def test_a_form_field_may_hold_audio_at_length() -> None:
    value = "A" * (2 * ALL_TEXT_BYTES)
    form = parse_form(
        "multipart/form-data; boundary=b", f"{_part('known_speaker_references[]', value)}--b--\r\n".encode(), 9
    )
    assert form.texts == [("known_speaker_references[]", value)]


def test_a_list_of_millions_in_a_form_field_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text.msgspec.json, "decode", lambda *_: pytest.fail("it was parsed"))
    value = json.dumps(["a"] * (MOST_VALUES + 1))
    form = parse_form(
        "multipart/form-data; boundary=b", f"{_part('known_speaker_references', value)}--b--\r\n".encode(), 9
    )
    assert form.texts_of("known_speaker_references") == [value]


def test_the_texts_of_a_conversation_are_bounded() -> None:
    message = {"role": "user", "content": "x" * (MOST_CHARACTERS // 2 + 1)}
    with pytest.raises(InvalidRequest, match="characters of text"):
        read_messages([message, message], lambda _: None)


def test_no_error_repeats_more_than_a_page() -> None:
    error = ApiError("e" * 1_000_000)
    assert len(error.encoded()) < LONGEST_MESSAGE + 200
    assert len(str(error)) < LONGEST_MESSAGE + 100


def test_no_value_in_the_log_is_longer_than_a_page() -> None:
    line = _shortened(None, "", {"error": "e" * 1_000_000, "bytes": 5})
    assert line["bytes"] == 5
    assert len(line["error"]) < LONGEST_MESSAGE + 100
