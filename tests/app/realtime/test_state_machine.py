"""The session core under any order of events: a state machine of client, recognizer and responder.

What holds at every step: each committed item ends in exactly one `completed` or `failed`; deltas joined begin the
transcript; an answer's events come in order between `response.created` and one `response.done`; one answer at a time
writes to the conversation; errors name the client's event.
"""

from __future__ import annotations

import base64
import itertools
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.config.deployments import Deployments
from app.errors import ServiceUnavailable
from app.realtime.core import Core, Opening
from app.realtime.outputs import Audio, Feed, Respond, Send, Stop
from app.realtime.participants import find
from app.realtime.session import Surroundings
from backends.interface import Failed, Usage
from backends.live import (
    CommitRefused,
    LiveClear,
    LiveCleared,
    LiveCommit,
    TurnCommitted,
    TurnDelta,
    TurnDone,
    TurnFailed,
    TurnStarted,
    TurnStopped,
)
from tests.support.server import fake_settings

KNOWN = Deployments.from_settings(fake_settings())
T = "conversation.item.input_audio_transcription"
RANK = {
    name: rank
    for rank, name in enumerate(
        (
            "response.created",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_audio_transcript.delta",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.done",
        )
    )
} | {"response.output_audio.delta": 3, "response.output_text.delta": 3, "response.output_text.done": 4}


