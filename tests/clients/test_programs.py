"""Client programs that people use, unchanged, each installed in an environment of its own, against a running server.

`make test-clients` runs these; make test does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.http import certificates
from app.http.certificates import certificate_files
from tests.support.environments import Environment, check, command
from tests.support.server import Running, fake_settings, running

pytestmark = [pytest.mark.clients, pytest.mark.slow]

PROGRAMS = Path(__file__).parent / "programs"
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

    @property
    def environment(self) -> Environment:
        return Environment(self.name, self.packages, None if self.program.endswith(".mjs") else self.python)


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
    url = secure.url if client.tls else plain.url
    trust = {"SSL_CERT_FILE": str(authority), "NODE_EXTRA_CA_CERTS": str(authority)} if client.tls else {}
    check([*command(client.environment, PROGRAMS / client.program), url, str(wav)], trust)
