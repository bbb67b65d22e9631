"""Transcription sessions over a real socket: both kinds of turns, the order of events, and what each item ends in."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.errors import ModelUnavailable, Overloaded
from backends.interface import Failed
from tests.support.live_pool import NAMES, Socket, connected, realtime_server, silence, tone
from tests.support.server import Running, fake_settings, running
from tests.support.waiting import wait_until

SPEECH = silence(0.5) + tone(2.0) + silence(1.0)
T = "conversation.item.input_audio_transcription"


def _no_errors(socket: Socket) -> None:
    assert not socket.of("error")


def test_a_turn_that_the_server_finds(server: Running) -> None:
    with connected(server) as socket:
        assert socket.seen[0]["type"] == "session.created"
        session = socket.update(audio={"input": {"transcription": {"model": "fake-asr", "language": "en"}}})
        assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"
        socket.append(SPEECH)
        done = socket.until(f"{T}.completed")
        kinds = [kind for kind in socket.kinds()[2:] if kind != f"{T}.delta"]
        assert kinds == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            f"{T}.completed",
        ]
        ids = {event.get("item_id") or event["item"]["id"] for event in socket.seen[2:]}
        assert len(ids) == 1
        assert (
            "".join(event["delta"] for event in socket.of(".delta")) == done["transcript"] == "one two three four five"
        )
        assert done["usage"]["type"] == "duration"
        assert done["usage"]["seconds"] == pytest.approx(2.8, abs=0.1)
        started, stopped = socket.of("speech_started")[0], socket.of("speech_stopped")[0]
        assert started["audio_start_ms"] == pytest.approx(200, abs=40)  # with 300 ms before the speech
        assert stopped["audio_end_ms"] == pytest.approx(3000, abs=40)  # with 500 ms of silence


def test_turns_that_the_client_ends(server: Running) -> None:
    with connected(server) as socket:
        session = socket.update(audio={"input": {"turn_detection": None}})
        assert session["audio"]["input"]["turn_detection"] is None
        for _ in range(2):
            socket.append(tone(1.0))
            assert socket.until(f"{T}.delta")["delta"] == "one"  # before the commit
            socket.send("input_audio_buffer.commit")
            assert socket.until(f"{T}.completed")["transcript"] == "one two"
        first, second = socket.of("committed")
        assert (first["previous_item_id"], second["previous_item_id"]) == (None, first["item_id"])
        assert not socket.of("speech_started")
        _no_errors(socket)


def test_the_end_that_openai_agents_sends(server: Running) -> None:
    """Commit and clear after the server's own commit: an error for that commit, then `cleared`."""
    with connected(server) as socket:
        socket.append(SPEECH)
        socket.until(f"{T}.completed")
        socket.send("input_audio_buffer.commit", event_id="abc")
        socket.send("input_audio_buffer.clear")
        error = socket.until("error")["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "abc")
        assert "buffer too small. Expected at least 100ms of audio" in error["message"]
        socket.until("input_audio_buffer.cleared")


def test_exactly_a_tenth_of_a_second_can_be_committed(server: Running) -> None:
    with connected(server) as socket:
        socket.update(audio={"input": {"turn_detection": None}})
        socket.append(tone(0.1))
        socket.send("input_audio_buffer.commit")
        assert socket.until("input_audio_buffer.committed", "error")["type"] == "input_audio_buffer.committed"
        socket.until(f"{T}.completed")
        socket.append(tone(0.05))
        socket.send("input_audio_buffer.commit", event_id="short")
        assert socket.until("error")["error"]["event_id"] == "short"


def test_clear_forgets_what_was_appended(server: Running) -> None:
    with connected(server) as socket:
        socket.update(audio={"input": {"turn_detection": None}})
        socket.send("input_audio_buffer.clear")
        socket.until("input_audio_buffer.cleared")
        socket.append(tone(1.0))
        socket.send("input_audio_buffer.clear")
        socket.until("input_audio_buffer.cleared")
        socket.append(tone(0.5))
        socket.send("input_audio_buffer.commit")
        assert socket.until(f"{T}.completed")["transcript"] == "one"


def test_a_turn_that_cannot_be_transcribed(server: Running) -> None:
    pool = server.pool
    pool.fail_turn = 1
    try:
        with connected(server) as socket:
            socket.append(SPEECH)
            failed = socket.until(f"{T}.failed", f"{T}.completed")
            assert failed["type"] == f"{T}.failed"
            assert None not in failed["error"].values()
            socket.append(SPEECH)
            done = socket.until(f"{T}.completed")
            assert done["item_id"] != failed["item_id"]
            _no_errors(socket)
    finally:
        pool.fail_turn = 0


def test_a_lost_model_fails_what_was_committed_and_the_next_audio_begins_again() -> None:
    with realtime_server() as server, connected(server) as socket:
        socket.update(audio={"input": {"turn_detection": None}})
        socket.append(tone(1.0))
        socket.until(f"{T}.delta")
        server.do(lambda: server.pool.live[0].lose(Failed("worker_lost", "the worker has ended")))
        assert socket.until("error")["error"]["code"] == "worker_lost"
        wait_until(lambda: not server.pool.live)


def test_other_formats(server: Running) -> None:
    with connected(server) as socket:
        for form in ({"type": "audio/pcmu"}, {"type": "audio/pcma"}, {"type": "audio/pcm", "rate": 16_000}):
            session = socket.update(audio={"input": {"format": form, "turn_detection": None}})
            assert session["audio"]["input"]["format"] == form
            data = tone(1.0, 16_000) if "rate" in form else b"\x20\xa0" * 4000
            socket.append(data)
            socket.send("input_audio_buffer.commit")
            done = socket.until(f"{T}.completed")
            assert done["usage"]["seconds"] == pytest.approx(1.0, abs=0.001)
            assert done["transcript"] == "one two"
        _no_errors(socket)


def test_pieces_of_any_size_are_one_stream(server: Running) -> None:
    """An odd byte is carried over; thousands of tiny pieces cost no more than a few."""
    with connected(server) as socket:
        socket.update(audio={"input": {"turn_detection": None}})
        socket.append(tone(0.5), piece=7)
        socket.send("input_audio_buffer.commit")
        done = socket.until(f"{T}.completed")
        assert done["usage"]["seconds"] == pytest.approx(0.5, abs=0.001)
        assert done["transcript"] == "one"


def test_semantic_turns_become_server_turns_and_the_session_says_so(server: Running) -> None:
    with connected(server) as socket:
        lengths = []
        for eagerness in ("low", "medium", "high"):
            turns = {"type": "semantic_vad", "eagerness": eagerness}
            shown = socket.update(audio={"input": {"turn_detection": turns}})["audio"]["input"]["turn_detection"]
            assert shown["type"] == "server_vad"
            lengths.append(shown["silence_duration_ms"])
        assert lengths == sorted(lengths, reverse=True) == [1600, 800, 500]


def test_a_change_back_from_semantic_turns_brings_the_default_silence(server: Running) -> None:
    with connected(server) as socket:

        def shown(**turns: Any) -> dict[str, Any]:
            found: dict[str, Any] = socket.update(audio={"input": {"turn_detection": turns}})
            return dict(found["audio"]["input"]["turn_detection"])

        assert shown(type="semantic_vad", eagerness="low", idle_timeout_ms=None)["silence_duration_ms"] == 1600
        assert shown(eagerness="high")["silence_duration_ms"] == 500
        assert shown(type="semantic_vad", eagerness="low")["silence_duration_ms"] == 1600
        assert shown(type="semantic_vad")["silence_duration_ms"] == 1600  # absent keeps
        again = shown(type="server_vad", eagerness="low")
        assert (again["silence_duration_ms"], "eagerness" in again) == (500, False)
        shown(type="server_vad", silence_duration_ms=700)
        assert shown(type="server_vad")["silence_duration_ms"] == 700


def test_a_session_that_could_not_be_served_is_refused_before_the_upgrade(server: Running) -> None:
    server.pool.refuse_live = Overloaded("The server is at its limit.", retry_after=10.0)
    try:
        with pytest.raises(InvalidStatus) as refused, connected(server):
            pass
    finally:
        server.pool.refuse_live = None
    answer = refused.value.response
    assert answer.status_code == 429
    assert b"at its limit" in answer.body
    assert answer.headers["retry-after"] == "10"


def test_a_conversation_that_could_not_be_followed_is_refused_before_the_upgrade(server: Running) -> None:
    server.pool.refuse_live = Overloaded("The server is at its limit.", retry_after=10.0)
    try:
        for target in ("/v1/realtime?model=gpt-realtime", "/v1/realtime"):
            with pytest.raises(InvalidStatus) as refused, connected(server, target):
                pass
            assert refused.value.response.status_code == 429
    finally:
        server.pool.refuse_live = None


@pytest.mark.parametrize("target", ["/v1/realtime?model=gpt-realtime", "/v1/realtime"])
def test_a_session_that_finds_no_room_later_is_closed_with_1013(server: Running, target: str) -> None:
    """So that its client dials again later, and is not left talking to nobody."""
    with connected(server, target) as socket:
        server.pool.refuse_live = Overloaded("The server is at its limit.", retry_after=10.0)
        try:
            socket.append(tone(0.1))
            assert socket.until("error")["error"]["type"] == "rate_limit_error"
            with pytest.raises(ConnectionClosed) as closed:
                socket.until("never")
        finally:
            server.pool.refuse_live = None
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, "no room" in closed.value.rcvd.reason) == (1013, True)