class Sessions(RuleBasedStateMachine):
    """One session of either kind."""

    @initialize(kind=st.sampled_from(["realtime", "transcription"]), takes_audio=st.booleans())
    def begin(self, kind: Any, takes_audio: bool) -> None:
        numbers = itertools.count()
        surroundings = Surroundings(lambda name: find(KNOWN, name, "transcription"), transcription="fake-asr")
        opening = Opening(kind, "gpt-realtime" if kind == "realtime" else "", 99, takes_audio=takes_audio)
        self.core = Core(opening, surroundings, lambda prefix: f"{prefix}{next(numbers)}")
        self.kind = kind
        self.fed = 0.0
        self.feeds: list[Any] = []  # for the recognizer
        self.turn, self.start, self.is_open, self.speaks = 0, 0.0, False, False
        self.committed: dict[int, str] = {}
        self.plans: list[Any] = []
        self.ended: set[str] = set()
        self.sent: Counter[str] = Counter()
        self.told: dict[str, str] = {}  # deltas by item
        self.items: set[str] = set()  # committed and not transcribed yet
        self.ranks: dict[str, int] = {}
        self.core.open()
        self.look()

    def look(self) -> None:
        """Take the outputs and check each."""
        for output in self.core.take_outputs():
            match output:
                case Send(event):
                    self.check(event)
                case Audio(data, form):
                    self.fed += form.seconds(len(data))
                case Feed(feed):
                    self.feeds.append(feed)
                case Respond(plan):
                    self.plans.append(plan)
                case Stop(response_id):
                    self.plans = [plan for plan in self.plans if plan.response_id != response_id]

    def check(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert event["event_id"]
        if kind == "input_audio_buffer.committed":
            self.items.add(event["item_id"])
        elif kind == f"{T}.delta":
            self.told[event["item_id"]] = self.told.get(event["item_id"], "") + event["delta"]
        elif kind in (f"{T}.completed", f"{T}.failed"):
            self.items.remove(event["item_id"])
            if kind == f"{T}.completed":
                assert event["transcript"] == self.told.get(event["item_id"], "")
        elif kind.startswith("response."):
            self.check_answer(kind, event)

    def check_answer(self, kind: str, event: dict[str, Any]) -> None:
        assert self.kind == "realtime"
        response_id = event.get("response_id") or event["response"]["id"]
        assert response_id not in self.ended
        assert RANK[kind] >= self.ranks.get(response_id, 0)
        assert (kind == "response.created") == (response_id not in self.ranks)
        self.ranks[response_id] = RANK[kind]
        if kind == "response.done":
            assert event["response"]["status"] != "in_progress"
            self.ended.add(response_id)

    def client(self, kind: str, **fields: Any) -> None:
        self.core.receive({"type": kind, "event_id": "mine", **fields})
        self.look()

    # --- The client ---------------------------------------------------------------------------------------------------

    @rule(size=st.integers(0, 9600))
    def append(self, size: int) -> None:
        self.client("input_audio_buffer.append", audio=base64.b64encode(bytes(size)).decode())

    @rule()
    def commit(self) -> None:
        self.client("input_audio_buffer.commit")

    @rule()
    def clear(self) -> None:
        self.client("input_audio_buffer.clear")

    @rule(
        turns=st.sampled_from([None, {"type": "server_vad"}, {"interrupt_response": False}, {"create_response": False}])
    )
    def update(self, turns: Any) -> None:
        session = {"type": self.kind, "audio": {"input": {"turn_detection": turns}}}
        self.client("session.update", session=session)

    @rule(text=st.sampled_from(["Hi.", "What?"]))
    def write(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        self.client("conversation.item.create", item={"type": "message", "role": "user", "content": content})

    @rule(outside=st.booleans(), spoken=st.booleans())
    def ask(self, outside: bool, spoken: bool) -> None:
        response = {"conversation": "none" if outside else "auto", "output_modalities": ["audio" if spoken else "text"]}
        self.client("response.create", response=response)

    @rule()
    def cancel(self) -> None:
        self.client("response.cancel")

    @rule(end=st.integers(0, 2000))
    def truncate(self, end: int) -> None:
        if spoken := [item.id for item in self.core.conversation if item.content == "output_audio"]:
            self.client("conversation.item.truncate", item_id=spoken[-1], content_index=0, audio_end_ms=end)

    @rule(index=st.integers(0, 5))
    def delete(self, index: int) -> None:
        if ids := [item.id for item in self.core.conversation]:
            self.client("conversation.item.delete", item_id=ids[index % len(ids)])

    # --- The recognizer -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.feeds)
    @rule()
    def answer_feed(self) -> None:
        feed = self.feeds.pop(0)
        if isinstance(feed, LiveClear):
            self.is_open = self.speaks = False
            self.core.recognized(LiveCleared())
        elif isinstance(feed, LiveCommit) and self.fed - self.start >= 0.1:
            self.end_turn()
        else:
            self.core.recognized(CommitRefused(0.0))
        self.look()

    def end_turn(self) -> None:
        self.core.recognized(TurnCommitted(self.turn, self.start, self.fed))
        self.committed[self.turn] = ""
        self.turn, self.start, self.is_open, self.speaks = self.turn + 1, self.fed, False, False

    @precondition(lambda self: self.fed > self.start and not self.speaks)
    @rule()
    def speech_begins(self) -> None:
        self.is_open = self.speaks = True
        self.core.recognized(TurnStarted(self.turn, self.start))
        self.look()

    @precondition(lambda self: self.speaks)
    @rule()
    def speech_ends(self) -> None:
        self.core.recognized(TurnStopped(self.turn, self.fed))
        self.end_turn()
        self.look()

    @precondition(lambda self: self.fed > self.start)
    @rule()
    def words(self) -> None:
        self.core.recognized(TurnDelta(self.turn, " word"))
        self.look()

    @precondition(lambda self: self.committed)
    @rule(works=st.booleans(), empty=st.booleans())
    def transcribed(self, works: bool, empty: bool) -> None:
        number = next(iter(self.committed))
        del self.committed[number]
        item = self.core.turns._turns.get(number)
        sent = item.sent if item else ""
        text = sent if empty else f" {sent} more."
        failed = TurnFailed(number, Failed("internal", "x"))
        self.core.recognized(TurnDone(number, text, 1.0) if works else failed)
        self.look()

    @rule()
    def lost(self) -> None:
        self.core.recognizer_lost(ServiceUnavailable("gone"))
        self.committed.clear()
        self.feeds.clear()
        self.turn, self.start, self.is_open, self.speaks = self.turn + 1, self.fed, False, False
        self.look()
        assert not self.items or self.kind == "realtime"

    # --- The responder ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.plans)
    @rule(what=st.sampled_from(["say", "sound", "done", "cut", "fail"]))
    def make(self, what: str) -> None:
        plan = self.plans[0]
        if what == "say":
            self.core.say(plan.response_id, "Some words. ")
        elif what == "sound" and plan.spoken:
            self.core.sound(plan.response_id, bytes(4800))
        elif what in ("done", "cut"):
            self.plans.pop(0)
            self.core.answered(plan.response_id, Usage(), cut_short=what == "cut")
        elif what == "fail":
            self.plans.pop(0)
            self.core.answer_failed(plan.response_id, ServiceUnavailable("no"))
        self.look()

    # --- Always -------------------------------------------------------------------------------------------------------

    @invariant()
    def one_answer_writes(self) -> None:
        if hasattr(self, "core"):
            writing = [one for one in self.core.responses._answers.values() if one.conversation_id]
            assert len(writing) <= 1

    def teardown(self) -> None:
        """Whatever was begun comes to its end."""
        if not hasattr(self, "core"):
            return
        while self.committed:
            number, _ = self.committed.popitem()
            self.core.recognized(TurnFailed(number, Failed("internal", "x")))
            self.look()
        while self.plans:
            self.core.answered(self.plans.pop(0).response_id, Usage())
            self.look()
        shown = self.kind == "transcription"
        assert not (shown and self.items)
        assert self.ranks.keys() == self.ended


Sessions.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSessions = Sessions.TestCase
