"""One realtime session as a pure machine: events of the client in, outputs out.

Owns the dispatch of events and the errors they get. No socket, no clock, no model: what the recognizer tells comes in
by `recognized`, what answers consist of by `say`, `sound` and their kin. Speaks the GA shape only. Nothing that a
client sends ends a session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import ApiError, InvalidRequest
from app.realtime.conversation import Conversation, Item
from app.realtime.items import read_item
from app.realtime.outputs import Configure, IdleTimer, NewId, Outbox, Output, Send
from app.realtime.responses import Responses
from app.realtime.session import Kind, Session, Surroundings
from app.realtime.tape import Tape
from app.realtime.turns import Turns
from backends.interface import SpeakerTurns, Usage
from backends.live import LiveEvent

Event = Mapping[str, Any]
_EVENT_ID_CHARACTERS = 512
_CONVERSATION_ONLY = ("conversation.item.create", "conversation.item.truncate", "response.create", "response.cancel")


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known of a session before its first event.

    kind: None = the first update decides; model: as the URL names it; expires_at: Unix time; audio_bytes: most audio of
    the client that is kept; takes_audio: the chat side needs no transcript; defaults: a session object that is merged
    in at once.
    """

    kind: Kind | None
    model: str
    expires_at: int
    audio_bytes: int = 16 * 1024 * 1024
    takes_audio: bool = False
    defaults: Mapping[str, Any] | None = None


