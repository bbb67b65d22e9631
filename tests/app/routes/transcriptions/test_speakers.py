"""gpt-4o-transcribe-diarize as its clients know it, by the real SDK, and what goes beyond it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from app.errors import ModelUnavailable
from backends.interface import DiarizationRequest, TranscriptionRequest
from tests.support.audio import wav_of
from tests.support.server import FAKES, Running, fake_settings, running

DIARIZE = "gpt-4o-transcribe-diarize"


def url_of(data: bytes) -> str:
    return "data:audio/wav;base64," + base64.b64encode(data).decode("ascii")


@pytest.fixture(scope="module")
def diarizing() -> Iterator[Running]:
    tables = {**FAKES, "diarize": {"backend": "fake", "task": "diarization"}}
    tables["embedded-asr"] = {"backend": "whisper", "model": "whisper-base", "engine": "onnx", "device": "cpu"}
    settings = fake_settings(deployments=tables, aliases={"gpt-4o-transcribe": "embedded-asr"})
    with running(settings) as server:
        yield server


@pytest.fixture
def server(diarizing: Running) -> Iterator[Running]:
    with diarizing.fresh_pool():
        yield diarizing


@pytest.fixture
def client(server: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0, _strict_response_validation=True) as made:
        yield made


@pytest.fixture(scope="module")
def talk() -> bytes:
    return wav_of(4)


def test_diarized_json_has_a_segment_per_speaker(server: Running, client: OpenAI, talk: bytes) -> None:
    answer = client.audio.transcriptions.create(model=DIARIZE, file=talk, response_format="diarized_json")
    assert (answer.task, answer.duration, answer.text) == ("transcribe", 4.0, "Good morning to you.")
    found = [(one.id, one.type, one.speaker, one.text, one.start, one.end) for one in answer.segments]
    assert found == [
        ("seg_001", "transcript.text.segment", "A", "Good morning", 0.0, 2.0),
        ("seg_002", "transcript.text.segment", "B", "to you.", 2.0, 4.0),
    ]
    assert answer.usage is not None
    assert answer.usage.to_dict() == {"type": "duration", "seconds": 4}
    kinds = {type(request) for request in server.pool.requests}
    assert kinds == {TranscriptionRequest, DiarizationRequest}
    (asked,) = (one for one in server.pool.requests if isinstance(one, TranscriptionRequest))
    assert (asked.words, asked.diarize) == (True, False)


def test_a_stream_ends_with_the_segments(client: OpenAI, talk: bytes) -> None:
    events = list(
        client.audio.transcriptions.create(
            model=DIARIZE, file=talk, response_format="diarized_json", chunking_strategy="auto", stream=True
        )
    )
    kinds = [event.type.removeprefix("transcript.text.") for event in events]
    assert kinds == ["delta", "delta", "segment", "segment", "done"]
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == events[-1].text
    assert [event.speaker for event in events if event.type == "transcript.text.segment"] == ["A", "B"]


def test_any_whisper_answers_too(client: OpenAI, talk: bytes) -> None:
    answer = client.audio.transcriptions.create(model="embedded-asr", file=talk, response_format="diarized_json")
    assert [one.speaker for one in answer.segments] == ["A", "B"]


@pytest.mark.parametrize(("kind", "said"), [("json", "Good morning to you."), ("text", "Good morning to you.\n")])
def test_formats_without_speakers_need_no_second_job(
    server: Running, client: OpenAI, talk: bytes, kind: Any, said: str
) -> None:
    answer = client.audio.transcriptions.with_raw_response.create(model=DIARIZE, file=talk, response_format=kind)
    assert said.strip() in answer.text
    assert [type(request) for request in server.pool.requests] == [TranscriptionRequest]


def test_known_speakers_are_named_and_strangers_lettered(server: Running, client: OpenAI, talk: bytes) -> None:
    answer = client.audio.transcriptions.create(
        model=DIARIZE,
        file=talk,
        response_format="diarized_json",
        known_speaker_names=["Bob", "Ann  Lee"],
        known_speaker_references=[url_of(wav_of(2)), url_of(wav_of(10))],
        extra_body={"num_speakers": 2},
    )
    assert [one.speaker for one in answer.segments] == ["Ann Lee", "A"]
    (asked,) = (one for one in server.pool.requests if isinstance(one, DiarizationRequest))
    assert [len(clip) for clip in asked.references] == [32_000, 160_000]
    assert (asked.min_speakers, asked.max_speakers) == (2, 2)


ERRORS: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "verbose_json"}, "response_format", "unsupported_value"),
    ({"response_format": "srt"}, "response_format", "unsupported_value"),
    ({"response_format": "vtt"}, "response_format", "unsupported_value"),
    ({"prompt": "x"}, "prompt", "unsupported_parameter"),
    ({"include": ["logprobs"], "response_format": "json"}, "include", "unsupported_parameter"),
    ({"known_speaker_names": ["a"]}, "known_speaker_references", "invalid_value"),
    ({"known_speaker_references": [url_of(wav_of(2))]}, "known_speaker_references", "invalid_value"),
    ({"known_speaker_names": ["a"] * 5, "known_speaker_references": ["x"] * 5}, "known_speaker_names", "invalid_value"),
    (
        {"known_speaker_names": ["a", "a"], "known_speaker_references": ["x"] * 2},
        "known_speaker_names",
        "invalid_value",
    ),
    ({"known_speaker_names": ["a" * 65], "known_speaker_references": ["x"]}, "known_speaker_names", "invalid_value"),
    (
        {"known_speaker_names": ["a"], "known_speaker_references": ["https://example.com/a.wav"]},
        "known_speaker_references",
        "invalid_value",
    ),
    (
        {"known_speaker_names": ["a"], "known_speaker_references": [url_of(wav_of(1.5))]},
        "known_speaker_references",
        "invalid_value",
    ),
    (
        {"known_speaker_names": ["a"], "known_speaker_references": [url_of(wav_of(10.5))]},
        "known_speaker_references",
        "invalid_value",
    ),
    ({"extra_body": {"num_speakers": 0}}, "num_speakers", "invalid_value"),
    ({"extra_body": {"num_speakers": 1.5}}, "num_speakers", "invalid_value"),
    ({"extra_body": {"num_speakers": 2, "max_speakers": 2}}, "num_speakers", "invalid_value"),
    ({"extra_body": {"min_speakers": 3, "max_speakers": 2}}, "min_speakers", "invalid_value"),
]


@pytest.mark.parametrize(("fields", "param", "code"), ERRORS)
def test_what_is_wrong_is_named(client: OpenAI, talk: bytes, fields: dict[str, Any], param: str, code: str) -> None:
    given = {"model": DIARIZE, "file": talk, "response_format": "diarized_json"} | fields
    with pytest.raises(openai.BadRequestError) as told:
        client.audio.transcriptions.create(**given)
    assert (told.value.param, told.value.code) == (param, code)


def test_audio_above_30_seconds_needs_a_chunking_strategy(client: OpenAI) -> None:
    long = wav_of(31)
    for kind in ("json", "diarized_json"):
        with pytest.raises(openai.BadRequestError) as told:
            client.audio.transcriptions.create(model=DIARIZE, file=long, response_format=kind)  # type: ignore[call-overload]
        assert told.value.param == "chunking_strategy"
    vad = {"type": "server_vad", "threshold": 0.4}
    client.audio.transcriptions.create(
        model=DIARIZE,
        file=long,
        response_format="diarized_json",
        chunking_strategy=vad,  # type: ignore[arg-type]
    )


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_translations_have_no_speakers(client: OpenAI, talk: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        client.audio.translations.create(model=DIARIZE, file=talk)
    assert told.value.code == "OperationNotSupported"


@pytest.mark.parametrize("model", [DIARIZE, "embedded-asr"])
def test_more_formats_name_speakers_when_asked(client: OpenAI, talk: bytes, model: str) -> None:
    def ask(kind: Any, **fields: Any) -> Any:
        return client.audio.transcriptions.with_raw_response.create(
            model=model, file=talk, response_format=kind, extra_body={"diarize": True}, **fields
        )

    verbose = ask("verbose_json", timestamp_granularities=["word", "segment"]).http_response.json()
    assert [segment["speaker"] for segment in verbose["segments"]] == ["A", "B"]
    assert [word["speaker"] for word in verbose["words"]] == ["A", "A", "B", "B"]
    assert "A: Good morning" in ask("srt").text
    assert "<v B>to you." in ask("vtt").text


def test_rttm_needs_no_words(server: Running, client: OpenAI, talk: bytes) -> None:
    kind: Any = "rttm"
    answer = client.audio.transcriptions.with_raw_response.create(model="embedded-asr", file=talk, response_format=kind)
    assert answer.text.splitlines() == [
        "SPEAKER audio 1 0.000 2.000 <NA> <NA> A <NA> <NA>",
        "SPEAKER audio 1 2.000 2.000 <NA> <NA> B <NA> <NA>",
    ]
    assert answer.headers["x-ms-deployment-name"] == "diarize"
    assert [type(request) for request in server.pool.requests] == [DiarizationRequest]


def test_a_diarizer_that_fails_fails_the_request(server: Running, client: OpenAI, talk: bytes) -> None:
    def only_words(request: Any) -> Any:
        if isinstance(request, DiarizationRequest):
            raise ModelUnavailable("no weights")
        from tests.support.fake_pool import answer

        return answer(request)

    server.pool.script = only_words
    with pytest.raises(openai.InternalServerError) as told:
        client.audio.transcriptions.create(model=DIARIZE, file=talk, response_format="diarized_json")
    assert told.value.status_code == 503
