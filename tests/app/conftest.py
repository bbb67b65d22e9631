"""One running server with a fake pool for the tests of a module, and a small recording."""

from __future__ import annotations

import logging

import pytest
import structlog

from tests.support.audio import wav_of
from tests.support.server import server_fixture

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))  # servers log every request


@pytest.fixture(scope="session")
def wav() -> bytes:
    """Two seconds of a tone, 16 kHz mono."""
    return wav_of(2.0)


server = server_fixture()
