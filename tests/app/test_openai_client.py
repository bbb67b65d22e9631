"""The real OpenAI clients against a running server, on every URL scheme."""

from __future__ import annotations

import io
import json
from typing import Any

import openai
import pytest
from openai import AsyncAzureOpenAI, AzureOpenAI, OpenAI

from app.errors import ModelUnavailable, Overloaded
from backends.interface import Done, Failed, TextDelta
from tests.support.audio import wav_of
from tests.support.server import Running

KEY = "My API Key"
NAMES = ["fake-asr", "team/asr model"]


def _azure(server: Running, **options: Any) -> AzureOpenAI:
    return AzureOpenAI(azure_endpoint=server.url, api_key=KEY, api_version="2024-10-21", max_retries=0, **options)


def _clients(server: Running) -> dict[str, OpenAI]:
    return {
        "azure": _azure(server),
        "azure, slash": AzureOpenAI(azure_endpoint=f"{server.url}/", api_key=KEY, api_version="2025-04-01-preview"),
        "azure, deployment": _azure(server, azure_deployment="fake-asr"),
        "azure, token": AzureOpenAI(azure_endpoint=server.url, azure_ad_token="a.b.c", api_version="2024-10-21"),
        "azure on v1": AzureOpenAI(base_url=f"{server.url}/openai/v1", api_key=KEY, api_version="2024-10-21"),
        "v1": OpenAI(base_url=f"{server.url}/openai/v1/", api_key=KEY),
        "v1, preview": OpenAI(
            base_url=f"{server.url}/openai/v1/", api_key=KEY, default_query={"api-version": "preview"}
        ),
        "plain": OpenAI(base_url=f"{server.url}/v1", api_key=KEY),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "scheme",
    ["azure", "azure, slash", "azure, deployment", "azure, token", "azure on v1", "v1", "v1, preview", "plain"],
)
def test_transcriptions_on_every_scheme(server: Running, wav: bytes, scheme: str, name: str) -> None:
    with _clients(server)[scheme] as client:
        transcription = client.audio.transcriptions.create(
            model=name, file=("a b.wav", wav), language="en", prompt="p", temperature=0.2
        )
        assert transcription.text == "Good morning to you."
        assert transcription.usage is not None
        assert transcription.usage.type == "duration"
        assert transcription.usage.seconds == 2
    request = server.pool.requests[-1]
    assert (request.language, request.prompt, request.temperature, request.samples.shape) == ("en", "p", 0.2, (32_000,))


def test_verbose_json_is_valid_for_the_strict_client(server: Running, wav: bytes) -> None:
    with _azure(server, _strict_response_validation=True) as client:
        transcription = client.audio.transcriptions.create(
            model="fake-asr",
            file=io.BytesIO(wav),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    assert (transcription.language, transcription.duration, transcription.text) == (
        "english",
        2.0,
        "Good morning to you.",
    )
    assert transcription.segments is not None
    assert transcription.words is not None
    assert [segment.id for segment in transcription.segments] == [0, 1]
    assert [word.word for word in transcription.words] == ["good", "morning", "to", "you"]
    assert transcription.words[-1].end == 2.0


def test_granularities_choose_the_lists(server: Running, wav: bytes) -> None:
    with _azure(server) as client:

        def transcription(*names: Any) -> Any:
            return client.audio.transcriptions.create(
                model="fake-asr", file=wav, response_format="verbose_json", timestamp_granularities=list(names)
            )

        only_words, only_segments = transcription("word"), transcription("segment")
    assert (only_words.segments, only_segments.words) == (None, None)
    assert (len(only_words.words), len(only_segments.segments)) == (4, 2)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("text", "Good morning to you.\n"),
        ("srt", "1\n00:00:00,000 --> 00:00:01,000\nGood morning\n\n2\n00:00:01,000 --> 00:00:02,000\nto you.\n\n"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nGood morning\n\n00:00:01.000 --> 00:00:02.000\nto you.\n\n"),
    ],
)
def test_text_formats(server: Running, wav: bytes, kind: Any, text: str) -> None:
    with _azure(server) as client:
        answer = client.audio.transcriptions.with_raw_response.create(model="fake-asr", file=wav, response_format=kind)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == text


