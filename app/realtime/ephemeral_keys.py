"""Keys that open realtime sessions for a while, for pages that must not have a key of the server's.

Owns what such a key is, and how large the session may be that it begins. Knows no request.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from app.errors import InvalidRequest, Overloaded, Unauthorized
from app.serving.fair_store import FairStore

PREFIX = "ek_"
MOST_SESSION_BYTES = 1024 * 1024  # of one key's session, as JSON
_MOST_BYTES = 64 * 1024 * 1024  # of all keys


@dataclass(frozen=True, slots=True)
class EphemeralKey:
    """owner: name of the key that asked for it; expires_at: Unix time; text: the object that its sessions begin with,
    JSON, as the objects of that would take many times its size."""

    value: str
    owner: str
    expires_at: int
    text: bytes

    @property
    def session(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.text)
        return found


class EphemeralKeys:
    """fair: there are several clients, and none may make another's keys be forgotten."""

    def __init__(self, *, fair: bool, clock: Callable[[], float] = time.time, most: int = _MOST_BYTES) -> None:
        self._clock = clock
        self._keys = FairStore[EphemeralKey](most, fair=fair, clock=clock)

    def new(self, client: str, owner: str, seconds: int, session: Mapping[str, Any]) -> EphemeralKey:
        """A key that opens sessions for so long; where there is no room for it, the client's oldest are forgotten.

        Raises InvalidRequest where the session is too large, and Overloaded where others fill all the room.
        """
        text = msgspec.json.encode(session)
        if len(text) > MOST_SESSION_BYTES:
            raise InvalidRequest(
                f"session has {len(text)} bytes; at most {MOST_SESSION_BYTES} are allowed.", param="session"
            )
        key = EphemeralKey(PREFIX + secrets.token_hex(16), owner, int(self._clock()) + seconds, text)
        if not self._keys.put(client, key.value, key, size=len(text), expires_at=key.expires_at):
            raise Overloaded("Too many ephemeral keys are in use.", retry_after=60.0)
        return key

    def find(self, value: bytes) -> EphemeralKey | None:
        """None: it is no ephemeral key. Raises Unauthorized for one that is unknown or has expired."""
        text = value.decode("latin-1")
        if not text.startswith(PREFIX):
            return None
        if (key := self._keys.get(text)) is None:
            raise Unauthorized("This ephemeral key is unknown or has expired.", code="invalid_api_key")
        return key
