"""Which web pages and which Host names may talk to the server.

Owns the guard against DNS rebinding (a page whose name suddenly points at this machine), the refusal of foreign pages'
requests, and CORS for those that are allowed. Programs that are not browsers send no Origin and are not concerned.
"""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config.settings import ServerSettings, is_loopback
from app.errors import Forbidden
from app.http.addresses import is_address
from app.routes.context import header_text
from app.routes.operations import WORK_QUERY

log = structlog.get_logger("gateway")

# Names that no public DNS server can point here, or that only the vendor can.
_SAFE_SUFFIXES = (
    ".localhost",
    ".local",  # multicast DNS, RFC 6762
    ".home.arpa",  # home networks, RFC 8375
    ".internal",
    ".openai.azure.com",
    ".services.ai.azure.com",
    ".cognitiveservices.azure.com",
)
_EXPOSED = ", ".join(
    [
        *(
            "x-request-id",
            "apim-request-id",
            "x-ms-client-request-id",
            "retry-after",
            "retry-after-ms",
            "x-should-retry",
        ),
        *("openai-processing-ms", "x-ms-deployment-name", "x-ms-region", "x-gateway-fallback", "x-gateway-note"),
        *("x-gateway-engine", "x-gateway-device", "x-gateway-dtype"),
        *("x-gateway-ignored", "x-gateway-answer-id", "x-gateway-seed"),
        *(
            "x-gateway-queue-ms",
            "x-gateway-decode-ms",
            "x-gateway-model-ms",
            "x-gateway-speech-ms",
            "x-gateway-encode-ms",
        ),
    ]
)
# The second is for browsers that do not know the first.
_FRAME_HEADERS = [(b"content-security-policy", b"frame-ancestors 'self'"), (b"x-frame-options", b"SAMEORIGIN")]
_MOST_LOGGED, _LONGEST_ORIGIN = 100, 200  # refused origins that are logged, and characters of each
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_STREAMS = "/gradio_api/queue/"


class OriginGuard:
    """ASGI middleware: refuses strange Host names and foreign pages, answers preflights, adds CORS headers."""

    def __init__(self, app: ASGIApp, server: ServerSettings) -> None:
        self.app = app
        self._check_host = is_loopback(server.host) or not server.needs_key  # a key is what a rebinding page lacks
        self._hosts = {host.lower() for host in server.allowed_hosts} | {socket.gethostname().lower()}
        self._origins = {origin.rstrip("/").lower() for origin in server.cors_origins}
        self._logged: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        send = _unframed(send)
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._check_host and not self._host_allowed(host):
            raise Forbidden(
                f"The Host name {_hostname(host)!r} is not this server's; add it to server.allowed_hosts if it "
                f"should be.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is None:
            self._check_site(scope, headers)
        if origin is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            if not self._origin_allowed(origin, host):  # CORS does not keep a browser from opening one
                raise _foreign(origin)
            await self.app(scope, receive, send)
        else:
            await self._from_page(origin, host, headers, scope, receive, send)

    async def _from_page(
        self, origin: str, host: str, headers: Headers, scope: Scope, receive: Receive, send: Send
    ) -> None:
        allowed = self._origin_allowed(origin, host)
        if not allowed and _does_work(scope):
            raise self._refused(origin)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            if not allowed:
                raise self._refused(origin)
            scope["gateway.cors"] = _cors_headers(origin)
            await _preflight(headers)(scope, receive, send)
            return
        if allowed:
            scope["gateway.cors"] = _cors_headers(
                origin
            )  # added by whoever writes the answer's headers, errors included
        await self.app(scope, receive, send)

    def _refused(self, origin: str) -> Forbidden:
        """The refusal, logged once for each origin: a browser hides a refused preflight's body from page and person."""
        shown = header_text(origin)[:_LONGEST_ORIGIN]
        if shown not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(shown)
            log.warning("origin_refused", origin=shown, hint=f"to allow its pages: server.cors_origins = [{shown!r}]")
        return _foreign(origin)

    def _check_site(self, scope: Scope, headers: Headers) -> None:
        """A foreign page's request without an Origin: an image, a script, fetch in the mode no-cors. Raises Forbidden.

        Whoever follows a link from another site to a page of ours may see it.
        """
        if headers.get("sec-fetch-site") != "cross-site" or "*" in self._origins:
            return
        if headers.get("sec-fetch-mode") != "navigate" or _does_work(scope):
            raise self._refused("other sites")

    def _host_allowed(self, host: str) -> bool:
        """IP addresses, single-label names and the safe suffixes: a rebinding page has none of them."""
        name = _hostname(host)
        return "." not in name or is_address(name) or name.endswith(_SAFE_SUFFIXES) or name in self._hosts

    def _origin_allowed(self, origin: str, host: str) -> bool:
        parts = urlsplit(origin)
        if "*" in self._origins or origin.lower() in self._origins:
            return True
        own = parts.netloc.lower() == host.lower() and parts.scheme in ("http", "https")
        name = parts.hostname or ""
        return own or is_loopback(name) or name.endswith(".localhost")  # http://tauri.localhost: Tauri on Windows


def _unframed(send: Send) -> Send:
    """Forbid pages of other sites to show ours in a frame, where a visitor's clicks could be caught."""

    async def unframed(message: Message) -> None:
        if message["type"] == "http.response.start" and _is_page(message):
            message = {**message, "headers": [*message.get("headers", ()), *_FRAME_HEADERS]}
        await send(message)

    return unframed


def _is_page(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in message.get("headers", ())
    )


def _does_work(scope: Scope) -> bool:
    """More than telling what is known; the streams of the web page wait for its work."""
    if scope["type"] == "http" and (scope["method"] not in _SAFE_METHODS or _STREAMS in scope["path"]):
        return True
    return WORK_QUERY in QueryParams(scope["query_string"])


def _foreign(origin: str) -> Forbidden:
    return Forbidden(
        f"Pages of {origin} may not use this server; add it to server.cors_origins if they should.",
        code="origin_not_allowed",
    )


def _hostname(host: str) -> str:
    """Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _preflight(headers: Headers) -> Response:
    answer = {
        "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
        "access-control-allow-headers": headers.get("access-control-request-headers", "*"),
        "access-control-max-age": "600",
    }
    if headers.get("access-control-request-private-network") == "true":
        answer["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=answer)


def _cors_headers(origin: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _EXPOSED.encode("ascii")),
        (b"vary", b"Origin"),
    ]