def test_streamed_deltas_join_to_the_final_text(server: Running, wav: bytes) -> None:
    with _azure(server) as client:
        events = list(client.audio.transcriptions.create(model="fake-asr", file=wav, stream=True))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert ("".join(deltas), len(deltas)) == (done.text, 2)
    assert done.usage is not None
    assert done.usage.total_tokens == 4


def test_diarized_json_whole_and_streamed(server: Running, wav: bytes) -> None:
    with _azure(server) as client:
        whole = client.audio.transcriptions.create(model="fake-asr", file=wav, response_format="diarized_json")
        events = list(
            client.audio.transcriptions.create(model="fake-asr", file=wav, response_format="diarized_json", stream=True)
        )
    assert [(segment.id, segment.speaker, segment.text) for segment in whole.segments] == [
        ("seg_001", "A", "Good morning"),
        ("seg_002", "A", "to you."),
    ]
    assert [event.text for event in events if event.type == "transcript.text.segment"] == ["Good morning", "to you."]


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_translations(server: Running, wav: bytes) -> None:
    with _clients(server)["plain"] as client:
        assert client.audio.translations.create(model="fake-asr", file=wav).text == "Good morning to you."
        verbose = client.audio.translations.create(model="fake-asr", file=wav, response_format="verbose_json")
        assert verbose.language == "english"
        assert verbose.to_dict()["task"] == "translate"
    assert server.pool.requests[-1].task == "translate"


def test_nested_and_listed_options_arrive(server: Running, wav: bytes) -> None:
    vad = {"type": "server_vad", "threshold": 0.3, "silence_duration_ms": 250}
    with _azure(server) as client:
        client.audio.transcriptions.create(model="fake-asr", file=wav, chunking_strategy=vad)  # type: ignore[call-overload]
        chunking = server.pool.requests[-1].chunking
        assert (chunking.threshold, chunking.prefix_padding_ms, chunking.silence_duration_ms) == (0.3, 300, 250)
        client.audio.transcriptions.create(model="fake-asr", file=wav, chunking_strategy="auto")
        assert server.pool.requests[-1].chunking.threshold == 0.5


async def test_the_asynchronous_client(server: Running, wav: bytes) -> None:
    async with AsyncAzureOpenAI(azure_endpoint=server.url, api_key=KEY, api_version="2024-10-21") as client:
        transcription = await client.audio.transcriptions.create(model="team/asr model", file=wav)
        assert transcription.text == "Good morning to you."
        events = [
            event async for event in await client.audio.transcriptions.create(model="fake-asr", file=wav, stream=True)
        ]
        assert events[-1].type == "transcript.text.done"
        assert "fake-asr" in [model.id async for model in client.models.list()]


def test_models_on_every_scheme(server: Running) -> None:
    for name, client in _clients(server).items():
        with client:
            assert "team/asr model" in [model.id for model in client.models.list()], name
            if name != "azure, deployment":
                assert client.models.retrieve("gpt-4o-transcribe").id == "gpt-4o-transcribe"


def test_errors_become_the_clients_exceptions(server: Running, wav: bytes) -> None:
    with _azure(server) as client, pytest.raises(openai.NotFoundError) as missing:
        client.audio.transcriptions.create(model="ghost", file=wav)
    assert missing.value.code == "DeploymentNotFound"
    assert missing.value.request_id == missing.value.response.headers["apim-request-id"]
    with _azure(server) as client, pytest.raises(openai.BadRequestError) as wrong:
        client.audio.transcriptions.create(model="fake-asr", file=b"not audio")
    assert (wrong.value.code, wrong.value.param, wrong.value.type) == ("invalid_value", "file", "invalid_request_error")


