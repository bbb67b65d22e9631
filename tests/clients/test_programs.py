"""Client programs that people use, unchanged, each installed in an environment of its own, against a running server.

The environments lie in a cache folder (SPEECH_GATEWAY_CLIENTS, else in the folder for temporary files), so that a
second run is quick. `make test-clients` runs these; make test does not.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.http import certificates
from app.http.certificates import certificate_files
from scripts.provision import environment_python, find_uv
from tests.support.server import Running, fake_settings, running

pytestmark = [pytest.mark.clients, pytest.mark.slow]

PROGRAMS = Path(__file__).parent / "programs"
CACHE = Path(os.environ.get("SPEECH_GATEWAY_CLIENTS", Path(tempfile.gettempdir()) / "speech-gateway-clients"))
LONGEST = 540  # seconds of an installation or a program; ends a hang
NAMES = {
    "whisper-1": {"backend": "fake", "task": "transcription"},
    "gpt-4o-transcribe": {"backend": "fake", "task": "transcription"},
    "tts-1": {"backend": "fake", "task": "speech"},
    "gpt-4o-audio-preview": {"backend": "fake", "task": "chat", "audio_deployment": "tts-1"},
}


@dataclass(frozen=True)
class Client:
    """program: of PROGRAMS; packages: what pip or npm installs; python: the least version; tls: it insists on https."""

    name: str
    program: str
    packages: tuple[str, ...]
    python: tuple[int, int] = (3, 11)
    tls: bool = False


CLIENTS = [
    Client("openai-1", "openai_client.py", ("openai>=1.109,<2",)),
    Client("openai-3", "openai_client.py", ("openai>=3,<4",)),
    Client("openai-node", "openai_node.mjs", ("openai@6",)),
    Client("vercel-ai", "vercel_ai.mjs", ("ai@6", "@ai-sdk/openai@3")),
    Client("langchain", "langchain_client.py", ("langchain-openai>=1,<2", "langchain-community>=0.4,<1", "pydub")),
    Client("litellm-proxy", "litellm_proxy_client.py", ("litellm[proxy]>=1.80,<2",)),
    Client("semantic-kernel", "semantic_kernel_client.py", ("semantic-kernel>=1.40,<2",), tls=True),
    Client("pydantic-ai", "pydantic_ai_client.py", ("pydantic-ai-slim[openai]>=2,<3",)),
    Client("wyoming-openai", "wyoming_client.py", ("wyoming-openai>=0.4",), python=(3, 12)),
    Client("ag2", "ag2_client.py", ("ag2[openai]>=1.2,<2",)),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tls")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "tls_folder", lambda: folder)
        yield certificate_files(folder).authority


@pytest.fixture(scope="module")
def plain() -> Iterator[Running]:
    with running(fake_settings(deployments=NAMES)) as one:
        yield one


@pytest.fixture(scope="module")
def secure(authority: Path) -> Iterator[Running]:
    with running(fake_settings(deployments=NAMES, server={"tls": "auto"})) as one:
        yield one


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sound") / "tone.wav"
    time = np.arange(32_000) / 16_000
    soundfile.write(file, (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), 16_000)
    return file


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_program_works(client: Client, plain: Running, secure: Running, authority: Path, wav: Path) -> None:
    command = _installed(client)
    url = secure.url if client.tls else plain.url
    trust = {"SSL_CERT_FILE": str(authority), "NODE_EXTRA_CA_CERTS": str(authority)} if client.tls else {}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI_", "AZURE_"))}
    done = subprocess.run([*command, url, str(wav)], capture_output=True, text=True, timeout=LONGEST, env=clean | trust)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.strip().endswith("OK")


def _installed(client: Client) -> list[str]:
    """The command that runs the client's program, its packages installed if they were not."""
    digest = hashlib.sha256(repr((client.packages, sys.version_info[:2])).encode()).hexdigest()[:12]
    folder = CACHE / f"{client.name}-{digest}"
    if client.program.endswith(".mjs"):
        return _node(client, folder)
    python = environment_python(folder)
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        _run([find_uv(), "venv", "--quiet", "--python", _interpreter(client), str(folder)])
        _run([find_uv(), "pip", "install", "--quiet", "--python", str(python), *client.packages])
        (folder / "complete").touch()
    return [str(python), str(PROGRAMS / client.program)]


def _node(client: Client, folder: Path) -> list[str]:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node and npm are not installed")
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *client.packages])
        (folder / "complete").touch()
    program = folder / client.program  # node looks for packages beside the program
    shutil.copyfile(PROGRAMS / client.program, program)
    return [node, str(program)]


def _interpreter(client: Client) -> str:
    if sys.version_info[:2] >= client.python:
        return sys.executable
    wanted = ".".join(map(str, client.python))
    search = [find_uv(), "python", "find", "--no-python-downloads", wanted]
    found = subprocess.run(search, capture_output=True, text=True, timeout=LONGEST)
    if found.returncode != 0:
        pytest.skip(f"{client.name} needs Python {wanted}")
    return found.stdout.strip()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    assert done.returncode == 0, done.stderr[-3000:]
