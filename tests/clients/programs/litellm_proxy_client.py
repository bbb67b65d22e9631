"""The LiteLLM proxy in front of the gateway: URL WAV."""

import json
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

url, wav = sys.argv[1:]
KEY = f"sk-{secrets.token_hex(32)}"  # the proxy wants a strong one
with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]
names = ("whisper-1", "tts-1", "gpt-4o-audio-preview")
models = [
    {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": f"{url}/v1", "api_key": "any"}}
    for name in names
]


def call(path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", body, {"content-type": kind, "authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return bytes(answer.read())


with tempfile.TemporaryDirectory() as folder:
    config = Path(folder) / "config.yaml"
    config.write_text(
        json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}), encoding="utf-8"
    )  # JSON is YAML
    program = Path(sys.executable).with_name("litellm")
    log = (Path(folder) / "log").open("wb")
    proxy = subprocess.Popen(
        [program, "--config", config, "--port", str(port), "--host", "127.0.0.1"], stdout=log, stderr=log
    )
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                call("/health/liveliness")
                break
            except (OSError, urllib.error.URLError):
                assert proxy.poll() is None, (Path(folder) / "log").read_text(errors="replace")[-3000:]
                assert time.monotonic() < deadline, "the proxy does not start"
                time.sleep(0.2)
        part = '--b\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
        form = part.format("model", "").encode() + b"whisper-1\r\n"
        form += part.format("file", '; filename="a.wav"').encode() + Path(wav).read_bytes() + b"\r\n--b--\r\n"
        assert json.loads(call("/v1/audio/transcriptions", form, "multipart/form-data; boundary=b"))["text"]
        assert call(
            "/v1/audio/speech", json.dumps({"model": "tts-1", "voice": "alloy", "input": "Good morning."}).encode()
        )
        question = {"model": "gpt-4o-audio-preview", "messages": [{"role": "user", "content": "hi"}]}
        assert json.loads(call("/v1/chat/completions", json.dumps(question).encode()))["choices"][0]["message"][
            "content"
        ]
    finally:
        proxy.terminate()
        proxy.wait()
        log.close()
print("OK")
