"""Pauses between the tries to start a worker."""

from __future__ import annotations

from app.serving.backoff import Backoff
from app.serving.policy import Policy

POLICY = Policy(first_back_off=0.5, longest_back_off=3.0, crashes=3)


def backoff() -> tuple[Backoff, list[float]]:
    now = [100.0]
    return Backoff(POLICY, lambda: now[0]), now


def test_the_first_crash_is_followed_by_no_pause_and_later_ones_by_doubling_ones() -> None:
    pauses, _ = backoff()
    seen = []
    for _ in range(6):
        pauses.record_crash()
        seen.append(pauses.remaining)
    assert seen == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_requests_wait_for_a_second_crash_and_are_refused_after_a_third() -> None:
    pauses, now = backoff()
    pauses.record_crash()
    pauses.record_crash()
    assert not pauses.refuses
    pauses.record_crash()
    assert pauses.refuses
    now[0] += 1.0
    assert not pauses.refuses


def test_a_failed_load_is_followed_by_a_pause_in_which_requests_are_refused() -> None:
    pauses, _ = backoff()
    pauses.record_failed_load()
    assert pauses.remaining == 0.5
    assert pauses.refuses
    pauses.record_failed_load()
    assert pauses.remaining == 1.0


def test_crashes_count_until_a_job_has_finished() -> None:
    pauses, _ = backoff()
    pauses.record_crash()
    pauses.record_load()
    pauses.record_crash()
    assert pauses.failures == 2
    pauses.record_done()
    assert (pauses.failures, pauses.remaining) == (0, 0.0)
