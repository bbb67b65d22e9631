"""Who is asking: the keys a request may carry, in every form the clients use, and which of them are valid.

Owns the comparison and the two shapes of a 401. Knows no route. Without configured keys any text is a valid key,
because the SDKs refuse to start without one, and on loopback a request may have none: programs like curl send none,
and pages of other sites are kept out by their Origin.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterator

from starlette.datastructures import Headers, QueryParams

from app.config.settings import ServerSettings, is_loopback
from app.errors import Forbidden, MissingKey, Unauthorized
from app.routes.operations import Scheme

_KEY_HEADERS = ("api-key", "ocp-apim-subscription-key")
# Any of them shows that the connection's other end is not who asks. A proxy that sends none cannot be told from a
# client.
_PROXY_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
LOCAL = "local"  # owner of what comes without a key
_CHALLENGE = {"www-authenticate": 'Bearer realm="speech-gateway"'}
_HINT = "Send one in the api-key header or as Authorization: Bearer KEY."


class Keyring:
    """The valid keys with their owners' names."""

    def __init__(self, server: ServerSettings) -> None:
        self._digests = [(_digest(key.key.get_secret_value().encode()), key.name) for key in server.api_keys]
        self._digests += [(bytes.fromhex(key.sha256), name) for name, key in server.keys.items()]
        self._takes_none = not self._digests and is_loopback(server.host)
        self._admin = _digest(server.admin_key.get_secret_value().encode()) if server.admin_key else None

    def owner(self, headers: Headers, query: QueryParams, scheme: Scheme, further: tuple[bytes, ...] = ()) -> str:
        """Name of the first valid key of the request. further: keys in other places. Raises Unauthorized."""
        has_key = False
        for key in (*request_keys(headers, query), *further):
            has_key = True
            if name := self.name_of(key):
                return name
        if self._takes_none and not has_key:
            return LOCAL
        hint = _HINT if self._digests else f"{_HINT} This server has no list of keys: any text will do."
        if scheme is Scheme.OPENAI:
            raise (
                _unauthorized(f"Incorrect API key provided. {_HINT}", "invalid_api_key")
                if has_key
                else MissingKey(f"You did not provide an API key. {hint}", headers=_CHALLENGE)
            )
        raise _unauthorized(f"Access denied: the key is missing or not valid for this server. {hint}", "401")

    def admit_admin(self, headers: Headers, query: QueryParams, client: str) -> None:
        """Control routes: the admin key, or without one configured any client on this machine. Raises Forbidden."""
        if self._admin is None:
            if any(name in headers for name in _PROXY_HEADERS):
                raise Forbidden("Control routes answer through a proxy only when server.admin_key is set.")
            if not _is_local(client):
                raise Forbidden("Control routes answer other machines only when server.admin_key is set.")
        elif not any(hmac.compare_digest(_digest(key), self._admin) for key in request_keys(headers, query)):
            raise Forbidden("This operation needs the admin key.")

    def name_of(self, key: bytes) -> str | None:
        """The owner of a key as it was sent; None if it is not valid."""
        digest = _digest(key)
        owner = "admin" if self._admin is not None and hmac.compare_digest(digest, self._admin) else None
        for known, name in self._digests:  # no early end: the time must not tell which key came near
            if hmac.compare_digest(digest, known):
                owner = name
        if owner is None and not self._digests:
            return f"key-{digest.hex()[:8]}"
        return owner


def request_keys(headers: Headers, query: QueryParams) -> Iterator[bytes]:
    """All keys the request carries, `api-key` first, as the bytes that were sent."""
    for name in _KEY_HEADERS:
        if key := headers.get(name, "").strip():
            yield key.encode("latin-1")
    scheme, _, token = headers.get("authorization", "").partition(" ")  # a key may hold spaces itself
    if scheme.lower() == "bearer" and token.strip():
        yield token.strip().encode("latin-1")
    if key := query.get("subscription-key", "").strip():
        yield key.encode()


def _digest(key: bytes) -> bytes:
    """Equal lengths for compare_digest, whatever the key's."""
    return hashlib.sha256(key).digest()


def _is_local(client: str) -> bool:
    try:
        return ipaddress.ip_address(client).is_loopback
    except ValueError:
        return False


def _unauthorized(message: str, code: str) -> Unauthorized:
    return Unauthorized(message, code=code, headers=_CHALLENGE)
