"""The items of a session in their order: what was said, written, called and answered.

Owns their documents, how long each is kept, and how much of the client's audio. Knows no event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from app.errors import InvalidRequest
from app.realtime.formats import AudioFormat
from app.realtime.outputs import HistoryPart
from app.realtime.spoken import Spoken
from app.routes.inline_audio import base64_text

MOST_ITEMS = 1000  # the oldest are forgotten: no model here reads so many
MOST_CHARACTERS = 1_048_576  # of all items together
ROOT = "root"  # as previous_item_id: before all others
# Of audio in one event; more would make it a message of over 1 MiB, at which usual WebSocket clients break off.
MOST_SHOWN_BYTES = 720 * 1024


@dataclass(slots=True)
class Item:
    """One item. kind: message, function_call or function_call_output.

    text: written, or said as far as it is known; audio: of a user, as it came, b"" once it is no longer kept; settled:
    nothing of it will change any more; shown: the transcript is told to the client.
    """

    id: str
    kind: str = "message"
    role: str = ""
    content: str = ""  # type of its one content part, "" without any
    text: str = ""
    status: str = "completed"
    audio: bytes = b""
    format: AudioFormat = field(default_factory=AudioFormat)
    settled: bool = True
    shown: bool = True
    spoken: Spoken | None = None  # of an assistant, as far as it was sent
    call: dict[str, str] = field(default_factory=dict)  # call_id, name, arguments or output

    @property
    def is_spoken(self) -> bool:
        return self.content in ("input_audio", "output_audio")

    @property
    def weight(self) -> int:
        return len(self.text) + sum(map(len, self.call.values()))

    def document(self, *, with_audio: bool = False) -> dict[str, Any]:
        """As events show it; the audio only where it is asked for and no longer than one event may be."""
        head = {"id": self.id, "object": "realtime.item", "type": self.kind, "status": self.status}
        if self.kind != "message":
            return head | self.call
        return head | {"role": self.role, "content": self._content(with_audio)}

    def _content(self, with_audio: bool) -> list[dict[str, Any]]:
        if not self.content:
            return []
        part: dict[str, Any] = {"type": self.content}
        if not self.is_spoken:
            part["text"] = self.text
        else:  # null and not left out: the JavaScript agents SDK ends the program of a part without a transcript
            known = self.content == "output_audio" or (self.shown and self.settled)
            part["transcript"] = self.text if known else None
        if with_audio and 0 < len(self.audio) <= MOST_SHOWN_BYTES:
            part["audio"] = base64_text(self.audio)
        return [part]

    def history(self) -> HistoryPart:
        """As the chat side gets it."""
        if self.kind == "function_call":
            call = self.call
            return HistoryPart("assistant", call["arguments"], call_id=call["call_id"], name=call["name"])
        if self.kind == "function_call_output":
            return HistoryPart("tool", self.call["output"], call_id=self.call["call_id"])
        return HistoryPart(self.role, self.text, self.audio, self.format, item_id=self.id)


class Conversation:
    """Items by id, in order. audio_bytes: most audio of the client that is kept."""

    def __init__(self, audio_bytes: int) -> None:
        self._items: dict[str, Item] = {}
        self._order: list[str] = []
        self._audio_bytes = audio_bytes

    def __iter__(self) -> Iterator[Item]:
        return (self._items[name] for name in self._order)

    def __len__(self) -> int:
        return len(self._order)

    def find(self, item_id: object) -> Item | None:
        return self._items.get(item_id) if isinstance(item_id, str) else None

    @property
    def last_id(self) -> str | None:
        return self._order[-1] if self._order else None

    def add(self, item: Item, previous_id: str | None = None) -> str | None:
        """Put an item behind another (None: at the end) and return the id before it. Raises InvalidRequest."""
        if item.id in self._items:
            raise InvalidRequest(
                f"Item {item.id[:80]!r} exists already.", param="item.id", code="item_create_duplicate_item_id"
            )
        place = self._place(previous_id)
        self._order.insert(place, item.id)
        self._items[item.id] = item
        before = self._order[place - 1] if place else None
        self._forget()
        return before

    def before(self, item_id: str) -> str | None:
        """Id of the item before one that is there."""
        place = self._order.index(item_id)
        return self._order[place - 1] if place else None

    def remove(self, item_id: str) -> None:
        del self._items[item_id]
        self._order.remove(item_id)

    def _place(self, previous_id: str | None) -> int:
        if previous_id is None:
            return len(self._order)
        if previous_id == ROOT:
            return 0
        if previous_id not in self._items:
            raise InvalidRequest(
                f"There is no item {previous_id[:80]!r} to put this one behind.",
                param="previous_item_id",
                code="item_create_invalid_previous_item_id",
            )
        return self._order.index(previous_id) + 1

    def _forget(self) -> None:
        """Let go of what is too much: the oldest audio, then the oldest items."""
        held = sum(len(item.audio) for item in self)
        for item in self:
            if held <= self._audio_bytes:
                break
            held -= len(item.audio)
            item.audio = b""
        weight = sum(item.weight for item in self)
        while len(self._order) > 1 and (len(self._order) > MOST_ITEMS or weight > MOST_CHARACTERS):
            weight -= self._items[self._order[0]].weight
            self.remove(self._order[0])
