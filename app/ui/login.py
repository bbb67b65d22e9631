"""Login of the web page: where keys are configured, nobody opens, uploads or starts anything without one of them.

A browser logs in once with a form and gets a cookie; a program sends its key as on every other route. The page's own
requests then carry the key in `api-key`, whichever way it came. Knows nothing of what the page shows.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from html import escape
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.config.settings import ServerSettings
from app.errors import InvalidRequest, Unauthorized
from app.http.auth import Keyring

COOKIE = "speech-gateway-page"
_LONGEST_FORM = 16 << 10  # bytes; a key and its name
_FORM = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<title>Speech gateway</title>"
    "<body style='font-family: system-ui, sans-serif; max-width: 20rem; margin: 20vh auto; "
    "padding: 0 1rem; color-scheme: light dark'>"
    "<h1 style='font-size: 1.3rem'>Speech gateway</h1><form method=post action='{action}'>"
    "<p><label for=key>API key</label><br>"
    "<input id=key name=key type=password autocomplete=current-password required autofocus "
    "style='width: 100%; padding: .4rem'>"
    "<p><button style='padding: .4rem 1rem'>Open</button></form><p role=alert>{problem}</p>"
    "<p><small>One of the server's keys.</small>"
)


class PageLogin:
    """ASGI app around the page. A session lasts as long as the browser's and the server's process."""

    def __init__(self, page: ASGIApp, path: str, server: ServerSettings) -> None:
        """path: where the page lies, without a slash at its end."""
        self._page, self._path = page, path
        self._keyring, self._needed = Keyring(server), server.needs_key
        self._secret = secrets.token_bytes(32)  # a cookie tells nothing of the key, and is void after a restart
        self._sessions: dict[str, bytes] = {}  # of those who logged in, with their keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._needed:
            await self._page(scope, receive, send)
        elif key := self._key(Headers(scope=scope)):
            headers = [*(pair for pair in scope["headers"] if pair[0] != b"api-key"), (b"api-key", key)]
            await self._page({**scope, "headers": headers}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "a key is needed"})
        else:
            answer = await self._answer(Request(scope, receive))
            await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        """Answer a visitor without a session: the form, the cookie for a right key, or 401."""
        path = request.scope["path"].rstrip("/")
        if request.method == "POST" and path == f"{self._path}/login":
            return await self._log_in(request)
        if request.method in ("GET", "HEAD") and path in (self._path, f"{self._path}/login"):
            return self._form(request)
        raise Unauthorized(
            "The page needs one of the server's keys. Open /ui in a browser, or send the key in the api-key header.",
            code="invalid_api_key",
            headers={"connection": "close"},  # what an upload brings is not read
        )

    async def _log_in(self, request: Request) -> Response:
        typed = parse_qs((await _body(request)).decode("utf-8", "replace")).get("key", [""])[0].strip()
        key = typed.encode("utf-8")
        if not self._keyring.name_of(key):
            return self._form(request, "This is not one of the server's keys.", 401)
        session = self._session_of(key)
        self._sessions[session] = key
        # No Path: the browser takes the folder of this address, which is right behind a proxy that adds a prefix, too.
        answer = RedirectResponse("./", status_code=303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, session, path=None, secure=secure, httponly=True, samesite="strict")
        return answer

    def _form(self, request: Request, problem: str = "", status: int = 200) -> Response:
        action = "ui/login" if request.scope["path"] == self._path else "login"
        return HTMLResponse(
            _FORM.format(action=action, problem=escape(problem)),
            status_code=status,
            headers={"cache-control": "no-store"},
        )

    def _key(self, headers: Headers) -> bytes | None:
        """Find the key that a request carries: in the headers that the API takes, or by its cookie."""
        bearer = headers.get("authorization", "").partition(" ")
        offered = [headers.get("api-key", ""), bearer[2] if bearer[0].lower() == "bearer" else ""]
        keys = [key.strip().encode("latin-1") for key in offered if key.strip()]
        if key := next(filter(self._keyring.name_of, keys), None):
            return key
        cookies = [value for pair in headers.getlist("cookie") if (value := cookie_parser(pair).get(COOKIE))]
        return next((key for cookie in cookies if (key := self._known(cookie))), None)

    def _known(self, session: str) -> bytes | None:
        valid = None
        for known, key in self._sessions.items():  # no early end: the time must not tell which came near
            if hmac.compare_digest(known.encode("ascii"), session.encode("utf-8", "replace")):
                valid = key
        return valid

    def _session_of(self, key: bytes) -> str:
        return hmac.new(self._secret, key, hashlib.sha256).hexdigest()


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _LONGEST_FORM:
            raise InvalidRequest("The form is too long.")
    return body
