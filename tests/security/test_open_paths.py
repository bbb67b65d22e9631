"""docs/operations.md says what is open without a key; the routes say the same."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from app.routes.operations import Operation
from app.routes.table import OPERATIONS
from app.ui.mount import PATH as PAGE
from tests.support.server import Running, server_fixture

ROOT = Path(__file__).resolve().parents[2]


def _documented() -> set[str]:
    """Paths in the first column of the table "Open without a key"."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = page.partition("Open without a key:")[2].partition("\n\n")[2].partition("\n\n")[0]
    return {path for row in table.splitlines() for path in re.findall(r"`(/[^`]*)`", row.split("|")[1])}


def test_the_list_is_that_of_the_routes() -> None:
    open_paths = {f"/{operation.path}" for operation in OPERATIONS if operation.access in ("public", "listing")}
    assert _documented() == open_paths | {PAGE}


server = server_fixture(server={"api_keys": [{"name": "one", "key": "k"}]})


def _path(operation: Operation) -> str:
    prefix = {"local": "", "openai": "/v1", "azure-v1": "/openai/v1", "azure-resource": "/openai"}
    scheme = next(value for value in prefix if value in {scheme.value for scheme in operation.schemes})
    return f"{prefix[scheme]}/{re.sub('{.*}', 'fake-asr', operation.path)}?api-version=2024-10-21"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: f"{operation.method} {operation.path}")
def test_what_is_not_on_the_list_needs_a_key(server: Running, operation: Operation) -> None:
    answer = httpx.request(operation.method, server.url + _path(operation))
    if operation.access == "public":
        assert answer.status_code == 200
    else:
        assert answer.status_code == 401
