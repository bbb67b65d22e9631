"""One answer of a session and the order of its events, from `response.created` to `response.done`.

Owns the documents of a response and of its output items; the `done` events come however it ends. Knows nothing of when
answers begin or why they end: that is `responses.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from app.realtime.conversation import Conversation, Item
from app.realtime.formats import read_format
from app.realtime.outputs import Outbox
from app.realtime.spoken import Spoken
from app.routes.inline_audio import base64_text
from backends.interface import Usage

Status = Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]
_DELTA_BYTES = 192 * 1024  # of audio in one event: a quarter of a megabyte of base64, far below what clients take


@dataclass(slots=True)
class Answer:
    """A response that is being made. settings: of the session and the request; automatic: by turn detection; waits: ids
    of items whose transcript it needs; begun: somebody works on it; sources: what it is an answer to; verbatim: the
    text to speak instead."""

    id: str
    item_id: str
    settings: dict[str, Any]
    conversation_id: str | None
    metadata: dict[str, str] | None
    outbox: Outbox
    conversation: Conversation
    automatic: bool = False
    waits: set[str] = field(default_factory=set)
    begun: bool = False
    sources: list[Item] = field(default_factory=list)
    verbatim: str | None = None
    status: Status = "in_progress"
    details: dict[str, Any] | None = None
    usage: Usage | None = None
    items: list[Item] = field(default_factory=list)
    open: Item | None = None  # the message that is being said
    cut: bool = False  # truncated while it is still being made: the history takes no more of it

    @property
    def speaks(self) -> bool:
        return bool(self.settings["output_modalities"] == ["audio"])

    def document(self) -> dict[str, Any]:
        output = self.settings["audio"]["output"]
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": self.status,
            "status_details": self.details,
            "output": [item.document() for item in self.items if item is not self.open],
            "conversation_id": self.conversation_id,
            "output_modalities": self.settings["output_modalities"],
            "audio": {"output": {"format": output["format"], "voice": output["voice"]}},
            "max_output_tokens": self.settings["max_output_tokens"],
            "metadata": self.metadata,
            "usage": usage_document(self.usage) if self.usage is not None else None,
        }

    # --- While it is made ---------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """More of its text; of spoken answers, the words whose audio comes next."""
        item = self._message()
        if item.spoken is not None:
            item.spoken.pieces.append((item.spoken.size, text))
        if not self.cut:
            item.text += text
        kind = "response.output_audio_transcript.delta" if self.speaks else "response.output_text.delta"
        self._send(kind, item, delta=text)

    def sound(self, data: bytes) -> None:
        """More of its audio, in the format of the session."""
        item = self._message()
        if item.spoken is not None:
            item.spoken.size += len(data)
        for start in range(0, len(data), _DELTA_BYTES):
            self._send("response.output_audio.delta", item, delta=base64_text(data[start : start + _DELTA_BYTES]))

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """A function's call, complete."""
        self.close("completed")
        item = Item(self._next_item_id(), kind="function_call", status="in_progress")
        item.call = {"call_id": call_id, "name": name, "arguments": ""}
        self._add(item)
        where = {**self._where(item), "call_id": call_id}
        del where["content_index"]
        self.outbox.send("response.function_call_arguments.delta", **where, delta=arguments)
        item.call["arguments"], item.status = arguments, "completed"
        self.outbox.send("response.function_call_arguments.done", **where, name=name, arguments=arguments)
        self._item_done(item)

    def close(self, status: str) -> None:
        """End the message that is being said, with what there is of it."""
        item, self.open = self.open, None
        if item is None:
            return
        item.status = status
        text = item.spoken.text if item.spoken is not None else item.text
        if self.speaks:
            self._send("response.output_audio.done", item)
            self._send("response.output_audio_transcript.done", item, transcript=text)
        else:
            self._send("response.output_text.done", item, text=text)
        self._send("response.content_part.done", item, part=self._part(text))
        self._item_done(item)

    def finish(self, status: Status, details: dict[str, Any] | None, usage: Usage | None) -> None:
        self.close("completed" if status == "completed" else "incomplete")
        self.status, self.details, self.usage = status, details, usage or Usage()
        self.outbox.send("response.done", response=self.document())

    def _message(self) -> Item:
        """The message that is being said; begun with the first of it."""
        if self.open is None:
            kind = "output_audio" if self.speaks else "output_text"
            self.open = Item(self._next_item_id(), role="assistant", status="in_progress")
            if self.speaks:
                self.open.spoken = Spoken(read_format(self.settings["audio"]["output"]["format"], "format"))
            self._add(self.open)
            self.open.content = kind
            self._send("response.content_part.added", self.open, part=self._part(""))
        return self.open

    def _next_item_id(self) -> str:
        return self.item_id if not self.items else self.outbox.new_id("item_")

    def _add(self, item: Item) -> None:
        self.items.append(item)
        where = {"response_id": self.id, "output_index": len(self.items) - 1}
        self.outbox.send("response.output_item.added", **where, item=item.document())
        if self.conversation_id is not None:
            before = self.conversation.add(item)
            self.outbox.send("conversation.item.added", item=item.document(), previous_item_id=before)

    def _item_done(self, item: Item) -> None:
        where = {"response_id": self.id, "output_index": self.items.index(item)}
        self.outbox.send("response.output_item.done", **where, item=item.document())
        if self.conversation_id is not None and self.conversation.find(item.id) is item:
            before = self.conversation.before(item.id)
            self.outbox.send("conversation.item.done", item=item.document(), previous_item_id=before)

    def _part(self, text: str) -> dict[str, str]:
        return {"type": "audio", "transcript": text} if self.speaks else {"type": "text", "text": text}

    def _where(self, item: Item) -> dict[str, Any]:
        return {
            "response_id": self.id,
            "item_id": item.id,
            "output_index": self.items.index(item),
            "content_index": 0,
        }

    def _send(self, kind: str, item: Item, **fields: Any) -> None:
        self.outbox.send(kind, **self._where(item), **fields)


def usage_document(usage: Usage) -> dict[str, Any]:
    """Every number, 0 where nothing is known: some clients add them up."""
    text_in = usage.input_tokens - usage.input_audio_tokens
    text_out = usage.output_tokens - usage.output_audio_tokens
    none = {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}
    return {
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "input_token_details": {
            "text_tokens": text_in,
            "audio_tokens": usage.input_audio_tokens,
            "image_tokens": 0,
            "cached_tokens": 0,
            "cached_tokens_details": none,
        },
        "output_token_details": {"text_tokens": text_out, "audio_tokens": usage.output_audio_tokens},
    }
