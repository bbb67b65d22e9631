"""POST chat/completions and audio/questions over a real connection, with the test double's own answers."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest, ModelUnavailable
from app.routes.chat.completion import PCM_CUT, PcmCutter, usage_document
from app.routes.chat.history import KEPT_SECONDS, SpokenHistory
from app.routes.inline_audio import AUDIO_BYTES, audio_bytes
from backends.fake.info import FakeOptions
from backends.fake.jobs import begin
from backends.interface import (
    AudioPart,
    Capabilities,
    Done,
    Event,
    Failed,
    Progress,
    Request,
    SpeechRequest,
    TextDelta,
    TextPart,
    Usage,
)
from tests.support.audio import by_av, by_soundfile, tone
from tests.support.client import error_of, post
from tests.support.fake_pool import answer as tones
from tests.support.server import FAKES, Running, fake_settings, running, server_fixture

URL = "/v1/chat/completions"
ASK = "/v1/audio/questions"
WAV = by_soundfile(tone(24_000, 1.5), 24_000, "WAV", "PCM_16")
CLIP = base64.b64encode(WAV).decode()


def doubles(request: Request) -> Iterator[Event]:
    """The double's chat; speech as the pool's default."""
    if isinstance(request, SpeechRequest):
        yield from tones(request)
        return
    job = begin(request, FakeOptions(task="chat"))
    while not job.over:
        yield from job.advance()


server = server_fixture(
    deployments=FAKES
    | {
        "mute-chat": {"backend": "fake", "task": "chat"},
        "absent-tts": {"backend": "fake", "task": "speech", "fallback": "fake-tts"},
        "hoarse-chat": {"backend": "fake", "task": "chat", "audio_deployment": "absent-tts"},
    }
)


@pytest.fixture(autouse=True)
def fresh(server: Running) -> Iterator[None]:
    with server.fresh_pool(script=doubles):
        yield


def sound(data: str = CLIP, kind: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}


def question(*parts: dict[str, Any] | str, **body: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"model": "fake-chat", "messages": [{"role": "user", "content": content}], **body}


def chunks_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_text_and_audio(server: Running) -> None:
    answer = post(server, URL, question(sound(), "What is this?")).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "fake-chat"
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "I heard 1.5 seconds of audio. You said: What is this?"
    assert (choice["index"], choice["finish_reason"], choice["message"]["role"]) == (0, "stop", "assistant")
    usage = answer["usage"]
    assert usage["prompt_tokens_details"] == {
        "audio_tokens": 15,
        "text_tokens": 3,
        "cached_tokens": 0,
        "image_tokens": 0,
    }
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


MP3 = base64.b64encode(by_soundfile(tone(24_000, 1.5), 24_000, "MP3")).decode()
M4A = base64.b64encode(by_av(tone(44_100, 1.5), 44_100, "mp4", "aac")).decode()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (MP3, "mp3"),
        (MP3, "wav"),
        (M4A, "m4a"),
        (f"data:audio/wav;base64,{CLIP}", "wav"),
        (CLIP[:76] + "\r\n" + CLIP[76:], "wav"),
    ],
)
def test_audio_is_told_by_its_content(server: Running, data: str, kind: str) -> None:
    text = post(server, URL, question(sound(data, kind))).json()["choices"][0]["message"]["content"]
    assert text == "I heard 1.5 seconds of audio." or (kind == "m4a" and "1.5" in text)


def test_turns_and_roles(server: Running) -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [sound(), {"type": "text", "text": "And?"}, sound()], "name": "ann"},
        {"role": "assistant", "content": [{"type": "text", "text": "A tone."}, {"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "Sure?"},
    ]
    assert post(server, URL, {"model": "fake-chat", "messages": messages}).status_code == 200
    request_part = server.pool.requests[0].messages
    assert [message.role for message in request_part] == ["system", "user", "assistant", "user"]
    assert [type(part) for part in request_part[1].parts] == [AudioPart, TextPart, AudioPart]
    assert len(request_part[1].parts[0].samples) == 24_000
    assert [part.text for part in request_part[2].parts] == ["A tone.", "No."]


def test_an_agent_without_instructions_may_say_so(server: Running) -> None:
    for content in ("", None, [], " "):
        messages = [{"role": "system", "content": content}, {"role": "user", "content": "Hi."}]
        assert post(server, URL, {"model": "fake-chat", "messages": messages}).status_code == 200
        assert [message.role for message in server.pool.requests[-1].messages] == ["user"]


@pytest.mark.parametrize("key", ["url", "uri"])
def test_audio_may_come_as_a_data_url_and_is_fetched_from_nowhere(server: Running, key: str) -> None:
    def ask(url: str) -> httpx.Response:
        part = {"type": "audio_url", "audio_url": {key: url}}
        return post(server, URL, question(part))

    assert ask(f"data:audio/x-wav;base64,{CLIP}").status_code == 200
    assert len(server.pool.requests[-1].messages[0].parts[0].samples) == 24_000
    assert error_of(ask("https://example.com/a.wav")) == ("messages", "invalid_value")


def test_parameters_reach_the_backend(server: Running) -> None:
    wanted = {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 4,
        "stop": ["a", "b"],
        "max_completion_tokens": 7,
        "max_tokens": 9,
    }
    extra = {"steps": 8, "block_length": 4, "cfg_scale": 1.5, "threshold": None, "options": {"cache": "dual"}}
    assert post(server, URL, question("Hi.", **wanted, **extra)).status_code == 200
    (request,) = server.pool.requests
    assert (request.temperature, request.top_p, request.seed, request.stop) == (0.5, 0.9, 4, ("a", "b"))
    assert request.max_tokens == 7
    assert request.options == {"steps": 8, "block_length": 4, "cfg_scale": 1.5, "cache": "dual"}


def test_stop_and_length(server: Running) -> None:
    choice = post(server, URL, question("one two three", stop="two")).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("You said: one ", "stop")
    choice = post(server, URL, question("one two three", max_tokens=3)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("You said: one", "length")


def test_harmless_parameters_are_ignored_and_named(server: Running) -> None:
    harmless = {"user": "u", "store": False, "metadata": {}, "whatever": 1}
    neutral = {"n": 1, "tools": [], "logprobs": False, "presence_penalty": 0, "response_format": {"type": "text"}}
    answer = post(server, URL, question("Hi.", **harmless, **neutral))
    assert answer.status_code == 200
    assert answer.headers["x-gateway-ignored"] == "user, store, metadata, whatever"


def test_stream(server: Running) -> None:
    answer = post(server, URL, question(sound(), "Hello you.", stream=True, stream_options={"include_usage": True}))
    chunks = chunks_of(answer)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == "I heard 1.5 seconds of audio. You said: Hello you."
    assert (chunks[-2]["choices"][0]["delta"], chunks[-2]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens_details"]["audio_tokens"] == 15
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_a_stream_sends_pieces_as_they_come(server: Running) -> None:
    server.pool.delay = 0.05
    seen = 0
    body = question("one two three four five", stream=True)
    with httpx.stream("POST", server.url + URL, json=body, headers={"api-key": "k"}) as answer:
        for line in answer.iter_lines():
            seen += line.startswith("data: {")
            assert server.pool.active or seen > 5
    assert seen > 5


def test_steps_are_comments_for_who_asks_and_clients_skip_them(server: Running) -> None:
    steps = [Progress(1, 2), Progress(2, 2), TextDelta("So."), Done("So.")]
    server.pool.script = lambda request: iter(steps)
    progress = {"x-gateway-progress": "1"}
    assert ": progress" not in post(server, URL, question("Hi.", stream=True)).text
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="k", default_headers=progress)
    with httpx.Client(headers={"api-key": "k"} | progress) as raw:
        assert (
            ": progress 1/2\n\n: progress 2/2\n\n" in raw.post(server.url + URL, json=question("Hi.", stream=True)).text
        )
    with client, client.chat.completions.create(**question("Hi."), stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "So."


def test_a_failure_in_the_stream_is_an_event(server: Running) -> None:
    server.pool.script = lambda request: iter([TextDelta("So"), Failed("worker_lost", "gone")])
    answer = post(server, URL, question("Hi.", stream=True))
    assert json.loads(answer.text.strip().splitlines()[-1].removeprefix("data: "))["error"]["code"] == "worker_lost"


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_before_the_first_word_keeps_its_status(server: Running, stream: bool) -> None:
    server.pool.script = lambda request: iter([Failed("out_of_memory", "full")])
    assert error_of(post(server, URL, question("Hi.", stream=stream)), 503) == (None, "out_of_memory")


SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}


def test_a_spoken_answer(server: Running) -> None:
    answer = post(server, URL, question("Hi.", **SPOKEN)).json()
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    audio = message["audio"]
    assert audio["transcript"] == "You said: Hi."
    assert audio["expires_at"] == pytest.approx(time.time() + KEPT_SECONDS, abs=60)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["data"])))
    assert len(samples) / rate == pytest.approx(1.3)
    details = answer["usage"]["completion_tokens_details"]
    assert (details["audio_tokens"], details["text_tokens"]) == (13, 3)


@pytest.mark.parametrize("kind", ["mp3", "aac", "flac", "opus", "pcm16"])
def test_spoken_formats(server: Running, kind: str) -> None:
    answer = post(server, URL, question("Hi.", modalities=["audio"], audio={"voice": {"id": "nova"}, "format": kind}))
    data = base64.b64decode(answer.json()["choices"][0]["message"]["audio"]["data"])
    assert len(data) == 13 * 4800 if kind == "pcm16" else len(data) > 1000


def test_a_spoken_answer_can_be_referred_to(server: Running) -> None:
    name = post(server, URL, question("Hi.", **SPOKEN)).json()["choices"][0]["message"]["audio"]["id"]
    turns = [{"role": "assistant", "audio": {"id": name}}, {"role": "user", "content": "Again."}]
    assert post(server, URL, {"model": "fake-chat", "messages": turns}).status_code == 200
    assert server.pool.requests[-1].messages[0].parts == (TextPart("You said: Hi."),)
    turns[0]["audio"] = {"id": "audio_unknown"}
    assert error_of(post(server, URL, {"model": "fake-chat", "messages": turns})) == ("messages", "invalid_value")


def test_a_spoken_stream(server: Running) -> None:
    audio = {"voice": "alloy", "format": "pcm16"}
    body = question(
        "Hi.", modalities=["text", "audio"], audio=audio, stream=True, stream_options={"include_usage": True}
    )
    chunks = chunks_of(post(server, URL, body))
    deltas = [chunk["choices"][0]["delta"].get("audio", {}) for chunk in chunks[1:-2]]
    assert [delta["id"] for delta in deltas if "id" in delta] == [deltas[0]["id"]]
    assert "".join(delta.get("transcript", "") for delta in deltas) == "You said: Hi."
    assert len([delta for delta in deltas if "data" in delta]) > 1
    joined = "".join(delta.get("data", "") for delta in deltas)  # as the SDK's helper joins them
    assert len(base64.b64decode(joined, validate=True)) == 13 * 4800
    assert list(deltas[-1]) == ["expires_at"]
    assert chunks[-1]["usage"]["completion_tokens_details"]["audio_tokens"] == 13
    turns = [
        {"role": "assistant", "content": None, "audio": {"id": deltas[0]["id"]}},
        {"role": "user", "content": "Again."},
    ]
    assert post(server, URL, {"model": "fake-chat", "messages": turns}).status_code == 200


@pytest.mark.parametrize("text", ["", "!!!"])
def test_an_answer_without_words_is_silence(server: Running, text: str) -> None:
    def mute(request: Request) -> Iterator[Event]:
        if isinstance(request, SpeechRequest):
            yield Failed("invalid_input", "nothing to say", param="input")
        yield Done(text)

    server.pool.script = mute
    audio = post(server, URL, question("Hi.", **SPOKEN)).json()["choices"][0]["message"]["audio"]
    assert audio["transcript"] == text
    assert soundfile.info(io.BytesIO(base64.b64decode(audio["data"]))).duration == pytest.approx(0.1)


def test_a_speaker_that_fails_fails_the_answer(server: Running) -> None:
    def fails(request: Request) -> Iterator[Event]:
        yield (
            Failed("invalid_input", "no such voice", param="voice")
            if isinstance(request, SpeechRequest)
            else Done("Hi.")
        )

    server.pool.script = fails
    assert error_of(post(server, URL, question("Hi.", **SPOKEN))) == ("audio.voice", "invalid_value")


def test_no_time_is_told_twice(server: Running) -> None:
    server.pool.delay = 0.03
    headers = post(server, URL, question("Hi.", **SPOKEN)).headers
    stages = [float(headers[f"x-gateway-{stage}-ms"]) for stage in ("decode", "model", "speech", "encode")]
    assert sum(stages) <= float(headers["openai-processing-ms"]) + 1


@pytest.fixture
def without_absent_tts(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has loaded a speaker yet, and absent-tts cannot be."""

    async def load(name: str) -> Capabilities:
        if name == "absent-tts":
            raise ModelUnavailable("no weights")
        server.pool.loaded = True
        return server.pool.run_capabilities

    monkeypatch.setattr(server.pool, "load", load)
    monkeypatch.setattr(server.pool, "loaded", False)
    monkeypatch.setattr(server.pool, "fallbacks", {"absent-tts": "fake-tts"})