def test_a_default_that_is_not_there_keeps_nobody_from_naming_another() -> None:
    with realtime_server() as server:
        server.pool.refuse_live = ModelUnavailable("fake-asr is not there.")
        with connected(server) as socket:
            assert socket.kinds() == ["session.created"]
            server.pool.refuse_live = None
            socket.update(audio={"input": {"transcription": {"model": "team/asr model"}}})
            socket.append(SPEECH)
            socket.until(f"{T}.completed")
            assert server.pool.owners
        server.pool.refuse_live = ModelUnavailable("fake-asr is not there.")
        with connected(server, "/v1/realtime") as socket:
            socket.update("transcription", audio={"input": {"turn_detection": None}})
            socket.append(tone(0.5))
            assert socket.until("error")["error"]["code"] == "ModelUnavailable"
            socket.append(tone(0.5))
            socket.send("input_audio_buffer.commit", event_id="c")
            assert socket.until("error")["error"]["event_id"] == "c"


def test_through_the_process_of_a_model() -> None:
    settings = fake_settings(realtime=NAMES)
    with running(settings, real=True) as server, connected(server) as socket:
        socket.append(SPEECH)
        assert socket.until(f"{T}.completed")["transcript"]
        _no_errors(socket)


def test_nothing_is_left_behind(server: Running) -> None:
    with connected(server) as socket:
        socket.append(tone(1.0))
        socket.until("input_audio_buffer.speech_started")
        socket.connection.socket.close()
    wait_until(lambda: server.pool.active == 0 and server.gateway.in_flight == 0 and server.gateway.realtime.count == 0)