class Core:
    """The machine. Whoever drives it acts on what `take_outputs` gives after each call, in order."""

    def __init__(self, opening: Opening, surroundings: Surroundings, new_id: NewId) -> None:
        """Raises ApiError where the defaults are wrong."""
        self._outbox = Outbox(new_id)
        self._opening, self._surroundings = opening, surroundings
        self._kind_is_open = opening.kind is None
        self._identity = new_id("sess_")
        self.session = self._new_session(opening.kind or "realtime")
        if opening.defaults is not None:
            self.session.update(opening.defaults)
        self.conversation = Conversation(opening.audio_bytes)
        self._tape = Tape(keeps=self._keeps_audio(), most_bytes=opening.audio_bytes)
        self.responses = Responses(
            lambda: self.session,
            self.conversation,
            new_id("conv_"),
            self._outbox,
            takes_audio=opening.takes_audio,
            has_tools=surroundings.tools,
        )
        self.turns = Turns(lambda: self.session, self.conversation, self._outbox, self._tape, self)
        self._handlers: dict[str, Callable[[Event], None]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self.turns.append,
            "input_audio_buffer.commit": lambda event: self.turns.commit(_event_id(event)),
            "input_audio_buffer.clear": lambda event: self.turns.clear(),
            "conversation.item.create": self._create_item,
            "conversation.item.retrieve": self._retrieve_item,
            "conversation.item.delete": self._delete_item,
            "conversation.item.truncate": self.responses.truncate,
            "response.create": lambda event: self.responses.create(event.get("response")),
            "response.cancel": lambda event: self.responses.cancel(event.get("response_id")),
        }

    def open(self) -> None:
        """The first event, which needs no event of the client's."""
        self._outbox.send("session.created", session=self.session.document())

    def take_outputs(self) -> list[Output]:
        """What is to be done since the last call."""
        return self._outbox.take()

    @property
    def is_busy(self) -> bool:
        """Whether the client waits for something that was begun."""
        return self.turns.pending or self.responses.pending

    # --- From the client ----------------------------------------------------------------------------------------------

    def receive(self, event: object) -> None:
        """One event of the client's; what is wrong with it becomes an error event."""
        try:
            self._handler(event)(event)  # type: ignore[arg-type]  # a mapping, once it has a handler
        except ApiError as error:
            self._outbox.error(error, _event_id(event))

    def refuse(self, message: str) -> None:
        """What came was no event at all."""
        self._outbox.error(InvalidRequest(message, code="invalid_event"))

    def _handler(self, event: object) -> Callable[[Event], None]:
        kind = event.get("type") if isinstance(event, Mapping) else None
        if not isinstance(kind, str):
            raise InvalidRequest("An event is a JSON object with a type.", param="type", code="invalid_event")
        handler = self._handlers.get(kind)
        if kind == "output_audio_buffer.clear":
            raise InvalidRequest(f"{kind} belongs to WebRTC sessions.", param="type", code="invalid_event")
        if handler is None:
            known = ", ".join(self._handlers)
            raise InvalidRequest(f"Invalid value: {kind[:80]!r}. Supported values are: {known}.", param="type")
        if self.session.kind == "transcription" and kind in _CONVERSATION_ONLY:
            raise InvalidRequest(f"{kind} is not available in a transcription session.", param="type")
        return handler

    def _update(self, event: Event) -> None:
        given = event.get("session")
        if not isinstance(given, Mapping):
            raise InvalidRequest("session must be an object.", param="session")
        if given.get("type", self.session.kind) not in ("realtime", "transcription"):
            raise InvalidRequest("session.type must be realtime or transcription.", param="session.type")
        session = self.session
        if self._kind_is_open and given.get("type", session.kind) != session.kind:
            session = self._new_session(given["type"])
        before = session.input["turn_detection"]
        session.update(given, spoken=self.responses.has_spoken)
        self.session, self._kind_is_open = session, False
        self._tape.keeps = self._keeps_audio()
        if before is not None and session.input["turn_detection"] is None:
            self._outbox.put(IdleTimer(None))
        self._outbox.put(Configure())
        self._outbox.send("session.updated", session=session.document())

    def _keeps_audio(self) -> bool:
        """Whether anybody may ask for the audio of a turn again."""
        return self._opening.kind != "transcription" or self.session.diarizer is not None

    def _new_session(self, kind: Kind) -> Session:
        opening = self._opening
        model = "" if opening.kind is None and kind == "transcription" else opening.model
        return Session(kind, self._identity, model, opening.expires_at, self._surroundings)

    def _create_item(self, event: Event) -> None:
        item = read_item(event.get("item"), self.session.input_format, self._outbox.new_id)
        previous = event.get("previous_item_id")
        if previous is not None and not isinstance(previous, str):
            raise InvalidRequest("previous_item_id must be a string.", param="previous_item_id")
        before = self.conversation.add(item, previous)
        document = item.document()
        self._outbox.send("conversation.item.added", item=document, previous_item_id=before)
        self._outbox.send("conversation.item.done", item=document, previous_item_id=before)

    def _retrieve_item(self, event: Event) -> None:
        item = self._item(event, "item_retrieve_invalid_item_id")
        self._outbox.send("conversation.item.retrieved", item=item.document(with_audio=True))

    def _delete_item(self, event: Event) -> None:
        item = self._item(event, "item_delete_invalid_item_id")
        self.conversation.remove(item.id)
        self._outbox.send("conversation.item.deleted", item_id=item.id)

    def _item(self, event: Event, code: str) -> Item:
        item = self.conversation.find(event.get("item_id"))
        if item is None:
            raise InvalidRequest(
                f"There is no item {str(event.get('item_id'))[:80]!r} in this conversation.", param="item_id", code=code
            )
        return item

    # --- From the recognizer ------------------------------------------------------------------------------------------

    def recognized(self, event: LiveEvent) -> None:
        """One event of the live job; its turns and times count over the whole session."""
        self.turns.take(event)

    def recognizer_lost(self, error: ApiError) -> None:
        """The live job ended, or could not begin. The next audio begins another."""
        self.turns.lost(error)

    def diarized(self, turn: int, found: SpeakerTurns | ApiError) -> None:
        """The answer to a Diarize. found: with the speakers' numbers in the session, or why there is nothing."""
        self.turns.diarized(turn, found)

    def silence(self) -> None:
        """The time of the last IdleTimer is over."""
        self.turns.commit_silence()

    # --- TurnHooks ----------------------------------------------------------------------------------------------------

    def speech_began(self) -> None:
        self.responses.interrupt()

    def turn_committed(self, item: Item, *, detected: bool) -> None:
        if detected and self.session.kind == "realtime":
            self.responses.turn_ended()

    def turn_settled(self, item: Item) -> None:
        self.responses.settled(item)

    # --- From those who make answers; what comes for one that has ended is dropped ------------------------------------

    def say(self, response_id: str, text: str) -> None:
        """More text of an answer; of a spoken one, the words whose audio comes next."""
        if text and (answer := self.responses.find(response_id)) is not None:
            answer.say(text)

    def sound(self, response_id: str, data: bytes) -> None:
        """More audio of an answer, in its format."""
        if data and (answer := self.responses.find(response_id)) is not None:
            self.responses.has_spoken = True
            answer.sound(data)

    def call(self, response_id: str, call_id: str, name: str, arguments: str) -> None:
        """The answer asks for a function to be called."""
        if (answer := self.responses.find(response_id)) is not None:
            answer.call(call_id, name, arguments)

    def answered(self, response_id: str, usage: Usage, *, cut_short: bool = False) -> None:
        """The answer is complete. cut_short: at its longest."""
        self.responses.done(response_id, usage, cut_short=cut_short)

    def answer_failed(self, response_id: str, error: ApiError) -> None:
        self.responses.failed(response_id, error)


def events(outputs: list[Output]) -> list[dict[str, Any]]:
    """The events for the client among outputs."""
    return [output.event for output in outputs if isinstance(output, Send)]


def _event_id(event: object) -> str | None:
    found = event.get("event_id") if isinstance(event, Mapping) else None
    return found if isinstance(found, str) and len(found) <= _EVENT_ID_CHARACTERS else None
