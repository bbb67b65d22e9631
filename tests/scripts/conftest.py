"""A running server for scripts that talk to one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import Running, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as one:
        yield one
