"""What an operation of the API is, and how a raw path names one under each URL scheme.

Owns the four schemes of Azure and OpenAI and the lenient forms around them. Knows no handler's business. Paths are
matched before percent-decoding, because a deployment name may hold "/" (as %2F) and Starlette decodes before it routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from starlette.types import ASGIApp

from backends.interface import Task

if TYPE_CHECKING:
    from app.routes.context import RequestContext

# listing: what Open WebUI asks for without a key; open only where the configuration says so
Access = Literal["key", "public", "admin", "listing"]
Handler = Callable[["RequestContext"], Awaitable[ASGIApp]]

JSON = "application/json"
WORK_QUERY = "deep"  # makes a public operation (/health) do work, which needs a key where keys are configured
FORM = "multipart/form-data"


class Scheme(StrEnum):
    """How a URL is built; the value is a label for logs."""

    AZURE = "azure"  # /openai/deployments/{deployment}/{operation}?api-version=
    RESOURCE = "azure-resource"  # /openai/{operation}?api-version=
    AZURE_V1 = "azure-v1"  # /openai/v1/{operation}
    OPENAI = "openai"  # /v1/{operation}
    LOCAL = "local"  # /health and the like, which no cloud service has

    @property
    def prefix(self) -> str:
        """What comes before an operation's path."""
        return _PREFIXES[self]

    @property
    def dated(self) -> bool:
        """The api-version query is mandatory."""
        return self in (Scheme.AZURE, Scheme.RESOURCE)


_PREFIXES = {
    Scheme.AZURE: "/openai/deployments/{deployment}/",
    Scheme.RESOURCE: "/openai/",
    Scheme.AZURE_V1: "/openai/v1/",
    Scheme.OPENAI: "/v1/",
    Scheme.LOCAL: "/",
}
MODEL_SCHEMES = frozenset({Scheme.AZURE, Scheme.AZURE_V1, Scheme.OPENAI})
LISTING_SCHEMES = MODEL_SCHEMES | {Scheme.RESOURCE}
# Longest first; deployments of AZURE are sought below RESOURCE.
_SEARCHED = (Scheme.AZURE_V1, Scheme.RESOURCE, Scheme.OPENAI, Scheme.LOCAL)


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One thing a client can ask for, declared once for all schemes.

    path: below the scheme's prefix; a last segment "{name}" takes the rest of the path, slashes included (a
    deployment's name only as %2F);
    handler: returns an ASGI app, usually a Response, that sends the answer; consumes: accepted content types;
    doc: its OpenAPI operation object, without what the table knows itself.
    """

    path: str
    method: str
    handler: Handler
    task: Task | None = None
    access: Access = "key"
    schemes: frozenset[Scheme] = MODEL_SCHEMES
    consumes: tuple[str, ...] = ()
    doc: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """A path that exists. operations: by method; deployment: named by the path; parameter: the {..} segment's text."""

    path: str
    scheme: Scheme
    operations: Mapping[str, Operation]
    deployment: str | None = None
    parameter: str = ""


class Table:
    """All operations, found by raw path."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations = tuple(operations)
        self._fixed: dict[tuple[Scheme, str], dict[str, Operation]] = {}
        self._open: dict[tuple[Scheme, str], dict[str, Operation]] = {}
        for operation in self.operations:
            head, _, last = operation.path.rpartition("/")
            wanted, key = (self._open, head) if last.startswith("{") else (self._fixed, operation.path)
            for scheme in operation.schemes:
                wanted.setdefault((scheme, key), {})[operation.method] = operation

    def match(self, raw_path: str) -> Match | None:
        """None: nothing is served there. Empty segments do not count: base URLs end in a slash, or begin with two."""
        parts = _segments(raw_path)
        for scheme in _SEARCHED:
            prefix = tuple(scheme.prefix.split("/")[1:-1])
            if parts[: len(prefix)] == prefix:
                rest = parts[len(prefix) :]
                return (
                    self._find(scheme, rest) or self._find_in_deployment(scheme, rest) or self._find_open(scheme, rest)
                )
        return None

    def nearest(self, raw_path: str) -> str:
        """The path that was likely meant by one that does not exist: that of the operation it ends in, "" if none."""
        parts = _segments(raw_path)
        for cut in range(len(parts)):
            schemes = {scheme for scheme, path in self._fixed if path == "/".join(parts[cut:])}
            if schemes:
                return _address(parts[:cut], schemes) + "/".join(parts[cut:])
        return ""

    def _find(self, scheme: Scheme, rest: tuple[str, ...]) -> Match | None:
        path = "/".join(rest)
        operations = self._fixed.get((scheme, path))
        return Match(path, scheme, operations) if operations else None

    def _find_open(self, scheme: Scheme, rest: tuple[str, ...]) -> Match | None:
        """A name at the end. A deployment's is one segment: further ones name an operation, which is not served
        here."""
        for cut in range(1, len(rest)):
            head = "/".join(rest[:cut])
            operations = self._open.get((scheme, head))
            if operations and (head != "deployments" or cut == len(rest) - 1):
                return Match(f"{head}/*", scheme, operations, parameter=unquote("/".join(rest[cut:])))
        return None

    def _find_in_deployment(self, scheme: Scheme, rest: tuple[str, ...]) -> Match | None:
        """deployments/{name}/{operation}; the name may hold slashes, so the operation is sought from the end."""
        if rest[:1] != ("deployments",) or scheme not in (Scheme.RESOURCE, Scheme.AZURE_V1):
            return None
        inner = Scheme.AZURE if scheme is Scheme.RESOURCE else scheme
        for cut in range(2, len(rest)):
            operations = self._fixed.get((inner, "/".join(rest[cut:])))
            if operations:
                return Match("/".join(rest[cut:]), inner, operations, unquote("/".join(rest[1:cut])))
        return None


def _segments(raw_path: str) -> tuple[str, ...]:
    return tuple(part for part in raw_path.split("/") if part)


def _address(before: tuple[str, ...], schemes: set[Scheme]) -> str:
    """The prefix that was likely meant by the segments before an operation that has these schemes."""
    if Scheme.AZURE in schemes and "deployments" in before[:-1]:
        return Scheme.AZURE.prefix.format(deployment=before[before.index("deployments") + 1])
    if Scheme.AZURE_V1 in schemes and before[:1] == ("openai",):
        return Scheme.AZURE_V1.prefix
    return next(scheme.prefix for scheme in (Scheme.OPENAI, Scheme.LOCAL, Scheme.RESOURCE) if scheme in schemes)
