"""Calls the API for the page: the same routes that every other client uses, called inside the process.

Knows HTTP shapes only. Nothing here bypasses keys, limits or queues.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from starlette.types import ASGIApp

SECRET_SECONDS = 120  # until the session has begun: who is asked for the microphone may think about it
API_VERSION = "2024-10-21"
logging.getLogger("httpx").setLevel(logging.WARNING)  # the server logs these requests itself
_NO_LIMIT = httpx.Timeout(None)  # a long recording may take long; the server's own limits apply


class CallFailed(Exception):
    """The API answered with an error; the text is the error's message."""


@dataclass(frozen=True, slots=True)
class Answer:
    """body: the response bytes; headers: lower-case names."""

    body: bytes
    headers: Mapping[str, str]


class Api:
    """Calls the gateway's own ASGI app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def transcribe(
        self, key: str, deployment: str, audio: bytes, fields: Mapping[str, str], *, translate: bool = False
    ) -> Answer:
        return await self._post(
            key,
            deployment,
            "audio/translations" if translate else "audio/transcriptions",
            data={name: value for name, value in fields.items() if value},
            files={"file": ("audio", audio, "application/octet-stream")},
        )

    async def ask(self, key: str, deployment: str, audio: bytes, question: str, max_tokens: int) -> Answer:
        part = {
            "type": "input_audio",
            "input_audio": {"data": base64.b64encode(audio).decode("ascii"), "format": "wav"},
        }
        message = {"role": "user", "content": [part, {"type": "text", "text": question}]}
        return await self._post(
            key, deployment, "chat/completions", json={"messages": [message], "max_tokens": max_tokens}
        )

    async def speak(self, key: str, deployment: str, body: Mapping[str, Any]) -> Answer:
        return await self._post(key, deployment, "audio/speech", json=dict(body))

    async def voices(self, key: str, deployment: str) -> list[str]:
        """List the voice names of a deployment."""
        answer = await self._call("GET", key, f"/openai/v1/audio/voices?model={quote(deployment, safe='')}")
        return [voice["id"] for voice in httpx.Response(200, content=answer.body).json()["voices"]]

    async def live_secret(self, key: str, session: Mapping[str, Any]) -> str:
        """A key for one live session, which a browser may know: it ends soon, and stands for nothing else."""
        document = {"expires_after": {"anchor": "created_at", "seconds": SECRET_SECONDS}, "session": dict(session)}
        answer = await self._call("POST", key, "/v1/realtime/client_secrets", json=document)
        return str(httpx.Response(200, content=answer.body).json()["value"])

    async def health(self) -> dict[str, Any]:
        answer = await self._call("GET", "", "/health")
        document: dict[str, Any] = httpx.Response(200, content=answer.body).json()
        return document

    async def _post(self, key: str, deployment: str, operation: str, **body: Any) -> Answer:
        path = f"/openai/deployments/{quote(deployment, safe='')}/{operation}?api-version={API_VERSION}"
        return await self._call("POST", key, path, **body)

    async def _call(self, method: str, key: str, path: str, **body: Any) -> Answer:
        transport = httpx.ASGITransport(app=self._app)
        headers = {b"api-key": key.encode("utf-8")} if key else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=_NO_LIMIT) as client:
            response = await client.request(method, path, headers=headers, **body)
        if response.is_error:
            raise CallFailed(_message(response))
        return Answer(response.content, {name.lower(): value for name, value in response.headers.items()})


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The server answered {response.status_code}."
