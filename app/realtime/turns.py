"""The client's speech: the buffer it appends to, the turns the recognizer finds, and what becomes of each.

Owns the order of one turn's events and that every committed item ends in exactly one `completed` or `failed`. Where
turns begin and end is the recognizer's decision. Knows nothing of answers: `TurnHooks` tells who does.
"""

from __future__ import annotations

import binascii
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.errors import ApiError, InvalidRequest, from_failure
from app.realtime.conversation import Conversation, Item
from app.realtime.outputs import Audio, Diarize, Feed, Outbox, failure_document
from app.realtime.session import Session
from app.realtime.speakers import Speakers
from app.realtime.tape import Tape
from backends.interface import Segment, SpeakerTurns, TokenLogprob
from backends.live import (
    CommitRefused,
    LiveClear,
    LiveCleared,
    LiveCommit,
    LiveEvent,
    TurnCommitted,
    TurnDelta,
    TurnDone,
    TurnFailed,
    TurnStarted,
    TurnStopped,
)

LEAST_COMMIT_MS = 100  # of audio that the client may commit
MOST_APPEND_BYTES = 15 * 1024 * 1024  # of audio in one event
_BEFORE_SPEECH_SECONDS = 60.0  # kept while nobody speaks: more than a turn's padding and the recognizer's delay
_SILENCE = -1  # number of the turn that is only silence
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


class TurnHooks(Protocol):
    """What else has to happen."""

    def speech_began(self) -> None: ...

    def turn_committed(self, item: Item, *, detected: bool) -> None:
        """detected: by turn detection, not by the client."""

    def turn_settled(self, item: Item) -> None:
        """Its transcript is known, or never will be."""


@dataclass(slots=True)
class _Turn:
    item_id: str
    sent: str = ""  # of its text, in deltas
    detected: bool = False
    item: Item | None = None  # once committed
    done: TurnDone | None = None  # once its words are known
    awaits_speakers: bool = False
    speakers: SpeakerTurns | None = None  # once they are told apart, where that was asked for


