"""The rule for the number of replicas, and its form as Ray Serve calls it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.cluster.autoscaling import SlotsAndQueue, replicas_wanted


@pytest.mark.parametrize(
    ("in_use", "queued", "wanted"),
    [(0, 0, 0), (3, 0, 1), (4, 0, 4 / 3), (0, 80, 1), (6, 160, 4)],
)
def test_slots_in_use_and_queued_seconds_are_added(in_use: float, queued: float, wanted: float) -> None:
    assert replicas_wanted(in_use, queued, 4, utilisation=0.75, wait_seconds=20) == pytest.approx(wanted)


def _context(requests: float = 0, target: int = 0, **reports: dict[str, float]) -> SimpleNamespace:
    return SimpleNamespace(aggregated_metrics=reports, total_num_requests=requests, target_num_replicas=target)


def test_replicas_share_the_running_work_and_see_one_queue() -> None:
    context = _context(slots={"a": 4.0, "b": 4.0}, in_use={"a": 3.0, "b": 3.0}, queued_seconds={"a": 160.0, "b": 120.0})
    assert SlotsAndQueue(0.75, 20)(context) == (4, {})


def test_nothing_to_do_wants_no_replica() -> None:
    assert SlotsAndQueue(0.75, 20)(_context(slots={"a": 4.0}, in_use={"a": 0.0}, queued_seconds={"a": 0.0})) == (0, {})


def test_without_reports_a_waiting_call_starts_the_first_replica() -> None:
    assert SlotsAndQueue(0.75, 20)(_context(requests=3)) == (1, {})
    assert SlotsAndQueue(0.75, 20)(_context(requests=0, target=2)) == (2, {})