@pytest.mark.usefixtures("without_absent_tts")
def test_a_speaker_that_cannot_run_is_stood_in_for_and_named(server: Running) -> None:
    note = "fake-tts speaks instead of absent-tts"
    whole = post(server, URL, question("Hi.", model="hoarse-chat", **SPOKEN))
    assert (whole.status_code, whole.headers["x-gateway-note"]) == (200, note)
    assert whole.json()["choices"][0]["message"]["audio"]["transcript"] == "You said: Hi."
    own = post(
        server, URL, question("Hi.", model="hoarse-chat", modalities=["audio"], audio={"voice": "7", "format": "wav"})
    )
    assert (own.status_code, own.headers["x-gateway-note"]) == (200, note)


@pytest.mark.usefixtures("without_absent_tts")
def test_a_streamed_answer_names_the_stand_in_as_soon_as_it_is_known(server: Running) -> None:
    answer = post(
        server, URL, question("Hi.", model="hoarse-chat", stream=True, modalities=["text", "audio"], audio=PCM16)
    )
    assert (answer.status_code, answer.headers["x-gateway-note"]) == (200, "fake-tts speaks instead of absent-tts")
    assert any("data" in chunk["choices"][0]["delta"].get("audio", {}) for chunk in chunks_of(answer))


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


