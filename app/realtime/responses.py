"""The answers of one session: when one begins, what it is made from, and why it ends.

Owns that one answer at a time writes to the conversation, what a request may override, and barge-in. The order of an
answer's events is `answers.py`'s; who thinks and speaks is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import ApiError, InvalidRequest
from app.realtime.answers import Answer
from app.realtime.conversation import Conversation, Item
from app.realtime.fields import (
    TOOL_CHOICES,
    Fields,
    flag,
    free,
    merged,
    read_audio_format,
    read_max_tokens,
    read_modalities,
    read_text,
    read_tools,
    read_voice,
)
from app.realtime.formats import read_format
from app.realtime.items import read_item
from app.realtime.outputs import HistoryPart, IdleTimer, Outbox, Plan, Respond, Stop, failure_document
from app.realtime.session import Session
from backends.interface import Usage

_MOST_METADATA, _KEY_CHARACTERS, _VALUE_CHARACTERS = 16, 64, 512
_MOST_INPUT = 1000
_MOST_AT_ONCE = 16  # answers of one session that are being made, those outside the conversation included


def _or_session(reader: Callable[[Any, Any, str], Any]) -> Callable[[Any, Any, str], Any]:
    """null: as the session says."""
    return lambda current, given, param: current if given is None else reader(current, given, param)


_OVERRIDES: Fields = {
    "instructions": _or_session(read_text),
    "output_modalities": _or_session(read_modalities),
    "tools": _or_session(read_tools),
    "tool_choice": _or_session(free(*TOOL_CHOICES)),
    "max_output_tokens": _or_session(read_max_tokens),
    "parallel_tool_calls": flag(True),
    "prompt": _or_session(free()),
    "reasoning": _or_session(free()),
    "audio": {"output": {"format": _or_session(read_audio_format), "voice": read_voice}},
}
_OTHER_FIELDS = ("conversation", "metadata", "input")


@dataclass(slots=True)
class Responses:
    """The output side of one session. takes_audio: the chat side takes a user's audio itself, without its
    transcript; has_tools: it can call functions; has_spoken: audio was sent."""

    session: Callable[[], Session]
    conversation: Conversation
    conversation_id: str
    outbox: Outbox
    takes_audio: bool = False
    has_tools: bool = False
    has_spoken: bool = False
    _answers: dict[str, Answer] = field(default_factory=dict)
    _wanted: bool = False  # a turn ended while an answer that may not be interrupted was being made

    # --- From the client ----------------------------------------------------------------------------------------------

    def create(self, given: object) -> None:
        """`response.create`. Raises InvalidRequest."""
        if given is not None and not isinstance(given, Mapping):
            raise InvalidRequest("response must be an object.", param="response")
        request = dict(given or {})
        outside = self._is_outside(request)
        if not outside and self._current is not None:
            raise InvalidRequest(
                f"Conversation already has an active response in progress: {self._current.id}. Wait until the response "
                "is finished before creating a new one.",
                code="conversation_already_has_active_response",
            )
        if len(self._answers) >= _MOST_AT_ONCE:
            raise InvalidRequest(f"At most {_MOST_AT_ONCE} responses can be in progress.", code="too_many_responses")
        metadata, items = _metadata(request.get("metadata")), self._items(request.get("input"))
        overrides = {name: value for name, value in request.items() if name not in _OTHER_FIELDS}
        settings = merged(self._settings(), overrides, _OVERRIDES, "response")
        if settings["tools"] and not self.has_tools:
            raise InvalidRequest(
                "The chat deployment of this server calls no functions.",
                param="response.tools",
                code="unsupported_value",
            )
        self._begin(settings, outside=outside, metadata=metadata, items=items)

    def cancel(self, response_id: object) -> None:
        """`response.cancel`. Raises InvalidRequest where nothing is running."""
        answer = self._current if response_id is None else self._answers.get(str(response_id))
        if answer is None:
            raise InvalidRequest(
                "Cancellation failed: no active response found.", code="response_cancel_not_active", param="response_id"
            )
        self._end(answer, "cancelled", {"type": "cancelled", "reason": "client_cancelled"})

    def truncate(self, event: Mapping[str, Any]) -> None:
        """Forget what the user did not get to listen to. Raises InvalidRequest."""
        item = self.conversation.find(event.get("item_id"))
        if item is None or item.content != "output_audio":
            raise InvalidRequest(
                f"There is no spoken answer {str(event.get('item_id'))[:80]!r} to truncate.",
                param="item_id",
                code="item_truncate_invalid_item_id",
            )
        end = event.get("audio_end_ms")
        if isinstance(end, bool) or not isinstance(end, int) or end < 0:
            raise InvalidRequest("audio_end_ms must be a whole number, 0 or more.", param="audio_end_ms")
        if event.get("content_index", 0) != 0:
            raise InvalidRequest("content_index must be 0.", param="content_index")
        if item.spoken is not None:
            end = min(end, item.spoken.milliseconds)
            item.text = item.spoken.text_until(end)
        for answer in self._answers.values():
            answer.cut = answer.cut or answer.open is item
        self.outbox.send("conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=end)

    # --- From turn detection ------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Somebody began to speak."""
        self.outbox.put(IdleTimer(None))
        turns = self.session().turns
        if self._current is not None and turns is not None and turns["interrupt_response"]:
            self._wanted = False
            self._end(self._current, "cancelled", {"type": "cancelled", "reason": "turn_detected"})

    def turn_ended(self) -> None:
        """Turn detection committed what was said."""
        turns = self.session().turns
        if turns is None or not turns["create_response"]:
            return
        if self._current is not None:
            self._wanted = True
        else:
            self._begin(self._settings(), automatic=True)

    def settled(self, item: Item) -> None:
        """The transcript of an item is known, or never will be."""
        for answer in list(self._answers.values()):
            if item.id in answer.waits:
                answer.waits.discard(item.id)
                self._go_on(answer)

    # --- From those who make answers ----------------------------------------------------------------------------------

    def find(self, response_id: str) -> Answer | None:
        """None once it has ended: what still comes of it is dropped."""
        return self._answers.get(response_id)

    def done(self, response_id: str, usage: Usage, *, cut_short: bool = False) -> None:
        """The answer is complete. cut_short: at its longest."""
        if (answer := self._answers.get(response_id)) is not None:
            answer.begun = False
            if cut_short:
                self._end(answer, "incomplete", {"type": "incomplete", "reason": "max_output_tokens"}, usage)
            else:
                self._end(answer, "completed", None, usage)

    def failed(self, response_id: str, error: ApiError) -> None:
        if (answer := self._answers.get(response_id)) is not None:
            answer.begun = False
            details = failure_document(error)
            details.pop("param", None)
            self._end(answer, "failed", {"type": "failed", "error": details})

    @property
    def pending(self) -> bool:
        return bool(self._answers)

    # --- Inside -------------------------------------------------------------------------------------------------------

    @property
    def _current(self) -> Answer | None:
        """The answer that writes to the conversation."""
        return next((answer for answer in self._answers.values() if answer.conversation_id is not None), None)

    def _settings(self) -> dict[str, Any]:
        fields = self.session().fields
        names = ("instructions", "output_modalities", "tools", "tool_choice", "max_output_tokens")
        settings = {name: fields[name] for name in names}
        return settings | {"audio": {"output": dict(fields["audio"]["output"])}}

    def _is_outside(self, request: Mapping[str, Any]) -> bool:
        where = request.get("conversation") or "auto"
        if where not in ("auto", "none"):
            raise InvalidRequest("response.conversation must be auto or none.", param="response.conversation")
        return bool(where == "none")

    def _items(self, given: object) -> list[Item] | None:
        """The items that a request brings instead of the conversation's; None: it brings none."""
        if given is None:
            return None
        if not isinstance(given, list) or len(given) > _MOST_INPUT:
            raise InvalidRequest(f"response.input must be a list of at most {_MOST_INPUT}.", param="response.input")
        return [self._item(item, f"response.input[{index}]") for index, item in enumerate(given)]

    def _item(self, given: object, param: str) -> Item:
        if not isinstance(given, Mapping) or given.get("type") != "item_reference":
            return read_item(given, self.session().input_format, self.outbox.new_id, param)
        if (found := self.conversation.find(given.get("id"))) is None:
            raise InvalidRequest(f"{param}: there is no item {str(given.get('id'))[:80]!r}.", param=f"{param}.id")
        return found

    def _begin(
        self,
        settings: dict[str, Any],
        *,
        automatic: bool = False,
        outside: bool = False,
        metadata: dict[str, str] | None = None,
        items: list[Item] | None = None,
    ) -> None:
        answer = Answer(
            id=self.outbox.new_id("resp_"),
            item_id=self.outbox.new_id("item_"),
            settings=settings,
            conversation_id=None if outside else self.conversation_id,
            metadata=metadata,
            outbox=self.outbox,
            conversation=self.conversation,
            automatic=automatic,
        )
        self._answers[answer.id] = answer
        self.outbox.put(IdleTimer(None))
        self.outbox.send("response.created", response=answer.document())
        history = list(self.conversation) if items is None else items
        answer.sources = history
        answer.verbatim = _verbatim(answer, items, outside=outside)
        if not self.takes_audio:
            answer.waits = {item.id for item in history if not item.settled}
        self._go_on(answer)

    def _go_on(self, answer: Answer) -> None:
        """Have the answer made, once all that it needs is known."""
        if answer.waits or answer.begun:
            return
        last = next((item for item in reversed(answer.sources) if item.role == "user"), None)
        if answer.automatic and last is not None and last.settled and not last.text and not self.takes_audio:
            self._end(answer, "completed", None)  # a noise, to which there is nothing to say
            return
        answer.begun = True
        self.outbox.put(Respond(self._plan(answer)))

    def _plan(self, answer: Answer) -> Plan:
        settings, output = answer.settings, answer.settings["audio"]["output"]
        most = settings["max_output_tokens"]
        return Plan(
            response_id=answer.id,
            item_id=answer.item_id,
            instructions=settings["instructions"],
            history=_history(answer.sources),
            spoken=answer.speaks,
            voice=output["voice"],
            speed=output["speed"],
            format=read_format(output["format"], "format"),
            max_tokens=None if most == "inf" else most,
            tools=tuple(settings["tools"]),
            tool_choice=settings["tool_choice"],
            verbatim=answer.verbatim,
        )

    def _end(self, answer: Answer, status: Any, details: dict[str, Any] | None, usage: Usage | None = None) -> None:
        del self._answers[answer.id]
        if answer.begun:
            self.outbox.put(Stop(answer.id))
        answer.finish(status, details, usage)
        if answer.conversation_id is None:
            return
        if self._wanted:
            self._wanted = False
            self._begin(self._settings(), automatic=True)
        elif status == "completed":
            self._wait_for_speech(answer)

    def _wait_for_speech(self, answer: Answer) -> None:
        """Ask to be told when the user has been silent for long, counted from the end of the answer's audio."""
        turns = self.session().turns
        if turns is not None and turns["idle_timeout_ms"] is not None:
            audio = sum(item.spoken.milliseconds for item in answer.items if item.spoken is not None)
            self.outbox.put(IdleTimer((turns["idle_timeout_ms"] + audio) / 1000))


def _verbatim(answer: Answer, items: list[Item] | None, *, outside: bool) -> str | None:
    """One text of the user's outside the conversation, to be spoken: plain speech synthesis, which needs no chat."""
    if not (outside and answer.speaks and items is not None and len(items) == 1):
        return None
    item = items[0]
    return item.text if item.role == "user" and item.content == "input_text" else None


def _history(items: list[Item]) -> tuple[HistoryPart, ...]:
    """Without what says nothing, such as an answer that was cancelled before its first word."""
    parts = [item.history() for item in items]
    return tuple(part for part in parts if part.text or part.audio or part.call_id)


def _metadata(given: object) -> dict[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or len(given) > _MOST_METADATA:
        raise InvalidRequest(
            f"response.metadata must be an object of at most {_MOST_METADATA} strings.", param="response.metadata"
        )
    for key, value in given.items():
        if not isinstance(value, str) or len(key) > _KEY_CHARACTERS or len(value) > _VALUE_CHARACTERS:
            raise InvalidRequest(
                f"response.metadata.{key[:80]} must be a string of at most {_VALUE_CHARACTERS} characters, "
                f"with a key of at most {_KEY_CHARACTERS}.",
                param="response.metadata",
            )
    return dict(given)