def test_the_client_repeats_a_refusal_and_succeeds(server: Running, wav: bytes) -> None:
    refusals: list[Exception] = [Overloaded("full", retry_after=0.01), ModelUnavailable("loading", retry_after=0.01)]
    admit = server.pool.admit

    def admit_later(*args: Any, **named: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return admit(*args, **named)

    server.pool.admit = admit_later  # type: ignore[method-assign]
    try:
        with AzureOpenAI(azure_endpoint=server.url, api_key=KEY, api_version="2024-10-21") as client:
            assert client.audio.transcriptions.create(model="fake-asr", file=wav).text
    finally:
        del server.pool.admit
    assert not refusals


def test_a_failure_before_the_first_event_keeps_its_status(server: Running, wav: bytes) -> None:
    server.pool.script, script = (
        lambda _: iter([Failed("invalid_input", "no such language", "language")]),
        server.pool.script,
    )
    try:
        with _azure(server) as client, pytest.raises(openai.BadRequestError) as told:
            client.audio.transcriptions.create(model="fake-asr", file=wav, stream=True)
    finally:
        server.pool.script = script
    assert told.value.param == "language"


def test_a_failure_in_the_middle_of_a_stream_is_raised_by_the_client(server: Running, wav: bytes) -> None:
    events = [TextDelta("Good"), Failed("worker_lost", "The worker ended.")]
    server.pool.script, script = lambda _: iter(events), server.pool.script
    try:
        with _azure(server) as client, pytest.raises(openai.APIError, match="The worker ended") as told:
            list(client.audio.transcriptions.create(model="fake-asr", file=wav, stream=True))
    finally:
        server.pool.script = script
    assert told.value.code == "worker_lost"


def test_notes_and_the_fallback_are_told(server: Running, wav: bytes) -> None:
    server.pool.script, script = lambda _: iter([Done("x", notes=("cut at 30 s",))]), server.pool.script
    server.pool.fallbacks["fake-asr"] = "team/asr model"
    try:
        with _azure(server) as client:
            headers = client.audio.transcriptions.with_raw_response.create(model="fake-asr", file=wav).headers
    finally:
        server.pool.script = script
        server.pool.fallbacks.clear()
    assert (headers["x-gateway-note"], headers["x-gateway-fallback"]) == ("cut at 30 s", "team/asr model")
    assert (headers["x-gateway-engine"], headers["x-gateway-device"], headers["x-gateway-dtype"]) == (
        "fake",
        "cpu",
        "float32",
    )
    for stage in ("queue", "decode", "model", "encode"):
        assert float(headers[f"x-gateway-{stage}-ms"]) >= 0


def test_invalid_fields_name_themselves(server: Running, wav: bytes) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"response_format": "xml"}, "response_format", "invalid_value"),
        ({"temperature": 1.5}, "temperature", "invalid_value"),
        ({"language": "klingon"}, "language", "invalid_value"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities", "invalid_value"),
        (
            {"timestamp_granularities": ["syllable"], "response_format": "verbose_json"},
            "timestamp_granularities",
            "invalid_value",
        ),
        ({"include": ["logprobs"]}, "include", "unsupported_value"),
        ({"chunking_strategy": "always"}, "chunking_strategy", "invalid_value"),
        ({"chunking_strategy": {"type": "none"}}, "chunking_strategy", "invalid_value"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 7}}, "chunking_strategy.threshold", "invalid_value"),
        ({"include": ["tokens"]}, "include", "invalid_value"),
        ({"include": ["logprobs"], "response_format": "text"}, "include", "invalid_value"),
        ({"known_speaker_names": ["a"]}, "known_speaker_references", "invalid_value"),
        ({"known_speaker_names": list("abcde")}, "known_speaker_names", "invalid_value"),
        ({"file": b""}, "file", "audio_too_short"),
        ({"file": b"RIFF"}, "file", "invalid_value"),
    ]
    with _azure(server) as client:
        for fields, param, code in cases:
            with pytest.raises(openai.BadRequestError) as told:
                client.audio.transcriptions.create(**{"model": "fake-asr", "file": wav} | fields)
            assert (told.value.param, told.value.code) == (param, code), fields


