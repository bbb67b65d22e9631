"""One request id where Ray Serve is the server: Serve gives every request one and adds it to the answer by itself.

Knows no Ray.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADER = "x-request-id"
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")  # the client may have chosen it, and it is written to the log


class ServesRequestId:
    """ASGI app around the gateway: it takes Serve's id for its own and leaves the header to Serve."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(_HEADER, "")
        if _PLAIN.fullmatch(sent):
            scope["gateway.request_id"] = sent

        async def without_own(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[_HEADER]
            await send(message)

        await self._app(scope, receive, without_own)
