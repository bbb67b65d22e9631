"""Faults that other servers of this protocol were known for, over a real socket, and a list of where each is tested.

 1 guesses sent as deltas, content_index counted up
       test_core.test_deltas_are_never_taken_back_and_nothing_is_repeated
 2 no content_part events
       test_conversation.test_one_spoken_answer_in_order
 3 an update of one field resets its neighbours
       test_session.test_an_update_is_a_deep_merge
   a cancel ends a transcription
       test_core.test_cancel_does_not_touch_a_transcription
   a failed transcription is not told
       test_transcription.test_a_turn_that_cannot_be_transcribed
 4 an interrupted answer is forgotten
       test_known_faults.test_the_next_answer_knows_the_interrupted_one
 5 keys that do not work over a socket
       test_handshake.test_keys
   no session that only writes down
       test_handshake.test_addresses
 6 a transcription session answers
       test_conversation.test_a_transcription_session_answers_nothing
   one defect ends the session
       test_core.test_a_defect_fails_one_event_alone
 7 updated before created, no tools refused
       test_known_faults.test_created_comes_first_and_an_empty_list_of_tools_is_none
 8 the silence after a turn is transcribed
       test_known_faults.test_a_commit_after_the_servers_own_makes_no_words
 9 a double commit
       test_core.test_a_double_commit_is_one_item_and_one_error_of_the_second
10 a silent end of transcription
       test_known_faults.test_words_after_a_long_silence_are_written_down
   an idle session is closed without a word
       test_handshake.test_idle_and_long_sessions_are_closed_with_a_reason
11 instructions count at the start only
       test_core.test_updates_of_instructions_count_at_once
12 a truncate beyond the end
       test_known_faults.test_a_truncate_beyond_the_end_does_not_silence_the_session
13 a cancel without an answer
       test_known_faults.test_cancel_without_an_answer_is_told_and_no_more
14 response.created is missing or late
       test_core.test_an_answer_is_announced_at_the_commit_and_made_once_the_words_are_known
15 all audio is kept
       test_core.test_a_transcription_session_keeps_no_audio
   all audio of a conversation is kept
       test_core.test_an_hour_of_speech_holds_little
16 commits cut words
       test_known_faults.test_commits_in_the_middle_of_words_lose_no_sound
17 words after the end open a turn
       test_known_faults.test_words_that_come_late_open_no_turn
18 close codes without meaning: shutdown
       test_handshake.test_a_shutdown_ends_sessions_with_1001
   too large a message
       test_hostile.test_a_message_beyond_the_largest_closes_with_1009
19 tools of a transcription session
       test_session.test_a_wrong_update_changes_nothing
"""

from __future__ import annotations

import base64
import importlib
import re

import pytest

from backends.interface import ChatRequest
from backends.live import TurnCommitted, TurnDelta, TurnDone
from tests.app.realtime.test_core import T, core, kinds
from tests.support.live_pool import connected, realtime_server, silence, tone
from tests.support.server import Running

CONVERSATION = "/v1/realtime?model=gpt-realtime"
SPEECH = silence(0.5) + tone(1.0) + silence(1.0)


def test_each_fault_names_tests_that_there_are() -> None:
    assert __doc__ is not None
    named = re.findall(r"^ +(test_\w+)\.(test_\w+)$", __doc__, re.MULTILINE)
    assert [int(number) for number in re.findall(r"^ ?(\d+) ", __doc__, re.MULTILINE)] == list(range(1, 20))
    for module, name in named:
        assert callable(getattr(importlib.import_module(f"tests.app.realtime.{module}"), name)), name
    assert len(named) == len(__doc__.strip().splitlines()[2:]) / 2


def test_created_comes_first_and_an_empty_list_of_tools_is_none(server: Running) -> None:
    """speaches sent `session.updated` before `session.created`, and refused `tools: []` and bare items."""
    with connected(server, CONVERSATION) as socket:
        assert socket.update("realtime", tools=[], instructions="Be nice.")["tools"] == []
        assert socket.kinds() == ["session.created", "session.updated"]
        socket.send("conversation.item.create", item={"role": "user", "content": [{"type": "text", "text": "Hello."}]})
        assert socket.until("conversation.item.done")["item"]["content"] == [{"type": "input_text", "text": "Hello."}]


