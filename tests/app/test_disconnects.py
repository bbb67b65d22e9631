"""Clients that leave anywhere, at a gateway process with real workers: nothing stays behind and their work stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts.disconnects import MOST_STEPS_AFTER, UNANSWERED, configuration, steps_after, storm
from scripts.stress.fuzzing.ordinary import ordinary
from scripts.stress.gateway_process import WatchedGateway, watched_gateway

CLIENTS = 64
MODELS = ("hear", "slow", "narrow", "speak", "ask", "steps")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedGateway]:
    with watched_gateway(configuration(tiny=False), tmp_path_factory.mktemp("gateway")) as one:
        with ThreadPoolExecutor(len(MODELS)) as pool:
            assert list(pool.map(lambda name: ordinary(one.port, name)[0], MODELS)) == [200] * len(MODELS)
        yield one


def test_clients_that_leave_anywhere_leave_nothing_behind(gateway: WatchedGateway) -> None:
    before = gateway.settled()
    tally = storm(gateway, CLIENTS, seed=3, clients=12, tiny=False)
    assert sum(tally.values()) == CLIENTS
    assert {way[:3] for _, way in tally} == {"FIN", "RST"}
    assert Counter(way for _, way in tally if way.endswith(UNANSWERED)) == {}
    assert gateway.remains(before) == []
    after = gateway.holdings()
    assert {name: after["pids"][name] for name in MODELS} == {name: before["pids"][name] for name in MODELS}
    assert [ordinary(gateway.port, name)[0] for name in ("hear", "narrow", "speak", "ask")] == [200] * 4
    assert gateway.problems() == []


@pytest.mark.parametrize("seed", [1, 2])
def test_the_work_for_a_client_that_left_stops_within_a_step(gateway: WatchedGateway, seed: int) -> None:
    before = int(gateway.settled()["steps"]["steps"])
    extra, _ = steps_after(gateway, seed, before)
    assert extra <= MOST_STEPS_AFTER


def test_what_is_left_is_told(gateway: WatchedGateway) -> None:
    before = gateway.settled()
    lied = before | {"files": before["files"] - 1, "children": 0, "tasks": {}, "decoders_free": 3}
    assert len(gateway.remains(lied, patience=0.0)) == 3 + len(before["tasks"])
