"""The tiny DIFFA served by a real gateway process, asked by the real OpenAI client and by curl."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile as sf
from openai import AzureOpenAI, OpenAI

from backends import children
from tests.backends.diffa.folders import DATA, generations
from tests.support.server import server_process
from tests.support.waiting import LIMIT, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
WAV = DATA / "inputs" / "audio_a.wav"
QUESTION = "What is the speaker's mood?"
WANTED = generations()["a/s16_b16_g16"]["text_utf8_lossy"].strip()
PRESET = {"preset": "mmau"}
# The plain loop with many more steps than tokens: minutes of work.
ENDLESS = {
    "cache": "none",
    "threshold": 0,
    "steps": 64_000,
    "block_length": 32,
    "max_new_tokens": 512,
    "early_stop": False,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with one chat deployment that speaks through the embedded voice."""
    home = tmp_path_factory.mktemp("home")
    folders = {"model": "llm", "whisper_model": "whisper", "adapter_model": "adapter"}
    lines = [f"{key} = {json.dumps(str(DATA / folder))}" for key, folder in folders.items()]
    keys = ['backend = "diffa"', 'dtype = "float32"', 'audio_deployment = "embedded-tts"', "max_batch = 2", *lines]
    config = home / "gateway.toml"
    config.write_text("\n".join(["offline = true", "[deployments.ask]", *keys]) + "\n", encoding="utf-8")
    own = {name: str(home) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA")}
    environment = children.environment(extra=own)
    with server_process(home / "log.txt", "--config", str(config), environment=environment) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, timeout=LIMIT) as one:
        _ask(one)  # loads the model
        yield one


def _messages(question: str = QUESTION, data: bytes | None = None, kind: str = "wav") -> list[dict[str, Any]]:
    sound = base64.b64encode(WAV.read_bytes() if data is None else data).decode()
    audio = {"type": "input_audio", "input_audio": {"data": sound, "format": kind}}
    return [{"role": "user", "content": [{"type": "text", "text": question}, audio]}]


def _ask(client: OpenAI, messages: list[dict[str, Any]] | None = None, **fields: Any) -> Any:
    fields.setdefault("extra_body", PRESET)
    return client.chat.completions.create(model="ask", messages=messages or _messages(), **fields)


def test_a_plain_answer_is_the_references(client):
    answer = _ask(client)
    assert answer.choices[0].message.content == WANTED
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (195, 16)
    assert answer.usage.prompt_tokens_details.audio_tokens == 98


def test_the_azure_route_answers_the_same(url):
    with AzureOpenAI(azure_endpoint=url, api_key="key", api_version="2025-01-01-preview", timeout=LIMIT) as azure:
        assert _ask(azure).choices[0].message.content == WANTED


