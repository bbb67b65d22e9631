"""One running server with a fake pool for the tests of a module, and a small recording."""

from __future__ import annotations

import io
import logging
import wave
from collections.abc import Iterator

import numpy as np
import pytest
import structlog

from tests.support.running import Running, running


structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))  # servers log every request


@pytest.fixture(scope="session")
def wav() -> bytes:
    """Two seconds of a tone, 16 kHz mono."""
    return wav_of(2.0)


def wav_of(seconds: float) -> bytes:
    tone = np.sin(np.arange(round(16_000 * seconds)) / 20) * 8000
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(tone.astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as one:
        yield one
