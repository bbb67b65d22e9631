"""GET realtime without an upgrade, which tells what is missing. The WebSocket itself is `app/realtime`'s."""

from __future__ import annotations

from starlette.types import ASGIApp

from app.errors import UpgradeRequired
from app.routes.context import RequestContext
from app.routes.operations import LISTING_SCHEMES, Operation, Scheme
from app.routes.realtime import schema


async def without_upgrade(context: RequestContext) -> ASGIApp:
    """Raises UpgradeRequired."""
    raise UpgradeRequired(
        "This operation is a WebSocket: connect with ws:// or wss:// and an Upgrade header.",
        headers={"upgrade": "websocket", "connection": "Upgrade"},
    )


OPERATIONS = (
    Operation("realtime", "GET", without_upgrade, schemes=LISTING_SCHEMES | {Scheme.LOCAL}, doc=schema.CONNECT),
)