def test_a_streamed_answer_comes_block_by_block(client):
    settings = {"steps": 16, "block_length": 8, "max_new_tokens": 16, "threshold": 0}
    whole = _ask(client, extra_body=settings)
    chunks = list(_ask(client, extra_body=settings, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(deltas) == 2
    assert "".join(deltas) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 16
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


def test_a_spoken_answer(client):
    answer = _ask(client, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})
    spoken = answer.choices[0].message.audio
    assert spoken.transcript == WANTED
    samples, _rate = sf.read(io.BytesIO(base64.b64decode(spoken.data)), dtype="float32")
    assert np.abs(samples).max() > 0.05


def test_a_streamed_spoken_answer(client):
    stream = _ask(client, modalities=["text", "audio"], audio={"voice": "alloy", "format": "pcm16"}, stream=True)
    sounds, transcript = [], ""
    for chunk in stream:
        audio = chunk.choices[0].delta.audio
        if audio is not None:
            transcript += audio.transcript or ""
        if audio is not None and audio.data:
            sounds.append(base64.b64decode(audio.data))
    assert transcript == WANTED
    assert all(len(sound) % 3 == 0 for sound in sounds[:-1])
    samples = np.frombuffer(b"".join(sounds), "<i2")
    assert np.abs(samples.astype(np.int32)).max() > 1000


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_asks_through_the_plain_route(url):
    command = [
        "curl",
        "-sS",
        "--max-time",
        "120",
        "-H",
        "api-key: key",
        "-F",
        f"file=@{WAV}",
        "-F",
        f"question={QUESTION}",
    ]
    options = [
        "-F",
        "steps=16",
        "-F",
        "block_length=16",
        "-F",
        "max_new_tokens=16",
        "-F",
        "threshold=0",
        "-F",
        "cache=none",
    ]
    address = f"{url}/openai/deployments/ask/audio/questions?api-version=2025-01-01-preview"
    done = subprocess.run([*command, *options, address], capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["text"] == WANTED
    assert answer["usage"]["prompt_tokens_details"]["audio_tokens"] == 98
    text = subprocess.run(
        [*command, "-F", "preset=mmau", "-F", "response_format=text", address], capture_output=True, check=True
    )
    assert text.stdout.decode() == f"{WANTED}\n"


def test_two_clients_of_different_lengths_are_served_together(client):
    order: list[str] = []
    answers: dict[str, str] = {}

    def ask(name: str, **settings: Any) -> None:
        answers[name] = _ask(client, extra_body=settings).choices[0].message.content
        order.append(name)

    long = {"steps": 480, "block_length": 32, "max_new_tokens": 64, "cache": "none", "threshold": 0}
    first = threading.Thread(target=ask, args=("long",), kwargs=long)
    first.start()
    wait_until(lambda: _status(client)["jobs_active"] == 1)
    ask("short", **PRESET)
    first.join(LIMIT)
    assert order == ["short", "long"]
    assert answers["short"] == WANTED
    assert answers["long"] == _ask(client, extra_body=long | {"steps": 64}).choices[0].message.content


def _status(client: OpenAI) -> dict[str, Any]:
    base = str(client.base_url).removesuffix("/v1/")
    return httpx.get(f"{base}/health").json()["deployments"]["ask"]


def test_clients_that_hang_up_free_their_slots(client, url):
    body = {"model": "ask", "messages": _messages(), "stream": True} | ENDLESS
    connections = [_send(url, body) for _ in range(2)]  # as many as fit into one batch
    wait_until(lambda: _status(client)["jobs_active"] == 2)
    for connection in connections:
        connection.close()
    wait_until(lambda: _status(client)["jobs_active"] == 0)
    assert _ask(client).choices[0].message.content == WANTED


def _send(url: str, body: dict[str, Any]) -> socket.socket:
    """A connection over which a request was sent and nothing was read."""
    payload = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    connection.sendall(f"{head}Content-Length: {len(payload)}\r\nAuthorization: Bearer key\r\n\r\n".encode() + payload)
    return connection


@pytest.mark.parametrize(
    ("fields", "param", "rule"),
    [
        ({"extra_body": {"steps": 31, "max_new_tokens": 64}}, "steps", "multiple of the number of blocks"),
        ({"extra_body": {"max_new_tokens": 50}}, "max_new_tokens", "multiple of block_length"),
        ({"extra_body": {"threshold": 0.5, "factor": 1}}, "factor", "exclude each other"),
        ({"max_tokens": 4000}, "messages", "1024 positions"),
        ({"top_p": 0.4}, "top_p", "top_p"),
        ({"messages": _messages(" ", b"")}, None, "data|audio"),
        ({"messages": [{"role": "user", "content": "  "}]}, None, "content"),
        ({"messages": _messages(kind="wave")}, None, "format"),
        ({"messages": _messages(data=b"RIFF, but nothing else")}, None, "audio"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_bad_requests_say_what_is_wrong(client, fields, param, rule):
    with pytest.raises(openai.BadRequestError, match=rule) as caught:
        _ask(client, **fields)
    assert caught.value.type == "invalid_request_error"
    if param:
        assert caught.value.param == param


def test_broken_base64_is_told(client):
    messages = _messages()
    messages[0]["content"][1]["input_audio"]["data"] = "%%%"
    with pytest.raises(openai.BadRequestError, match="base64"):
        _ask(client, messages)


def test_special_tokens_in_a_question_are_harmless(client):
    answer = _ask(client, _messages("<|mdm_mask|><|eot_id|> What?"))
    assert answer.usage.completion_tokens == 16
    assert "mdm_mask" not in answer.choices[0].message.content
