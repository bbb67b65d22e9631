"""Ordinary requests of every kind as they travel, and the four tiny models as deployments: what hostile clients start
from.

Knows nothing of what is done to them.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import time
import wave
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
LOAD_SECONDS = 300.0  # longest time for the first request of a model

TINY = """
[deployments.whisper]
backend = "whisper"
model = "{data}/whisper_tiny"
device = "cpu"
[deployments.csm]
backend = "csm"
model = "{data}/csm/tiny_deployment"
watermark_model = "{data}/csm/silentcipher_tiny"
device = "cpu"
dtype = "float32"
[deployments.llasa]
backend = "llasa"
model = "{data}/llasa/lm"
codec_model = "{data}/llasa/codec"
device = "cpu"
dtype = "float32"
[deployments.diffa]
backend = "diffa"
model = "{data}/diffa/llm"
whisper_model = "{data}/diffa/whisper"
adapter_model = "{data}/diffa/adapter"
device = "cpu"
dtype = "float32"
max_new_tokens = 32
"""


def tiny_models() -> str:
    """TOML of the four families' tiny models."""
    return TINY.format(data=(ROOT / "tests" / "data").as_posix())


@cache
def tone(seconds: float) -> bytes:
    """A wav file, 16 kHz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(random.Random(1).randbytes(320) * int(100 * seconds))
    return buffer.getvalue()


def upload(model: str, seconds: float, **fields: str) -> tuple[bytes, bytes, bytes]:
    """Path, content type and body of a transcription."""
    texts = {"model": model, **fields}
    parts = [f'--edge\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in texts.items()]
    file = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + tone(seconds)
    return b"audio/transcriptions", b"multipart/form-data; boundary=edge", b"".join(parts) + file + b"\r\n--edge--\r\n"


def document(path: str, **fields: Any) -> tuple[bytes, bytes, bytes]:
    return path.encode(), b"application/json", json.dumps(fields).encode()


def speech(model: str, text: str, **fields: Any) -> tuple[bytes, bytes, bytes]:
    return document("audio/speech", model=model, input=text, voice="alloy", **fields)


def chat(model: str, text: str, seconds: float = 0.0, **fields: Any) -> tuple[bytes, bytes, bytes]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if seconds:
        data = base64.b64encode(tone(seconds)).decode()
        parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    return document("chat/completions", model=model, messages=[{"role": "user", "content": parts}], **fields)


def head(request: tuple[bytes, bytes, bytes], *extra: bytes, chunked: bool = False) -> bytes:
    path, kind, body = request
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    lines = (
        b"POST /v1/" + path + b" HTTP/1.1",
        b"Host: localhost",
        b"api-key: k",
        b"Content-Type: " + kind,
        length,
        *extra,
    )
    return b"\r\n".join(lines) + b"\r\n\r\n"


def whole(request: tuple[bytes, bytes, bytes], *extra: bytes, chunked: bool = False) -> bytes:
    """The request as it travels."""
    if not chunked:
        return head(request, *extra) + request[2]
    body = request[2]
    pieces = [body[at : at + 3000] for at in range(0, len(body), 3000)]
    return head(request, *extra, chunked=True) + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def ordinary(port: int, name: str, patience: float = 60.0) -> tuple[int, float]:
    """Status and seconds of a small request of a deployment."""
    requests = {
        "speak": speech(name, "Hello."), "embedded-tts": speech(name, "Hi."),
        "csm": speech(name, "Hi."), "llasa": speech(name, "Hi."), "contested": speech(name, "Hi."),
        "ask": chat(name, "Well?", 1), "steps": chat(name, "Well?"), "diffa": chat(name, "Well?", 1, max_tokens=8),
    }  # fmt: skip
    path, kind, body = requests.get(name) or upload(name, 1)
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    connection.request("POST", f"/v1/{path.decode()}", body, {"api-key": "k", "content-type": kind.decode()})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, time.monotonic() - began
