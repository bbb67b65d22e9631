"""The session's document: defaults, deep merge, and what each wrong field is answered with."""

from __future__ import annotations

from typing import Any

import pytest

from app.config.deployments import Deployments
from app.errors import ApiError
from app.realtime.participants import find
from app.realtime.session import LOGPROBS, Kind, Session, Surroundings
from backends.live import TurnDetection
from tests.support.server import fake_settings

KNOWN = Deployments.from_settings(fake_settings())


def session(kind: Kind = "transcription", model: str = "", *, tools: bool = False) -> Session:
    surroundings = Surroundings(lambda name: find(KNOWN, name, "transcription"), transcription="fake-asr", tools=tools)
    return Session(kind, "sess_1", model, 99, surroundings)


def given(**inputs: Any) -> dict[str, Any]:
    return {"type": "transcription", "audio": {"input": inputs}}


def test_the_two_documents() -> None:
    assert session().document() == {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "id": "sess_1",
        "expires_at": 99,
        "include": None,
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "transcription": {"model": "fake-asr"},
                "noise_reduction": None,
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                },
            }
        },
    }
    shown = session("realtime", "gpt-realtime").document()
    assert (shown["type"], shown["object"], shown["model"]) == ("realtime", "realtime.session", "gpt-realtime")
    assert shown["audio"]["input"]["turn_detection"]["interrupt_response"] is True
    assert shown["audio"]["output"] == {"format": {"type": "audio/pcm", "rate": 24_000}, "voice": "alloy", "speed": 1.0}


def test_an_update_is_a_deep_merge() -> None:
    """A shallow one would switch turn detection off."""
    one = session()
    one.update(given(turn_detection={"type": "server_vad", "threshold": 0.7}))
    one.update(given(transcription={"language": "en"}))
    assert one.turns is not None
    assert (one.turns["threshold"], one.turns["silence_duration_ms"]) == (0.7, 500)
    one.update(given(turn_detection={"type": "server_vad", "silence_duration_ms": 300}))
    assert (one.turns["threshold"], one.turns["silence_duration_ms"]) == (0.7, 300)
    assert one.input["transcription"] == {"model": "fake-asr", "language": "en"}
    one.update(given(turn_detection=None))
    one.update(given(transcription={"language": None, "prompt": "", "keywords": []}))
    assert one.turns is None
    assert one.input["transcription"] == {"model": "fake-asr", "keywords": []}
    one.update(given(turn_detection={"silence_duration_ms": 200}))
    assert (one.turns or {})["silence_duration_ms"] == 200


def test_null_passes_where_clients_send_it() -> None:
    one = session("realtime")
    one.update({"type": "realtime", "instructions": None, "tracing": None, "tools": None, "max_output_tokens": None})
    assert (one.fields["instructions"], one.fields["tools"], one.fields["max_output_tokens"]) == ("", [], "inf")


def test_what_the_recognizer_is_told() -> None:
    one = session()
    wanted = {"language": "english", "prompt": "A play.", "keywords": ["Beckett", "Godot"]}
    one.update({**given(transcription=wanted), "include": [LOGPROBS]})
    request = one.live_request()
    assert (request.language, request.prompt, request.keywords) == ("en", "A play.", ("Beckett", "Godot"))
    assert request.turn_detection == TurnDetection(0.5, 300, 500)
    one.update(given(transcription={"language": None, "languages": ["en", "de"]}, turn_detection=None))
    request = one.live_request()
    assert (request.language, request.languages, request.turn_detection) == (None, ("en", "de"), None)
    one.update(given(transcription={"languages": ["German"]}))
    assert (one.live_request().language, one.live_request().languages) == ("de", ())


@pytest.mark.parametrize("keywords", [["x" * 201], ["x"] * 1001])
def test_keywords_have_bounds(keywords: list[str]) -> None:
    with pytest.raises(ApiError) as told:
        session().update(given(transcription={"keywords": keywords}))
    assert told.value.param == "session.audio.input.transcription.keywords"


def test_streaming_models_have_no_turn_detection_unless_it_is_asked_for() -> None:
    one = session()
    one.update(given(transcription={"model": "gpt-realtime-whisper"}))
    assert one.turns is None
    one.update(given(turn_detection={"type": "server_vad"}))
    one.update(given(transcription={"model": "gpt-live-transcribe"}))
    assert one.turns is not None


def test_noise_reduction_is_taken_and_truly_reported() -> None:
    one = session()
    one.update(given(noise_reduction={"type": "near_field"}))
    assert one.input["noise_reduction"] is None


def test_another_model_inside_the_session_is_no_error() -> None:
    one = session("realtime", "gpt-realtime")
    one.update({"type": "realtime", "model": "gpt-realtime-2.1"})
    assert one.document()["model"] == "gpt-realtime"


@pytest.mark.parametrize(
    ("update", "param", "code"),
    [
        ({"type": "transcription", "tools": []}, "session.tools", "unknown_parameter"),
        ({"type": "realtime"}, "session.type", "invalid_value"),
        (given(colour=1), "session.audio.input.colour", "unknown_parameter"),
        (given(format={"type": "audio/mp3"}), "session.audio.input.format.type", "invalid_value"),
        (given(format={"type": "audio/pcm", "rate": 1}), "session.audio.input.format.rate", "invalid_value"),
        (given(transcription={"model": "nobody"}), "session.audio.input.transcription.model", "model_not_found"),
        (
            given(transcription={"model": "fake-tts"}),
            "session.audio.input.transcription.model",
            "OperationNotSupported",
        ),
        (given(transcription={"language": "xx"}), "session.audio.input.transcription.language", "invalid_value"),
        (given(turn_detection={"type": "magic"}), "session.audio.input.turn_detection.type", "invalid_value"),
        (given(turn_detection={"threshold": 2}), "session.audio.input.turn_detection.threshold", "invalid_value"),
        (given(turn_detection={"threshold": "high"}), "session.audio.input.turn_detection.threshold", "invalid_value"),
        ({"type": "transcription", "include": ["everything"]}, "session.include", "invalid_value"),
    ],
)
def test_a_wrong_update_changes_nothing(update: dict[str, Any], param: str, code: str) -> None:
    one = session()
    before = one.document()
    with pytest.raises(ApiError) as refused:
        one.update(update | {"include": update.get("include", [LOGPROBS])})
    assert (refused.value.param, refused.value.code) == (param, code)
    assert one.document() == before


def test_tools_are_refused_where_nobody_calls_them() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    with pytest.raises(ApiError) as refused:
        session("realtime").update({"type": "realtime", "tools": tools})
    assert refused.value.param == "session.tools"
    able = session("realtime", tools=True)
    able.update({"type": "realtime", "tools": tools, "tool_choice": {"type": "function", "name": "f"}})
    assert able.fields["tools"] == tools


def test_the_voice_stays_once_the_session_has_spoken() -> None:
    one = session("realtime")
    one.update({"type": "realtime", "audio": {"output": {"voice": "echo"}}})
    one.update({"type": "realtime", "audio": {"output": {"voice": "echo"}}}, spoken=True)
    with pytest.raises(ApiError):
        one.update({"type": "realtime", "audio": {"output": {"voice": "ash"}}}, spoken=True)
