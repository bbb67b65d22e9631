"""A running server for scripts that talk to one."""

from __future__ import annotations

from tests.support.server import server_fixture

server = server_fixture()