def test_the_next_answer_knows_the_interrupted_one() -> None:
    """sglang-omni dropped the interrupted turn from the history."""
    with realtime_server() as server, connected(server, CONVERSATION) as socket:
        server.pool.delay = 0.2
        socket.append(SPEECH)
        socket.until("response.output_audio.delta")
        socket.append(SPEECH)
        assert socket.until("response.done")["response"]["status"] == "cancelled"
        server.pool.delay = 0.0
        assert socket.until("response.done")["response"]["status"] == "completed"
        asked = [request for request in server.pool.requests if isinstance(request, ChatRequest)][-1]
        assert [message.role for message in asked.messages] == ["user", "assistant", "user"]
        assert asked.messages[1].parts[0].text == "I heard you."  # type: ignore[union-attr]


def test_a_commit_after_the_servers_own_makes_no_words(server: Running) -> None:
    """lemonade transcribed the silence after a turn, and Whisper thanks for it."""
    with connected(server) as socket:
        socket.append(SPEECH)
        socket.until(f"{T}.completed")
        socket.append(silence(1.0))
        socket.send("input_audio_buffer.commit", event_id="late")
        socket.until("error")
        socket.append(SPEECH)
        socket.until(f"{T}.completed")
        assert len(socket.of("input_audio_buffer.committed")) == len(socket.of("transcription.completed")) == 2


def test_words_after_a_long_silence_are_written_down(server: Running) -> None:
    """vllm stopped writing down at a time-out and kept the socket open."""
    with connected(server) as socket:
        socket.append(silence(120.0), piece=480_000)
        socket.append(SPEECH)
        assert socket.until(f"{T}.completed")["transcript"]


def test_a_truncate_beyond_the_end_does_not_silence_the_session(server: Running) -> None:
    """pipecat saw no audio for the rest of the session."""
    with connected(server, CONVERSATION) as socket:
        for _ in range(2):
            socket.append(SPEECH)
            done = socket.until("response.done")["response"]
            assert done["status"] == "completed"
            assert base64.b64decode(socket.of("output_audio.delta")[-1]["delta"])
            socket.seen.clear()
            socket.send(
                "conversation.item.truncate", item_id=done["output"][0]["id"], content_index=0, audio_end_ms=10**9
            )
            socket.until("conversation.item.truncated")


def test_cancel_without_an_answer_is_told_and_no_more(server: Running) -> None:
    """The JavaScript agents SDK ended calls at it."""
    with connected(server, CONVERSATION) as socket:
        socket.send("response.cancel", event_id="c")
        error = socket.until("error")["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "response_cancel_not_active")
        socket.append(SPEECH)
        assert socket.until("response.done")["response"]["status"] == "completed"


def test_commits_in_the_middle_of_words_lose_no_sound(server: Running) -> None:
    """daintree's client committed every two seconds."""
    with connected(server) as socket:
        socket.update(audio={"input": {"turn_detection": None}})
        for seconds in (2.0, 0.7, 0.1, 1.3):
            socket.append(tone(seconds))
            socket.send("input_audio_buffer.commit")
        for _ in range(4):
            socket.until(f"{T}.completed")
        told = [event["usage"]["seconds"] for event in socket.of("transcription.completed")]
        assert told == pytest.approx([2.0, 0.7, 0.1, 1.3], abs=0.001)
        assert len({event["item_id"] for event in socket.of("input_audio_buffer.committed")}) == 4


def test_words_that_come_late_open_no_turn() -> None:
    """Partials after the end of a turn began phantom turns elsewhere."""
    one = core("transcription")
    one.recognized(TurnCommitted(0, 0.0, 1.0))
    one.recognized(TurnDone(0, " Hello.", 1.0))
    one.take_outputs()
    one.recognized(TurnDelta(0, " Hello."))
    assert one.take_outputs() == []
    one.recognized(TurnDelta(1, " And"))
    assert kinds(one.take_outputs()) == [f"{T}.delta"]
