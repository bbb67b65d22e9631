"""Which api-version values are served: those that were published, and every other date of their form, because no client
is helped by a refusal of its newest one. Every operation is served under every accepted version."""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.errors import NotFound
from app.routes.operations import Scheme

_STABLE = ("2022-12-01", "2023-05-15", "2024-02-01", "2024-06-01", "2024-10-21")
_PREVIEW = (
    *("2022-03-01", "2022-06-01", "2023-03-15", "2023-06-01", "2023-07-01", "2023-08-01", "2023-09-01", "2023-10-01"),
    *("2023-12-01", "2024-02-15", "2024-03-01", "2024-04-01", "2024-05-01", "2024-07-01", "2024-08-01", "2024-09-01"),
    *("2024-10-01", "2024-12-01", "2025-01-01", "2025-02-01", "2025-03-01", "2025-04-01"),
)
DATED = frozenset(_STABLE) | {f"{date}-preview" for date in _PREVIEW}
_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(-preview)?")
_FIRST = "2022-03-01"
V1 = frozenset({"v1", "preview", "latest"})


def check_api_version(scheme: Scheme, version: str | None, further: Sequence[str]) -> None:
    """Raises NotFound, as Azure does, for a missing (dated schemes) or unknown version."""
    if scheme.dated:
        if not version:
            raise NotFound("Resource not found: the api-version query parameter is missing.")
        known = _is_dated(version) or version in further
    elif scheme is Scheme.AZURE_V1:  # the Azure client appends its dated version to whatever base URL it was given
        known = not version or version in V1 or _is_dated(version) or version in further
    else:
        known = True
    if not known:
        raise NotFound(f"Resource not found: the api-version {version!r} is not supported.")


def _is_dated(version: str) -> bool:
    return _DATE.fullmatch(version) is not None and version[: len(_FIRST)] >= _FIRST
