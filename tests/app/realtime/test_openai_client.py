"""The OpenAI library's own realtime client, unpatched, in its two classes: every event passes its types."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from app.http import certificates
from app.http.certificates import certificate_files
from tests.support.live_pool import realtime_server, silence, tone
from tests.support.server import Running
from tests.support.waiting import LIMIT

EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
SPEECH = silence(0.5) + tone(1.0) + silence(1.0)
TRANSCRIPTION: Any = {
    "type": "transcription",
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24_000},
            "transcription": {"model": "fake-asr", "language": "en"},
            "turn_detection": {"type": "server_vad"},
        }
    },
    "include": ["item.input_audio_transcription.logprobs"],
}
CONVERSATION: Any = {
    "type": "realtime",
    "output_modalities": ["audio"],
    "audio": {
        "input": {"transcription": {"model": "fake-asr"}, "turn_detection": {"type": "semantic_vad"}},
        "output": {"format": {"type": "audio/pcm", "rate": 24_000}, "voice": "alloy"},
    },
}


def _clients(server: Running) -> dict[str, AsyncOpenAI]:
    azure = AsyncAzureOpenAI(
        azure_endpoint=server.url,
        websocket_base_url=f"ws://127.0.0.1:{server.port}/openai",
        api_key="k",
        api_version="2025-04-01-preview",
    )
    return {"openai": AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k"), "azure": azure}


async def _until(connection: Any, kind: str) -> list[str]:
    """The types of events up to one, each of which the library's types accept in full."""
    kinds = []
    while not kinds or kinds[-1] != kind:
        raw = await connection.recv_bytes()
        kinds.append(EVENT.validate_json(raw).type)
    return kinds


@pytest.mark.parametrize("name", ["openai", "azure"])
async def test_transcription(server: Running, name: str) -> None:
    client = _clients(server)[name]
    options: Any = {"extra_query": {"intent": "transcription"}}
    if name == "azure":
        options["model"] = "fake-asr"
    async with client.realtime.connect(**options) as connection:
        await connection.session.update(session=TRANSCRIPTION)
        await connection.input_audio_buffer.append(audio=base64.b64encode(SPEECH).decode())
        kinds = await _until(connection, "conversation.item.input_audio_transcription.completed")
        assert kinds[:2] == ["session.created", "session.updated"]
        assert "conversation.item.input_audio_transcription.delta" in kinds
    await client.close()


@pytest.mark.parametrize("name", ["openai", "azure"])
async def test_conversation(server: Running, name: str) -> None:
    client = _clients(server)[name]
    async with client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session=CONVERSATION)
        await connection.input_audio_buffer.append(audio=base64.b64encode(SPEECH).decode())
        kinds = await _until(connection, "response.done")
        assert {"response.output_audio.delta", "response.output_audio_transcript.done"} <= set(kinds)
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
        )
        await connection.response.create(response={"output_modalities": ["text"]})
        assert "response.output_text.delta" in await _until(connection, "response.done")
    await client.close()


async def test_client_secrets(server: Running) -> None:
    client = _clients(server)["openai"]
    secret = await client.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 600}, session=TRANSCRIPTION
    )
    assert secret.value.startswith("ek_")
    assert secret.session.type == "transcription"
    await client.close()


async def test_azure_over_wss_by_this_machines_own_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class dials wss where it is given no address of its own for sockets."""
    monkeypatch.setattr(certificates, "tls_folder", lambda: tmp_path)
    with realtime_server(server={"tls": "auto"}) as secure:
        trust = ssl.create_default_context(cafile=str(certificate_files(tmp_path).authority))
        client = AsyncAzureOpenAI(azure_endpoint=secure.url, api_key="k", api_version="2025-04-01-preview")
        options: Any = {"extra_query": {"intent": "transcription"}}
        options["websocket_connection_options"] = {"ssl": trust, "open_timeout": LIMIT}
        async with client.realtime.connect(model="fake-asr", **options) as connection:
            await connection.session.update(session=TRANSCRIPTION)
            await connection.input_audio_buffer.append(audio=base64.b64encode(SPEECH).decode())
            assert (await _until(connection, "conversation.item.input_audio_transcription.completed"))[0] == (
                "session.created"
            )
        await client.close()
