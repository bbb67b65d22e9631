"""One request's body and connection: read it within caps, throw it away politely, notice that the client left.

Owns every use of `receive`. Knows nothing of what the bytes mean; all caps hold before any parser sees them.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Receive

from app.errors import Overloaded, RequestTimeout, TooLarge
from app.serving.shares import FairShares

DRAIN_BYTES = 32 * 1024 * 1024  # of a refused body that are still read before the answer, which keeps the connection
DRAIN_SECONDS = 10.0
# A body must come at this rate on average, bytes per second, once the first seconds are over: a phone at the edge of
# its network sends several thousand. Whoever sends a byte now and then only keeps memory from others.
LEAST_RATE = 1000
FIRST_SECONDS = 20.0


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""


class RequestBody:
    """The body of one request. held: bytes of it that count in the memory for all bodies."""

    __slots__ = ("_announced", "_budget", "_owner", "_receive", "complete", "gone", "held", "received", "waits")

    def __init__(self, receive: Receive, content_length: str | None, expect: str | None) -> None:
        """expect: the Expect header; a client that waits for "100 Continue" has sent nothing yet."""
        self._receive = receive
        self._announced = int(content_length) if content_length and content_length.isdigit() else 0
        self.waits = (expect or "").lower() == "100-continue"
        self.complete = self.gone = False
        self.received = self.held = 0
        self._budget: FairShares | None = None
        self._owner = ""

    async def read(self, cap: int, seconds: float, budget: FairShares, owner: str = "") -> bytes:
        """The whole body, counted in `budget`, the memory for all bodies, until `give_back`.

        Raises TooLarge above `cap` bytes, Overloaded where all bodies or the owner's would hold too much,
        RequestTimeout after `seconds` or below the least rate, ClientGone.
        """
        self._budget, self._owner = budget, owner
        if self._announced > cap:
            raise _too_large(cap, self._announced)
        try:
            async with asyncio.timeout(seconds):
                chunks = await self._chunks(cap, budget)
        except TimeoutError:
            self.give_back()
            raise RequestTimeout(
                f"The upload took longer than {seconds:g} seconds, or came at less than {LEAST_RATE} bytes per second."
            ) from None
        except BaseException:
            self.give_back()
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _chunks(self, cap: int, budget: FairShares) -> list[bytes]:
        chunks: list[bytes] = []
        begun = asyncio.get_running_loop().time()
        while not self.complete:
            async with asyncio.timeout_at(begun + FIRST_SECONDS + self.received / LEAST_RATE):
                chunk = await self._next()
            if self.received > cap:
                raise _too_large(cap, self.received)
            self._hold(len(chunk), budget)
            chunks.append(chunk)
        return chunks

    def _hold(self, size: int, budget: FairShares) -> None:
        if not budget.has_room(self._owner, size):
            raise Overloaded(f"The uploads in progress fill the {budget.cap} bytes that they may. Please retry later.")
        budget.take(self._owner, size)
        self.held += size

    def give_back(self) -> None:
        """The body is kept no longer."""
        if self._budget is not None and self.held:
            self._budget.give_back(self._owner, self.held)
        self.held = 0

    async def drain(self) -> bool:
        """Throw away what is still coming, within bounds. False: not all of it came; the connection must be closed
        after the answer, and drops the rest (`app/http/http1.py`)."""
        if self.waits and self.received == 0:
            return False
        limit = self.received + DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.complete and self.received < limit:
                    await self._next()
        return self.complete

    async def left(self) -> None:
        """Returns when the client has closed the connection (or the server has, after the answer)."""
        while not self.gone:
            message = await self._receive()
            self.gone = message["type"] == "http.disconnect"

    async def _next(self) -> bytes:
        message: Message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
            raise ClientGone
        body: bytes = message.get("body", b"")
        self.received += len(body)
        self.complete = not message.get("more_body", False)
        return body


def capped(receive: Receive, cap: int) -> Receive:
    """The same messages, for an app that reads the body itself; TooLarge is raised in it above `cap` bytes."""
    received = 0

    async def receive_capped() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > cap:
            raise _too_large(cap, received)
        return message

    return receive_capped


async def never() -> Message:
    """The `receive` of an answering app: the body is read already, and leaving is the guard's matter."""
    await asyncio.Event().wait()
    raise AssertionError("an event that nobody sets")


def _too_large(cap: int, size: int) -> TooLarge:
    return TooLarge(f"The request body is larger than the limit of {cap} bytes ({size} bytes read or announced).")
