"""Which replica is taken for the next job, and what counts as under way."""

from __future__ import annotations

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
