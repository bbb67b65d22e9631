"""Which replica is taken for the next job, and what counts as under way."""

from __future__ import annotations

import pytest

from app.cluster.board import Board, rank


def test_a_free_slot_goes_before_speed_and_speed_before_emptiness() -> None:
    assert rank(0, 4, 0.5) < rank(4, 4, 0.01)
    assert rank(2, 4, 0.1) < rank(0, 4, 0.5)
    assert rank(1, 4, 0.1) < rank(2, 4, 0.1)


def test_a_call_counts_from_its_choice_to_its_end() -> None:
    board = Board()
    board.choose("1", "a")
    assert board.under_way("a") == 1
    board.send("1", "b")  # the first choice was full
    assert (board.under_way("a"), board.under_way("b")) == (0, 1)
    board.end("1")
    assert board.under_way("b") == 0


def test_the_replica_of_a_call_that_broke_off_comes_last_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead and without jobs, it would else be the first choice until Serve notices."""
    board = Board()
    board.send("1", "a")
    board.end("1")  # Serve tells the end before the caller learns that it was none
    board.fail("1")
    board.fail("unknown")
    assert (board.is_suspect("a"), board.is_suspect("b")) == (True, False)
    assert rank(4, 4, 0.5) < rank(0, 4, 0.01, suspect=True)
    monkeypatch.setattr("app.cluster.board._SUSPECT_SECONDS", -1.0)
    assert not board.is_suspect("a")


def test_ended_calls_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.board._MOST_ENDED", 1)
    board = Board()
    for call, replica in (("1", "a"), ("2", "b")):
        board.send(call, replica)
        board.end(call)
        board.fail(call)
    board.fail("1")
    assert (board.is_suspect("a"), board.is_suspect("b")) == (True, True)
    assert list(board._ended) == ["2"]
