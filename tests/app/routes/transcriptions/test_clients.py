"""Transcriptions as widespread client programs ask for them, beside the contract's own form."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from app.errors import InvalidRequest, MissingParameter
from app.routes.transcriptions.upload import form_of_json
from tests.support.client import KEY, error_of, post
from tests.support.server import Running, skip_over_cluster

PATH = "/v1/audio/transcriptions"


def _asked(server: Running, wav: bytes, **fields: str) -> httpx.Response:
    form = {"model": "fake-asr", **fields}
    return httpx.post(server.url + PATH, headers=KEY, data=form, files={"file": ("a.wav", wav)})


@pytest.mark.parametrize("kind", ["json", "text", "srt", "vtt", "diarized_json"])
def test_segments_beside_a_format_without_their_times_are_named_as_ignored(
    server: Running, wav: bytes, kind: str
) -> None:
    if kind == "diarized_json":
        skip_over_cluster("fake-asr is a real backend, which tells no speakers apart")
    answer = _asked(server, wav, response_format=kind, **{"timestamp_granularities[]": "segment"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-gateway-ignored"] == "timestamp_granularities"


def test_words_whose_times_would_be_missing_are_refused(server: Running, wav: bytes) -> None:
    answer = _asked(server, wav, **{"timestamp_granularities[]": "word"})
    assert error_of(answer)[0] == "timestamp_granularities"


def test_text_is_streamed_as_json_is(server: Running, wav: bytes) -> None:
    streams = [_asked(server, wav, response_format=kind, stream="true") for kind in ("json", "text")]
    assert streams[1].headers["content-type"].startswith("text/event-stream")
    assert streams[0].text == streams[1].text
    assert '"transcript.text.done"' in streams[1].text


@pytest.mark.parametrize("kind", ["verbose_json", "srt", "vtt"])
def test_a_format_without_a_stream_is_answered_whole(server: Running, wav: bytes, kind: str) -> None:
    whole = _asked(server, wav, response_format=kind)
    asked = _asked(server, wav, response_format=kind, stream="true")
    assert (asked.status_code, asked.text) == (200, whole.text)
    assert asked.headers["x-gateway-ignored"] == "stream"
    assert "x-gateway-ignored" not in whole.headers


@pytest.mark.parametrize("kind", ["SRT", "Srt", " srt "])
def test_a_format_in_capitals_is_understood(server: Running, wav: bytes, kind: str) -> None:
    assert _asked(server, wav, response_format=kind).text == _asked(server, wav, response_format="srt").text


def _json(wav: bytes, **fields: Any) -> dict[str, Any]:
    return {"model": "fake-asr", "input_audio": {"data": base64.b64encode(wav).decode(), "format": "wav"}, **fields}


def test_a_body_in_json_says_what_a_form_says(server: Running, wav: bytes) -> None:
    with server.fresh_pool() as pool:
        fields = {"language": "en", "temperature": 0.25, "prompt": None}
        words = {"response_format": "verbose_json", "timestamp_granularities": ["word", "segment"]}
        answer = post(server, PATH, _json(wav, **fields, **words))
        form = {"language": "en", "temperature": "0.25", "response_format": "verbose_json"}
        expected = _asked(server, wav, **form, **{"timestamp_granularities[]": ["word", "segment"]})  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()) == (200, expected.json())
        assert "x-gateway-ignored" not in answer.headers
        first, second = ((one.language, one.temperature, one.words, one.prompt) for one in pool.requests)
        assert first == second == ("en", 0.25, True, "")


@pytest.mark.parametrize("audio", ["x", {"format": "wav"}, {"data": "?"}, {"data": ""}, {"data": 1}])
def test_json_without_audio_is_refused_by_name(audio: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        form_of_json({"model": "m", "input_audio": audio})
    assert caught.value.param == "input_audio"
    with pytest.raises(MissingParameter):
        form_of_json({"model": "m"})


def test_a_text_in_json_is_as_long_as_one_in_a_form(wav: bytes) -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        form_of_json(_json(wav, prompt="x" * 70_000))
