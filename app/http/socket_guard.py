"""What happens before a WebSocket is opened: the checks of `Guard` in the same order, in the form that sockets need.

Owns the keys that only sockets carry, ephemeral ones included. Knows nothing of what a session does; every refusal
comes before the upgrade, with a status and an error body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from app.errors import Draining, NotFound
from app.http.auth import Keyring, request_keys
from app.http.versions import check_api_version
from app.realtime.ephemeral_keys import EphemeralKey
from app.realtime.handshake import handshake_keys, read_handshake
from app.realtime.socket import Caller, serve_socket
from app.routes.context import Gateway
from app.routes.operations import Match, Scheme, Table

REALTIME = "realtime"  # the path's last segment


class SocketGuard:
    """Opens a session once route, key, api-version and model are right."""

    def __init__(
        self,
        gateway: Gateway,
        table: Table,
        keyring: Keyring,
        within_limits: Callable[[str], AbstractContextManager[None]],
        *,
        owner_is_address: bool,
    ) -> None:
        """within_limits: counts a request of an owner; told_by_address: any key is accepted, so that keys tell nobody
        apart."""
        self._gateway, self._table, self._keyring = gateway, table, keyring
        self._within_limits, self._owner_is_address = within_limits, owner_is_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record, headers, query = scope["gateway.record"], Headers(scope=scope), QueryParams(scope["query_string"])
        match = self._match(scope)
        record.route = match.path
        subprotocols = scope.get("subprotocols") or ()
        owner, ephemeral = self._admit(headers, query, subprotocols, match.scheme)
        record.owner = owner
        with self._within_limits(owner):
            check_api_version(match.scheme, query.get("api-version"), self._gateway.settings.server.api_versions)
            handshake = read_handshake(
                query,
                headers,
                subprotocols,
                self._gateway.deployments,
                match.scheme,
                named=match.deployment or "",
                ephemeral=ephemeral.session if ephemeral is not None else None,
            )
            record.deployment = handshake.model
            address = (scope.get("client") or ("", 0))[0]
            caller = Caller(record.request_id, owner, address if self._owner_is_address else owner)
            await serve_socket(self._gateway, handshake, caller, scope, receive, send)

    def _match(self, scope: Scope) -> Match:
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        match = self._table.match(path)
        if match is None and path.rstrip("/").endswith(f"/{REALTIME}"):  # some clients keep another server's prefix
            return Match(REALTIME, Scheme.OPENAI, {})
        if match is None or match.path != REALTIME:
            raise NotFound("Resource not found: no WebSocket is served here.")
        return match

    def _admit(
        self, headers: Headers, query: QueryParams, subprotocols: Sequence[str], scheme: Scheme
    ) -> tuple[str, EphemeralKey | None]:
        """The owner, and the ephemeral key where it is one. Raises Unauthorized or Draining."""
        further = tuple(handshake_keys(query, subprotocols))
        for key in (*request_keys(headers, query), *further):
            if (ephemeral := self._gateway.realtime.keys.find(key)) is not None:
                owner = ephemeral.owner
                break
        else:
            owner, ephemeral = self._keyring.owner(headers, query, scheme, further), None
        if self._gateway.draining:
            self._gateway.metrics.refused_total.labels("draining").inc()
            raise Draining("The server is shutting down and takes no new work.")
        return owner, ephemeral