@pytest.mark.parametrize(
    ("given", "told"), [("auto", None), ("Und", None), ("mul", None), ("eng", "en"), ("nb", "no"), ("German", "de")]
)
def test_languages_as_clients_write_them(server: Running, wav: bytes, given: str, told: str | None) -> None:
    with _azure(server) as client:
        client.audio.transcriptions.create(model="fake-asr", file=wav, language=given)
    assert server.pool.requests[-1].language == told


def test_keywords_and_language_hints(server: Running, wav: bytes) -> None:
    with _azure(server) as client:

        def ask(**fields: Any) -> Any:
            return client.audio.transcriptions.with_raw_response.create(model="fake-asr", file=wav, extra_body=fields)

        ask(keywords=["Ada", "Grace"], languages=["de"])
        request = server.pool.requests[-1]
        assert (request.prompt, request.keywords, request.language) == ("", ("Ada", "Grace"), "de")
        answer = ask(languages=["de", "French", "fr"])
        request = server.pool.requests[-1]
        assert (request.language, request.languages) == (None, ("de", "fr"))
        assert "x-gateway-note" not in answer.headers
        ask(language="fr", languages=["de", "fr"], keywords=["  Ada \n Lovelace ", " "])
        request = server.pool.requests[-1]
        assert (request.language, request.languages, request.keywords) == ("fr", (), ("Ada Lovelace",))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"languages": ["de", "klingon"]}, "languages"),
        ({"language": "en", "languages": ["de", "fr"]}, "languages"),
        ({"keywords": ["x" * 201]}, "keywords"),
        ({"keywords": json.dumps(["x"] * 1001)}, "keywords"),
    ],
)
def test_keywords_and_languages_that_cannot_be_meant(
    server: Running, wav: bytes, fields: dict[str, Any], param: str
) -> None:
    with _azure(server) as client, pytest.raises(openai.BadRequestError) as told:
        client.audio.transcriptions.create(model="fake-asr", file=wav, extra_body=fields)
    assert told.value.param == param


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_fields_that_mean_nothing_are_named(server: Running, wav: bytes) -> None:
    with _azure(server) as client:
        transcriptions, translations = (
            client.audio.transcriptions.with_raw_response,
            client.audio.translations.with_raw_response,
        )
        told = transcriptions.create(
            model="fake-asr", file=wav, language="en", extra_body={"user": "u", "best": [1, 2]}
        )
        assert told.headers["x-gateway-ignored"] == "user, best"
        unused = {"stream": True, "language": "de", "empty": ""}
        told = translations.create(model="fake-asr", file=wav, prompt="x", extra_body=unused)
        assert told.headers["x-gateway-ignored"] == "stream, language"
        known = {
            "filename": "a.wav",
            "chunking_strategy": {"type": "server_vad"},
            "keywords": ["a"],
            "languages": ["de"],
        }
        fields = {"timestamp_granularities": ["word"], "response_format": "verbose_json", "stream": False} | known
        assert "x-gateway-ignored" not in transcriptions.create(model="fake-asr", file=wav, extra_body=fields).headers
        told = transcriptions.create(model="fake-asr", file=wav, stream=True, extra_body={"a" * 250: "b"})
        assert told.headers["x-gateway-ignored"] == "a" * 64 + "..."
        list(told.parse())


def test_clips_shorter_than_a_tenth_of_a_second(server: Running) -> None:
    with _azure(server) as client, pytest.raises(openai.BadRequestError) as told:
        client.audio.transcriptions.create(model="fake-asr", file=wav_of(0.05))
    assert (told.value.code, told.value.param) == ("audio_too_short", "file")


def test_long_audio_is_diarized_only_with_a_chunking_strategy(server: Running) -> None:
    long = wav_of(31)
    with _azure(server) as client:
        with pytest.raises(openai.BadRequestError) as told:
            client.audio.transcriptions.create(model="fake-asr", file=long, response_format="diarized_json")
        assert told.value.param == "chunking_strategy"
        client.audio.transcriptions.create(
            model="fake-asr", file=long, response_format="diarized_json", chunking_strategy="auto"
        )
