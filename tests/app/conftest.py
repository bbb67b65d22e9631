"""One running server with a fake pool for the tests of a module, and a small recording."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from tests.support.audio import wav_of
from tests.support.server import Running, running

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))  # servers log every request


@pytest.fixture(scope="session")
def wav() -> bytes:
    """Two seconds of a tone, 16 kHz mono."""
    return wav_of(2.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as one:
        yield one
