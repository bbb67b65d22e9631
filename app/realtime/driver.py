"""Drives one session: the core's outputs are acted upon, and what comes of that goes back into the core.

Owns the events that wait to be sent, and the timers. Everything runs on the event loop, so that the core never meets
two callers at once. Knows no socket: `socket.py` reads and writes.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from app.errors import ApiError, Overloaded, internal_error
from app.realtime.chat import Call, Chat
from app.realtime.core import Core, Opening
from app.realtime.diarizer import Diarizer
from app.realtime.outputs import Audio, Configure, Diarize, Feed, IdleTimer, Output, Plan, Respond, Send, Stop
from app.realtime.preview import Dialect
from app.realtime.recognizer import Recognizer
from app.realtime.responder import Responder
from app.realtime.session import Surroundings
from app.realtime.voice import Voice
from app.serving.interfaces import Pool
from backends.interface import SpeakerTurns, Usage
from backends.live import LiveEvent

_log = structlog.get_logger("gateway")

MOST_UNSENT_BYTES = 16 * 1024 * 1024  # of events that a client has not read; it is cut off beyond
ENOUGH_UNSENT_BYTES = 1024 * 1024  # from which on no more speech is made until some was read


def new_id(prefix: str) -> str:
    return prefix + uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class AnswerMakers:
    """chat: who thinks, raising ApiError where nobody is configured; voice: who speaks."""

    chat: Callable[[], Chat]
    voice: Callable[[Plan], Voice]


class Driver:
    """One session with all that works for it. unsent: bytes of events that wait."""

    def __init__(
        self,
        pool: Pool,
        opening: Opening,
        surroundings: Surroundings,
        dialect: Dialect,
        makers: AnswerMakers,
        *,
        owner: str,
        request_id: str,
    ) -> None:
        """Raises ApiError where the session's defaults are wrong."""
        self.core = Core(opening, surroundings, new_id)
        self._dialect, self._request_id = dialect, request_id
        self._recognizer = Recognizer(
            pool,
            owner=owner,
            request_id=request_id,
            most_bytes=opening.audio_bytes,
            on_event=self._recognized,
            on_lost=self._lost,
        )
        self._diarizer = Diarizer(
            pool, owner=owner, request_id=request_id, most_bytes=opening.audio_bytes, on_turns=self._diarized
        )
        self._ready: deque[bytes] = deque()
        self.unsent = 0
        self.changed = asyncio.Event()  # something waits to be sent, or an answer ended
        self._timer: asyncio.TimerHandle | None = None
        self._is_acting = self._is_open = False
        self._read = asyncio.Event()  # the client has read some of what waited
        self._responder = Responder(self, makers.chat, makers.voice)
        self.audio_seconds = 0.0
        self.is_full = False  # the server has no room to follow what is said

    # --- From the socket ----------------------------------------------------------------------------------------------

    async def prepare(self, seconds: float) -> None:
        """Begin to recognize before any audio; an error within `seconds` is raised."""
        self._recognizer.start(self.core.session.recognizer, self.core.session.live_request())
        await self._recognizer.started(seconds)

    async def check_room(self, seconds: float) -> None:
        """Raises Overloaded where speech could not be followed. Nothing is begun: it is not sure that any comes."""
        try:
            async with asyncio.timeout(seconds):
                await self._recognizer.check_room(self.core.session.recognizer)
        except Overloaded:
            raise
        except (ApiError, TimeoutError):
            return  # whoever speaks is told of it

    def open(self) -> None:
        """The session's first event."""
        self._is_open = True
        self.core.open()
        self._act()

    def receive(self, event: Any) -> None:
        """One event of the client's. A defect of ours fails this event alone."""
        try:
            self.core.receive(self._dialect.incoming(event))
        except Exception as error:
            _log.error("internal_error", request_id=self._request_id, exc_info=error)
            self.send_error(internal_error())
        self._act()

    def refuse(self, message: str) -> None:
        """What came was no event."""
        self.core.refuse(message)
        self._act()

    def send_error(self, error: ApiError) -> None:
        """Tell the client of what ends the session."""
        self._put({"type": "error", "event_id": new_id("event_"), **error.body()})

    async def room(self) -> None:
        """Return once more audio of the client's can be taken."""
        await self._recognizer.room()
        await self._diarizer.room()

    def next_message(self) -> bytes | None:
        """What is to be sent next, JSON; None: nothing."""
        if not self._ready:
            return None
        message = self._ready.popleft()
        self.unsent -= len(message)
        self._read.set()
        return message

    async def close(self) -> None:
        """End all that works for the session."""
        if self._timer is not None:
            self._timer.cancel()
        await self._responder.close()
        await self._recognizer.close()
        await self._diarizer.close()

    # --- Outputs of the core ------------------------------------------------------------------------------------------

    def _act(self) -> None:
        """Act on outputs until there are none. What is done may make further ones."""
        if self._is_acting:
            return
        self._is_acting = True
        try:
            while outputs := self.core.take_outputs():
                for output in outputs:
                    self._do(output)
        finally:
            self._is_acting = False
            self.changed.set()

    def _do(self, output: Output) -> None:
        match output:
            case Send(event):
                for document in self._dialect.outgoing(event):
                    self._put(document)
            case Audio():
                self.audio_seconds += output.format.seconds(len(output.data))
                self._feed(output)
            case Feed():
                self._feed(output)
            case Configure():
                self._configure()
            case Diarize():
                self._diarizer.put(output)
            case IdleTimer(seconds):
                self._set_timer(seconds)
            case Respond(plan):
                self._responder.start(plan)
            case Stop(response_id):
                self._responder.stop(response_id)

    def _put(self, document: dict[str, Any]) -> None:
        message = msgspec.json.encode(document)
        self._ready.append(message)
        self.unsent += len(message)
        self.changed.set()

    def _feed(self, output: Audio | Feed) -> None:
        session = self.core.session
        try:
            feed = output.feed if isinstance(output, Feed) else output
            self._recognizer.feed(lambda: session.recognizer, session.live_request(), feed)
        except ApiError as error:
            self._lose(error)

    def _configure(self) -> None:
        session = self.core.session
        try:
            self._recognizer.configure(session.recognizer, session.live_request())
        except ApiError as error:
            self._lose(error)

    def _lose(self, error: ApiError) -> None:
        """What is said is not followed any more."""
        self.is_full = self.is_full or isinstance(error, Overloaded)
        self.core.recognizer_lost(error)

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._silence)

    def _silence(self) -> None:
        self._timer = None
        self.core.silence()
        self._act()

    # --- What comes back ----------------------------------------------------------------------------------------------

    def _recognized(self, event: LiveEvent) -> None:
        self.core.recognized(event)
        self._act()

    def _diarized(self, turn: int, found: SpeakerTurns | ApiError) -> None:
        self.core.diarized(turn, found)
        self._act()

    def _lost(self, error: ApiError) -> None:
        if not self._is_open:
            return  # whoever prepares the session is told
        self._lose(error)
        self._act()

    # --- Sink of the responder ----------------------------------------------------------------------------------------

    def say(self, response_id: str, text: str) -> None:
        self.core.say(response_id, text)
        self._act()

    def sound(self, response_id: str, data: bytes) -> None:
        self.core.sound(response_id, data)
        self._act()

    def call(self, response_id: str, call: Call) -> None:
        self.core.call(response_id, call.id, call.name, call.arguments)
        self._act()

    def answered(self, response_id: str, usage: Usage, *, cut_short: bool) -> None:
        self.core.answered(response_id, usage, cut_short=cut_short)
        self._act()

    def answer_failed(self, response_id: str, error: ApiError) -> None:
        self.core.answer_failed(response_id, error)
        self._act()

    async def reader(self) -> None:
        """Return once the client has read enough for more to be made."""
        while self.unsent > ENOUGH_UNSENT_BYTES:
            self._read.clear()
            await self._read.wait()
