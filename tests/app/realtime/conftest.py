"""One server with live jobs for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.live_pool import realtime_server
from tests.support.server import Running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with realtime_server() as one:
        yield one