@dataclass(slots=True)
class Turns:
    """The input side of one session. session: as it is now, which may be another one later."""

    session: Callable[[], Session]
    conversation: Conversation
    outbox: Outbox
    tape: Tape
    hooks: TurnHooks
    _turns: dict[int, _Turn] = field(default_factory=dict)
    _commits: deque[str | None] = field(default_factory=deque)  # event ids of the client's, not yet answered
    _last_commit: str | None = None
    _clears: int = 0
    _open: int | None = None  # the turn in which somebody speaks
    _is_fed: bool = False
    _last_end: float = 0.0  # of the last turn
    _speakers: Speakers = field(default_factory=Speakers)
    _newest: int = -1  # largest number of a turn so far

    # --- From the client ----------------------------------------------------------------------------------------------

    def append(self, event: Mapping[str, Any]) -> None:
        """Raises InvalidRequest."""
        form = self.session().input_format
        data = self.tape.push(_decoded(event.get("audio")), form)
        if self._open is None:
            self.tape.forget(self.tape.seconds - _BEFORE_SPEECH_SECONDS)
        if data:
            self._is_fed = True
            self.outbox.put(Audio(data, form))

    def commit(self, event_id: str | None) -> None:
        """Raises InvalidRequest where nothing was appended yet; else the recognizer answers."""
        if not self._is_fed:
            raise _too_short(0.0)
        self._commits.append(event_id)
        self.outbox.put(Feed(LiveCommit()))

    def clear(self) -> None:
        if not self._is_fed:
            self.outbox.send("input_audio_buffer.cleared")
            return
        self._clears += 1
        self.outbox.put(Feed(LiveClear()))

    def commit_silence(self) -> None:
        """The user has been silent for long: that becomes a turn, to which there is an answer."""
        turn = _Turn(self.outbox.new_id("item_"), detected=True)
        start, end = self._last_end, self.tape.seconds
        self.outbox.send(
            "input_audio_buffer.timeout_triggered",
            item_id=turn.item_id,
            audio_start_ms=_ms(start),
            audio_end_ms=_ms(end),
        )
        self._turns[_SILENCE] = turn
        self._committed(TurnCommitted(_SILENCE, start, end))
        self._done(TurnDone(_SILENCE, "", end - start))

    # --- From the recognizer ------------------------------------------------------------------------------------------

    def take(self, event: LiveEvent) -> None:
        """One event of the live job. Turns and times count over the whole session."""
        match event:
            case TurnStarted():
                self._started(event)
            case TurnStopped():
                turn = self._turn(event.turn)
                turn.detected = True
                self.outbox.send("input_audio_buffer.speech_stopped", item_id=turn.item_id, audio_end_ms=_ms(event.end))
            case TurnDelta():
                if event.turn in self._turns or event.turn > self._newest:  # else late words of a turn that is over
                    self._delta(self._turn(event.turn), event.text, event.logprobs)
            case TurnCommitted():
                self._committed(event)
            case TurnDone():
                self._done(event)
            case TurnFailed():
                self._failed(event.turn, from_failure(event.failure))
            case CommitRefused():
                self.outbox.error(_too_short(event.seconds), self._answered_commit())
            case LiveCleared():
                self._cleared()

    def lost(self, error: ApiError) -> None:
        """The recognizer has ended; what it had not finished fails. The next audio begins a new one."""
        for number in [number for number, turn in self._turns.items() if turn.item is not None and turn.done is None]:
            self._failed(number, error)
        self._turns = {number: turn for number, turn in self._turns.items() if turn.done is not None}
        self._open, self._is_fed = None, False
        event_id = self._commits[0] if self._commits else None
        self._commits.clear()
        self.outbox.error(error, event_id)
        while self._clears:
            self._cleared()

    def diarized(self, number: int, found: SpeakerTurns | ApiError) -> None:
        """Who speaks in a turn. The words of one whose speakers cannot be told apart are sent without them."""
        turn = self._turns.get(number)
        if turn is None:
            return
        turn.awaits_speakers = False
        if isinstance(found, ApiError):
            self.outbox.error(found)
        else:
            turn.speakers = found
        if turn.done is not None:
            self._complete(number, turn, turn.done)

    @property
    def pending(self) -> bool:
        """Whether the client still waits for something of a turn."""
        return bool(self._commits or self._clears) or any(turn.item is not None for turn in self._turns.values())

    def _started(self, event: TurnStarted) -> None:
        turn = self._turn(event.turn)
        self._open = event.turn
        self.tape.forget(event.start)
        self.outbox.send("input_audio_buffer.speech_started", item_id=turn.item_id, audio_start_ms=_ms(event.start))
        self.hooks.speech_began()

    def _committed(self, event: TurnCommitted) -> None:
        turn = self._turn(event.turn)
        if not turn.detected:
            self._answered_commit()
        if self._open == event.turn:
            self._open = None
        self._last_end = event.end
        audio, form = self.tape.cut(event.start, event.end)
        self.tape.forget(event.end)
        turn.item = Item(
            turn.item_id, role="user", content="input_audio", audio=audio, format=form, settled=False,
            shown=self.session().transcribes,
        )  # fmt: skip
        before = self.conversation.add(turn.item)
        self.outbox.send("input_audio_buffer.committed", item_id=turn.item_id, previous_item_id=before)
        document = turn.item.document()
        self.outbox.send("conversation.item.added", item=document, previous_item_id=before)
        self.outbox.send("conversation.item.done", item=document, previous_item_id=before)
        self._diarize(event, turn, turn.item)
        self.hooks.turn_committed(turn.item, detected=turn.detected)

    def _diarize(self, event: TurnCommitted, turn: _Turn, item: Item) -> None:
        """Have the speakers told apart while the words are being written, if that is asked for."""
        diarizer = self.session().diarizer
        if diarizer is not None and item.audio and event.turn != _SILENCE:
            turn.awaits_speakers = True
            self.outbox.put(Diarize(event.turn, diarizer, item.audio, item.format, event.end - event.start))

    def _delta(self, turn: _Turn, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        """Deltas joined are the beginning of the transcript, which starts without a space."""
        text = text if turn.sent else text.lstrip()
        if not text:
            return
        turn.sent += text
        if self.session().transcribes:
            fields = {"item_id": turn.item_id, "content_index": 0, "delta": text, **self._logprobs(logprobs)}
            self.outbox.send(f"{_TRANSCRIPTION}.delta", **fields)

    def _done(self, event: TurnDone) -> None:
        turn = self._turns.get(event.turn)
        if turn is None or turn.item is None:
            self._turns.pop(event.turn, None)
            return
        text = event.text.strip()
        if text.startswith(turn.sent):
            self._delta(turn, text[len(turn.sent) :])
        turn.item.text, turn.done = text, event
        if not (text and turn.awaits_speakers):
            self._complete(event.turn, turn, event)
        self._settle(turn.item)

    def _complete(self, number: int, turn: _Turn, event: TurnDone) -> None:
        """Tell the client what was said, and by whom if that is known."""
        del self._turns[number]
        if turn.speakers is not None:
            self._segments(turn.item_id, self._speakers.segments(event.segments, turn.speakers))
        if self.session().transcribes:
            languages = {"languages": [{"code": event.language}]} if event.language else {}
            self.outbox.send(
                f"{_TRANSCRIPTION}.completed",
                item_id=turn.item_id,
                content_index=0,
                transcript=event.text.strip(),
                usage={"type": "duration", "seconds": round(event.seconds, 3)},
                **languages,
                **self._logprobs(event.logprobs),
            )

    def _segments(self, item_id: str, segments: Sequence[Segment]) -> None:
        """Times are seconds of the turn."""
        for segment in segments:
            self.outbox.send(
                f"{_TRANSCRIPTION}.segment",
                id=f"seg_{segment.id:03d}",
                item_id=item_id,
                content_index=0,
                start=round(segment.start, 3),
                end=round(segment.end, 3),
                text=segment.text.strip(),
                speaker=segment.speaker,
            )

    def _failed(self, number: int, error: ApiError) -> None:
        turn = self._turns.pop(number, None)
        if turn is None or turn.item is None:
            return
        if self.session().transcribes:
            fields = {"item_id": turn.item_id, "content_index": 0, "error": failure_document(error)}
            self.outbox.send(f"{_TRANSCRIPTION}.failed", **fields)
        self._settle(turn.item)

    def _settle(self, item: Item) -> None:
        item.settled = True
        self.hooks.turn_settled(item)

    def _cleared(self) -> None:
        for number in [number for number, turn in self._turns.items() if turn.item is None]:
            del self._turns[number]
        self._open = None
        self._clears = max(0, self._clears - 1)
        self.outbox.send("input_audio_buffer.cleared")

    def _turn(self, number: int) -> _Turn:
        """Its item's id is fixed from its first event on."""
        if number not in self._turns:
            self._turns[number] = _Turn(self.outbox.new_id("item_"))
            self._newest = max(self._newest, number)
        return self._turns[number]

    def _answered_commit(self) -> str | None:
        """The event id of the oldest commit. A turn that ended by itself may have taken it: then of the last one."""
        if self._commits:
            self._last_commit = self._commits.popleft()
        return self._last_commit

    def _logprobs(self, logprobs: tuple[TokenLogprob, ...]) -> dict[str, Any]:
        if not (logprobs and self.session().logprobs):
            return {}
        return {"logprobs": [{"token": p.token, "bytes": list(p.bytes), "logprob": p.logprob} for p in logprobs]}


def _decoded(audio: object) -> bytes:
    if not isinstance(audio, str):
        raise InvalidRequest("audio must be a base64 string.", param="audio")
    try:
        data = binascii.a2b_base64(audio, strict_mode=True)
    except ValueError as error:
        raise InvalidRequest(f"audio is not valid base64: {error}.", param="audio") from None
    if len(data) > MOST_APPEND_BYTES:
        raise InvalidRequest(
            f"audio has {len(data)} bytes; one event may hold {MOST_APPEND_BYTES}.",
            param="audio",
            code="buffer_size_exceeded",
        )
    return data


def _too_short(seconds: float) -> InvalidRequest:
    return InvalidRequest(
        f"Error committing input audio buffer: buffer too small. Expected at least {LEAST_COMMIT_MS}ms of audio, "
        f"but buffer only has {seconds * 1000:.2f}ms of audio.",
        code="input_audio_buffer_commit_empty",
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