PCM16 = {"voice": "alloy", "format": "pcm16"}
BAD = [
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "Hi."}, "messages", "invalid_value"),
    ({"messages": ["Hi."]}, "messages", "invalid_value"),
    ({"messages": [{"role": "user"}]}, "messages", "invalid_value"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages", "invalid_value"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "unsupported_value"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages", "invalid_value"),
    ({"messages": [{"role": "user", "content": "x"}] * 1001}, "messages", "invalid_value"),
    ({"messages": [{"role": "assistant", "audio": {}}, {"role": "user", "content": "x"}]}, "messages", "invalid_value"),
    ({"messages": [{"role": "system", "content": [sound()]}]}, "messages", "invalid_value"),
    (user([{"type": "image_url", "image_url": {}}]), "messages", "invalid_value"),
    (user([{"type": "text", "text": 5}]), "messages", "invalid_value"),
    (user([sound("%%%")]), "messages", "invalid_value"),
    (user([sound("aGVsbG8gdGhpcyBpcyB0ZXh0")]), "messages", "invalid_value"),
    (user([sound("")]), "messages", "audio_too_short"),
    (user([sound(CLIP + "=")]), "messages", "invalid_value"),
    (user([sound(kind="midi")]), "messages", "unsupported_value"),
    (user([sound(kind=["wav"])]), "messages", "unsupported_value"),
    (user([{"type": "input_audio"}]), "messages", "invalid_value"),
    ({"n": 2}, "n", "unsupported_parameter"),
    ({"n": 0}, "n", "invalid_value"),
    ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
    ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
    ({"functions": [{}]}, "functions", "unsupported_parameter"),
    ({"logprobs": True}, "logprobs", "unsupported_parameter"),
    ({"top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
    ({"presence_penalty": 1}, "presence_penalty", "unsupported_parameter"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"top_p": -0.1}, "top_p", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens", "invalid_value"),
    ({"stop": ["a"] * 5}, "stop", "invalid_value"),
    ({"stop": [""]}, "stop", "invalid_value"),
    ({"seed": "x"}, "seed", "invalid_value"),
    ({"options": 5}, "options", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_value"),
    ({"stream_options": 1}, "stream_options", "invalid_value"),
    ({"modalities": ["smell"]}, "modalities", "invalid_value"),
    ({"modalities": "audio"}, "modalities", "invalid_value"),
    ({"modalities": ["text", "audio"]}, "audio", "missing_required_parameter"),
    ({"modalities": ["audio"], "audio": "wav"}, "audio", "invalid_value"),
    ({"modalities": ["audio"], "audio": {"voice": "alloy"}}, "audio.format", "missing_required_parameter"),
    ({"modalities": ["audio"], "audio": {"voice": "alloy", "format": "ogg"}}, "audio.format", "invalid_value"),
    ({"modalities": ["audio"], "audio": {"voice": 7, "format": "wav"}}, "audio.voice", "invalid_value"),
    ({**SPOKEN, "stream": True}, "audio.format", "unsupported_value"),
    ({"modalities": ["audio"], "audio": PCM16, "model": "mute-chat"}, "modalities", "unsupported_value"),
    ({"model": "embedded-tts"}, "model", "OperationNotSupported"),
]


@pytest.mark.parametrize(("change", "param", "code"), BAD, ids=[f"{n}-{case[1]}" for n, case in enumerate(BAD)])
def test_bad_requests_name_the_parameter(server: Running, change: dict[str, Any], param: str, code: str) -> None:
    assert error_of(post(server, URL, {**question("Hi."), **change})) == (param, code)
    assert not server.pool.requests


def test_audio_of_one_request_has_one_limit() -> None:
    with running(fake_settings(limits={"audio_seconds": 2})) as server:
        assert error_of(post(server, URL, question(sound(), sound()))) == ("messages", "invalid_value")


def test_the_openai_client(server: Running) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/openai/v1", api_key="k", max_retries=0)
    messages: Any = question(sound(), "Who?")["messages"]
    plain = client.chat.completions.create(model="fake-chat", messages=messages)
    assert plain.choices[0].message.content == "I heard 1.5 seconds of audio. You said: Who?"
    stream = client.chat.completions.create(model="fake-chat", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == plain.choices[0].message.content
    spoken = client.chat.completions.create(
        model="fake-chat", messages=messages, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}
    )
    audio = spoken.choices[0].message.audio
    assert audio is not None
    assert audio.transcript == plain.choices[0].message.content
    client.close()


def test_the_clients_stream_helper_joins_the_audio(server: Running) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)
    messages: Any = question("Hi.")["messages"]
    with client.chat.completions.stream(
        model="fake-chat", messages=messages, modalities=["text", "audio"], audio={"voice": "alloy", "format": "pcm16"}
    ) as stream:
        for _ in stream:
            pass
        audio = stream.get_final_completion().choices[0].message.audio
    assert audio is not None
    assert audio.transcript == "You said: Hi."
    assert len(base64.b64decode(audio.data, validate=True)) == 13 * 4800
    client.close()


# --- audio/questions --------------------------------------------------------------------------------------------------


def ask(server: Running, data: dict[str, Any], files: dict[str, Any] | None = None) -> httpx.Response:
    sent = {"file": ("a.txt", WAV)} if files is None else files
    return httpx.post(server.url + ASK, data={"model": "fake-chat", **data}, files=sent, headers={"api-key": "k"})


def test_a_question_about_a_file(server: Running) -> None:
    answer = ask(
        server, {"question": "Who?", "max_tokens": "50", "steps": "8", "options": '{"cache": "dual"}', "stop": ["x"]}
    )
    assert answer.json()["text"] == "I heard 1.5 seconds of audio. You said: Who?"
    assert answer.json()["usage"]["prompt_tokens_details"]["audio_tokens"] == 15
    (request,) = server.pool.requests
    assert (request.max_tokens, request.stop, request.options) == (50, ("x",), {"steps": 8, "cache": "dual"})


def test_a_question_answered_in_text(server: Running) -> None:
    answer = ask(
        server,
        {"question": "Who?", "response_format": "text", "system": "Short.", "options[steps]": "4", "mood": "good"},
    )
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-gateway-ignored"] == "mood"
    assert answer.text == "I heard 1.5 seconds of audio. You said: Who?\n"
    (request,) = server.pool.requests
    assert request.messages[0].parts == (TextPart("Short."),)
    assert request.options == {"steps": 4}


BAD_QUESTIONS = [
    ({}, None, "question", "missing_required_parameter"),
    ({"question": " "}, None, "question", "missing_required_parameter"),
    ({"question": "Who?"}, {"other": ("a", b"x")}, "file", "missing_required_parameter"),
    ({"question": "Who?"}, {"file": ("a", b"text, not sound" * 9)}, "file", "invalid_value"),
    ({"question": "Who?"}, {"file": ("a", b"")}, "file", "audio_too_short"),
    ({"question": "Who?", "response_format": "xml"}, None, "response_format", "invalid_value"),
    ({"question": "Who?", "stream": "true"}, None, "stream", "invalid_value"),
    ({"question": "Who?", "options": "5"}, None, "options", "invalid_value"),
    ({"question": "Who?", "temperature": "hot"}, None, "temperature", "invalid_value"),
]


@pytest.mark.parametrize(("data", "files", "param", "code"), BAD_QUESTIONS)
def test_bad_questions(
    server: Running, data: dict[str, Any], files: dict[str, Any] | None, param: str, code: str
) -> None:
    assert error_of(ask(server, data, files)) == (param, code)


# --- parts ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_cut_pcm_can_be_joined_as_text(pieces: list[bytes]) -> None:
    cutter = PcmCutter()
    sent = [cut for piece in pieces if (cut := cutter.push(piece))]
    assert all(len(cut) % PCM_CUT == 0 for cut in sent)
    joined = "".join(base64.b64encode(cut).decode() for cut in [*sent, cutter.finish()])
    assert base64.b64decode(joined, validate=True) == b"".join(pieces)


def test_spoken_answers_are_forgotten_after_an_hour_and_bounded() -> None:
    now = [0.0]
    memory = SpokenHistory(clock=lambda: now[0], most=100_000)
    memory.keep("one", "a", "first")
    now[0] = KEPT_SECONDS - 1
    memory.keep("one", "b", "second")
    assert (memory.transcript("a"), memory.transcript("b")) == ("first", "second")
    now[0] = KEPT_SECONDS
    assert (memory.transcript("a"), memory.transcript("b")) == (None, "second")
    for number in range(100):
        memory.keep("one", str(number), "x")
    assert memory.transcript("b") is None
    assert memory.transcript("0") is None
    assert memory.transcript("99") == "x"


def test_inline_audio_is_capped_before_it_is_decoded() -> None:
    with pytest.raises(InvalidRequest, match="larger than the limit"):
        audio_bytes("A" * (AUDIO_BYTES * 3 // 2), "data", "messages")


def test_usage_never_counts_below_zero() -> None:
    usage = usage_document(Usage(input_tokens=2, input_audio_tokens=5))
    assert usage["prompt_tokens_details"]["text_tokens"] == 0
    assert usage_document(Usage(output_tokens=3), Usage(output_tokens=4))["completion_tokens"] == 7


def test_the_samples_are_the_files(server: Running) -> None:
    post(server, URL, question(sound()))
    request_part = server.pool.requests[0].messages[0].parts[0].samples
    assert request_part.dtype == np.float32
    assert np.abs(request_part).max() == pytest.approx(0.55, abs=0.1)
