"""POST audio/speech over a real connection: formats, streaming, voices, events, every refusal."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile

from app.config.deployments import Deployments
from app.errors import ModelUnavailable
from backends.interface import AudioChunk, Capabilities, Done, Failed, Request, Usage, Voice
from tests.support.audio import by_soundfile, tone
from tests.support.client import error_of, post
from tests.support.fake_pool import FakePool
from tests.support.server import FAKES, Running, fake_settings, running, server_fixture

URL = "/v1/audio/speech"
BODY = {"model": "fake-tts", "input": "Hello there.", "voice": "alloy"}
TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
CLIP = base64.b64encode(by_soundfile(tone(24_000, 0.5), 24_000, "WAV", "PCM_16")).decode()


server = server_fixture(
    deployments=FAKES
    | {"fake-tts": {**FAKES["fake-tts"], "voices": {"Anna": "fake-high"}}, "spare-tts": dict(FAKES["fake-tts"])}
)


@pytest.fixture(autouse=True)
def fresh(server: Running) -> Iterator[None]:
    with server.fresh_pool() as pool:
        pool.run_capabilities = Capabilities(
            "fake", "cpu", "float32", sample_rate=24_000, voices=(Voice("low"), Voice("high"))
        )
        yield


def test_the_default_is_mp3(server: Running) -> None:
    answer = post(server, URL, BODY)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/mpeg"
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert rate == 24_000
    assert len(samples) / rate == pytest.approx(1.2, abs=0.1)


@pytest.mark.parametrize("name", TYPES)
def test_every_format_has_its_type(server: Running, name: str) -> None:
    answer = post(server, URL, {**BODY, "response_format": name})
    assert answer.headers["content-type"] == TYPES[name]
    assert len(answer.content) > 1000


def test_a_quick_wav_tells_its_length(server: Running) -> None:
    answer = post(server, URL, {**BODY, "response_format": "wav"})
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert int.from_bytes(answer.content[40:44], "little") == len(answer.content) - 44 == 12 * 2400 * 2


def test_a_slow_wav_is_streamed_with_an_open_length(server: Running) -> None:
    server.pool.delay = 0.02
    answer = post(server, URL, {**BODY, "response_format": "wav"})
    assert "content-length" not in answer.headers
    assert answer.content[4:8] == answer.content[40:44] == b"\xff\xff\xff\xff"
    assert len(answer.content) == 44 + 12 * 2400 * 2


def test_a_slow_flac_is_waited_for_because_libsndfile_wants_its_length(server: Running) -> None:
    server.pool.delay = 0.02
    answer = post(server, URL, {**BODY, "response_format": "flac"})
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert (len(samples), rate) == (12 * 2400, 24_000)


def test_a_whole_wav_can_be_asked_for(server: Running) -> None:
    server.pool.delay = 0.02
    answer = post(server, URL, {**BODY, "response_format": "wav", "stream": False})
    assert int.from_bytes(answer.content[40:44], "little") == len(answer.content) - 44
    assert server.pool.requests[0].stream is False


def test_the_first_audio_comes_before_the_last(server: Running) -> None:
    server.pool.delay = 0.05
    sizes = []
    with httpx.stream(
        "POST", server.url + URL, json={**BODY, "response_format": "pcm"}, headers={"api-key": "k"}
    ) as answer:
        for chunk in answer.iter_raw():
            sizes.append(len(chunk))
            assert server.pool.active == 1 or sum(sizes) == 12 * 4800
    assert sum(sizes) == 12 * 4800
    assert len(sizes) > 3


def test_headers_tell_who_spoke_and_how_to_refer_to_it(server: Running) -> None:
    answer = post(server, URL, {**BODY, "seed": 7, "stream": False, "colour": "red"})
    assert answer.headers["x-gateway-answer-id"] == answer.headers["x-request-id"] == server.pool.requests[0].answer_id
    assert answer.headers["x-gateway-engine"] == "fake"
    assert answer.headers["x-gateway-ignored"] == "colour"
    assert float(answer.headers["x-gateway-encode-ms"]) > 0
    assert float(answer.headers["x-gateway-model-ms"]) > 0


def test_the_first_audio_is_measured(server: Running) -> None:
    post(server, URL, BODY)
    metrics = httpx.get(server.url + "/metrics").text
    count = next(line for line in metrics.splitlines() if line.startswith("gateway_first_audio_seconds_count"))
    assert float(count.split()[1]) >= 1


def test_events(server: Running) -> None:
    answer = post(server, URL, {**BODY, "stream_format": "sse", "response_format": "pcm"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert sum(len(base64.b64decode(event["audio"])) for event in events[:-1]) == 12 * 4800
    assert events[-1] == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 2, "output_tokens": 12, "total_tokens": 14},
    }


def test_a_failure_in_the_middle_of_events_is_an_event(server: Running) -> None:
    def fails(request: Request) -> Iterator[Any]:
        yield AudioChunk(np.zeros(24_000, np.float32), 24_000)
        yield Failed("worker_lost", "gone")

    server.pool.script = fails
    answer = post(server, URL, {**BODY, "stream_format": "sse", "response_format": "pcm"})
    assert json.loads(answer.text.strip().splitlines()[-1].removeprefix("data: "))["error"]["code"] == "worker_lost"


def test_a_failure_in_the_middle_of_audio_cuts_the_connection(server: Running) -> None:
    def fails(request: Request) -> Iterator[Any]:
        yield AudioChunk(np.zeros(24_000, np.float32), 24_000)
        yield Failed("worker_lost", "gone")

    server.pool.script = fails
    with pytest.raises(httpx.RemoteProtocolError):
        post(server, URL, {**BODY, "response_format": "pcm"})


@pytest.mark.parametrize("options", [{}, {"stream_format": "sse"}, {"response_format": "wav"}, {"stream": False}])
def test_a_failure_before_the_first_audio_keeps_its_status(server: Running, options: dict[str, Any]) -> None:
    server.pool.script = lambda request: iter([Failed("worker_lost", "gone")])
    assert error_of(post(server, URL, {**BODY, **options}), 503) == (None, "worker_lost")


@pytest.mark.parametrize("options", [{}, {"stream_format": "sse"}, {"response_format": "wav"}, {"stream": False}])
def test_text_that_makes_no_sound_is_refused(server: Running, options: dict[str, Any]) -> None:
    server.pool.script = lambda request: iter([Done()])
    assert error_of(post(server, URL, {**BODY, **options})) == ("input", "invalid_value")


def test_a_missing_model_says_what_to_do(server: Running) -> None:
    server.pool.refuse = ModelUnavailable("run: speech-gateway pull fake-tts")
    answer = post(server, URL, BODY)
    assert error_of(answer, 503) == (None, "ModelUnavailable")
    assert answer.headers["retry-after"]


VOICES = [
    ("low", "low"),
    ("Anna", "fake-high"),
    ("alloy", "low"),
    ("ash", "high"),
    ("ballad", "low"),
    ("Nova", "high"),
    ({"id": "coral"}, "high"),
    ("[3]", "[3]"),
]


@pytest.mark.parametrize(("given", "wanted"), VOICES)
@pytest.mark.parametrize("loaded", [True, False])
def test_voices(server: Running, given: object, wanted: str, loaded: bool) -> None:
    server.pool.loaded = loaded
    assert post(server, URL, {**BODY, "voice": given}).status_code == 200
    assert server.pool.requests[0].voice == wanted


def test_a_backend_that_speaks_under_openais_names_gets_them(server: Running) -> None:
    server.pool.run_capabilities = Capabilities("fake", "cpu", "float32", voices=(Voice("en"), Voice("nova")))
    post(server, URL, {**BODY, "voice": "nova"})
    assert server.pool.requests[0].voice == "nova"


def test_an_unknown_voice_is_the_backends_to_refuse(server: Running) -> None:
    server.pool.script = lambda request: iter([Failed("invalid_input", "no such voice", param="voice")])
    assert error_of(post(server, URL, {**BODY, "voice": "nobody"})) == ("voice", "invalid_value")


def test_a_fallback_speaks_with_a_voice_of_its_own(server: Running) -> None:
    server.pool.fallbacks["fake-tts"] = "spare-tts"
    answer = post(server, URL, {**BODY, "voice": "[3]"})
    assert answer.headers["x-gateway-fallback"] == "spare-tts"
    assert server.pool.requests[0].voice == "low"


def test_extra_fields_reach_the_backend(server: Running) -> None:
    context = [{"speaker": 0, "text": "Hi.", "audio": CLIP}, {"speaker": "1", "text": "Ho.", "answer_id": "abc"}]
    extra = {
        "instructions": "Whisper.",
        "seed": -1,
        "context": context,
        "reference_audio": f"data:audio/wav;base64,{CLIP}",
        "reference_text": "A tone.",
        "options": {"temperature": 0.5},
        "speed": "1.25",
    }
    assert post(server, URL, {**BODY, **extra}).status_code == 200
    (request,) = server.pool.requests
    first, second = request.context
    assert (first.speaker, first.text, first.answer_id, len(first.samples)) == ("0", "Hi.", None, 8000)
    assert (second.speaker, second.samples, second.answer_id) == ("1", None, "abc")
    assert request.reference.transcript == "A tone."
    assert len(request.reference.samples) == 8000
    assert (request.speed, request.instructions, request.options) == (1.25, "Whisper.", {"temperature": 0.5})
    assert request.seed == (1 << 63) - 1


def test_control_characters_are_not_spoken(server: Running) -> None:
    post(server, URL, {**BODY, "input": "a\x00b\x1bc\nd\u0085e"})
    assert server.pool.requests[0].text == "abc\nde"


@pytest.mark.parametrize(("speed", "seconds"), [(0.5, 2.4), (4.0, 0.3)])
def test_speed_is_made_here_where_the_backend_cannot(server: Running, speed: float, seconds: float) -> None:
    answer = post(server, URL, {**BODY, "speed": speed, "response_format": "pcm"})
    assert len(answer.content) / 48_000 == pytest.approx(seconds, abs=0.01)


def test_speed_is_left_to_a_backend_that_can(server: Running) -> None:
    server.pool.run_capabilities = Capabilities("fake", "cpu", "float32", native_speed=True)
    answer = post(server, URL, {**BODY, "speed": 2.0, "response_format": "pcm"})
    assert len(answer.content) == 12 * 4800
    assert server.pool.requests[0].speed == 2.0


def test_a_byte_order_mark_before_the_body_is_tolerated(server: Running) -> None:
    """Windows PowerShell writes one into every file it calls UTF-8."""
    headers = {"api-key": "k", "content-type": "application/json"}
    body = json.dumps({**BODY, "input": "Grüße", "response_format": "pcm"}, ensure_ascii=False).encode("utf-8-sig")
    assert httpx.post(server.url + URL, content=body, headers=headers).status_code == 200
    assert server.pool.requests[0].text == "Grüße"
    assert error_of(httpx.post(server.url + URL, content=b"\xef\xbb\xbf", headers=headers)) == (None, None)


def test_a_form_is_tolerated(server: Running) -> None:
    fields = {**BODY, "speed": "2", "response_format": "pcm", "seed": "5", "stream": "false", "options": '{"a": 1}'}
    files = {"reference_audio": ("clip", base64.b64decode(CLIP))}
    answer = httpx.post(server.url + URL, data={**fields, "colour": "red"}, files=files, headers={"api-key": "k"})
    assert answer.status_code == 200, answer.text
    (request,) = server.pool.requests
    assert (request.speed, request.seed, request.stream, request.options) == (2.0, 5, False, {"a": 1})
    assert request.reference is not None
    assert answer.headers["x-gateway-ignored"] == "colour"


@pytest.mark.parametrize("seed", ["²", "--5", "٣", "9" * 5000, "1.5"])
def test_a_seed_of_a_form_that_is_no_number(server: Running, seed: str) -> None:
    answer = httpx.post(server.url + URL, data={**BODY, "seed": seed}, files={"x": b""}, headers={"api-key": "k"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seed")


BAD = [
    ({"input": None}, "input", "missing_required_parameter"),
    ({"input": ""}, "input", "invalid_value"),
    ({"input": " \x00\n"}, "input", "invalid_value"),
    ({"input": "x" * 4097}, "input", "string_above_max_length"),
    ({"input": ["x"]}, "input", "invalid_value"),
    ({"voice": 3}, "voice", "invalid_value"),
    ({"response_format": "ogg"}, "response_format", "invalid_value"),
    ({"response_format": 1}, "response_format", "invalid_value"),
    ({"speed": 0.2}, "speed", "invalid_value"),
    ({"speed": 4.01}, "speed", "invalid_value"),
    ({"speed": "fast"}, "speed", "invalid_value"),
    ({"speed": 10**400}, "speed", "invalid_value"),
    ({"speed": True}, "speed", "invalid_value"),
    ({"instructions": "x" * 4097}, "instructions", "string_above_max_length"),
    ({"stream_format": "ndjson"}, "stream_format", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_value"),
    ({"seed": 1.5}, "seed", "invalid_value"),
    ({"options": []}, "options", "invalid_value"),
    ({"context": {}}, "context", "invalid_value"),
    ({"context": [1]}, "context", "invalid_value"),
    ({"context": [{"speaker": 0}]}, "context", "invalid_value"),
    ({"context": [{"text": "a", "audio": "###"}]}, "context", "invalid_value"),
    ({"context": [{"text": "a", "audio": "aGVsbG8="}]}, "context", "invalid_value"),
    ({"context": [{"text": "a", "audio": CLIP, "answer_id": "b"}]}, "context", "invalid_value"),
    ({"context": [{"text": "a"}] * 65}, "context", "invalid_value"),
    ({"reference_audio": ""}, "reference_audio", "audio_too_short"),
    ({"reference_audio": "a"}, "reference_audio", "invalid_value"),
    ({"reference_audio": 5}, "reference_audio", "invalid_value"),
    ({"reference_text": "alone"}, "reference_text", "invalid_value"),
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": 4}, "model", "invalid_value"),
    ({"model": "embedded-asr"}, "model", "OperationNotSupported"),
]


@pytest.mark.parametrize(("change", "param", "code"), BAD)
def test_bad_fields_are_named(server: Running, change: dict[str, Any], param: str, code: str) -> None:
    assert error_of(post(server, URL, {**BODY, **change})) == (param, code)


@pytest.mark.parametrize("content", [b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_a_broken_body(server: Running, content: bytes) -> None:
    answer = httpx.post(server.url + URL, content=content, headers={"api-key": "k", "content-type": "application/json"})
    assert error_of(answer) == (None, None)


def test_the_openai_client(server: Running) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)
    answer = client.audio.speech.create(model="fake-tts", input="Hi.", voice="alloy", response_format="wav")
    assert soundfile.info(io.BytesIO(answer.read())).duration == pytest.approx(0.3)
    with client.audio.speech.with_streaming_response.create(
        model="fake-tts", input="Hi.", voice="alloy", response_format="pcm"
    ) as stream:
        assert sum(len(part) for part in stream.iter_bytes()) == 3 * 4800
    with pytest.raises(openai.BadRequestError) as error:
        client.audio.speech.create(model="fake-tts", input="", voice="alloy")
    assert error.value.param == "input"
    client.close()


def test_the_azure_client(server: Running) -> None:
    client = openai.AzureOpenAI(azure_endpoint=server.url, api_key="k", api_version="2025-04-01-preview", max_retries=0)
    answer = client.audio.speech.create(model="fake-tts", input="Hi.", voice="nova", response_format="flac")
    assert soundfile.info(io.BytesIO(answer.content)).duration == pytest.approx(0.3)
    client.close()


def test_a_transcript_of_the_reference_is_written_by_the_configured_deployment() -> None:
    """LLASA's transcription_deployment; the double has no such option, so the deployment is changed by hand."""
    settings = fake_settings()
    deployments = Deployments.from_settings(settings)
    object.__setattr__(deployments["fake-tts"], "options", {"transcription_deployment": "fake-asr"})
    with running(settings, FakePool(deployments)) as server:
        object.__setattr__(server.gateway.deployments["fake-tts"], "options", {"transcription_deployment": "fake-asr"})
        assert post(server, URL, {**BODY, "reference_audio": CLIP}).status_code == 200
        transcribed, request = server.pool.requests
        assert len(transcribed.samples) == 8000
        assert request.reference.transcript == "Good morning to you."


def test_usage_of_a_whole_answer_is_not_needed(server: Running) -> None:
    server.pool.script = lambda request: iter(
        [AudioChunk(np.zeros(2400, np.float32), 24_000), Done(usage=Usage(), seed=3)]
    )
    assert post(server, URL, {**BODY, "stream": False}).headers["x-gateway-seed"] == "3"


@pytest.mark.parametrize(
    "voice", [{}, {"voice": ""}, {"voice": None}, {"voice": "default"}, {"voice": {"id": "Default"}}]
)
def test_no_voice_is_the_first_one(server: Running, voice: dict[str, Any]) -> None:
    body = {name: value for name, value in BODY.items() if name != "voice"}
    assert post(server, URL, {**body, **voice}).status_code == 200
    assert post(server, URL, {**body, "voice": "alloy"}).status_code == 200
    assert server.pool.requests[-2].voice == server.pool.requests[-1].voice
