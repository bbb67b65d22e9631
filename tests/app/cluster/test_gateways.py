"""Several gateways over one cluster: updates, a drain, a gateway that is killed, and one without the token."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from backends import children
from tests.app.cluster.conftest import CONFIGURATION
from tests.support.audio import wav_of
from tests.support.ray_cluster import VARIABLES, Machines, gateway_on, process_of, replicas, running
from tests.support.waiting import LIMIT, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
KEY = {"api-key": "k"}
LOST = 0  # instead of a status


def _ask(url: str, name: str) -> int:
    files, where = {"file": wav_of(2)}, f"{url}/v1/audio/transcriptions"
    try:
        return httpx.post(where, headers=KEY, data={"model": name}, files=files, timeout=LIMIT).status_code
    except httpx.TransportError:
        return LOST


def _pids(url: str, name: str) -> set[int]:
    return {int(row["pid"]) for row in replicas(url, name).values()}


@contextmanager
def _asking(url: str, name: str, clients: int) -> Iterator[list[int]]:
    """Clients that ask one after the other until the block ends; gives the statuses."""
    over, statuses = threading.Event(), list[int]()

    def ask() -> None:
        while not over.is_set():
            statuses.append(_ask(url, name))

    with ThreadPoolExecutor(clients) as threads:
        for _ in range(clients):
            threads.submit(ask)
        try:
            yield statuses
        finally:
            over.set()


def test_an_update_loses_no_request_and_leaves_alone_what_did_not_change(
    over_the_cluster: str, two_machines: Machines, tmp_path: Path
) -> None:
    url = over_the_cluster
    wait_until(lambda: len(replicas(url, "rolling")) == len(replicas(url, "asr")) == 2)
    before, same = _pids(url, "rolling"), _pids(url, "asr")
    changed = tmp_path / "gateway.toml"
    changed.write_text(CONFIGURATION.replace("steps = 5\n", "steps = 6\n"), encoding="utf-8")
    with _asking(url, "rolling", 4) as statuses:
        wait_until(lambda: len(statuses) > 8)
        with gateway_on(two_machines, changed, tmp_path / "log.txt") as second:
            wait_until(lambda: not before & _pids(url, "rolling") and len(replicas(url, "rolling")) == 2)
            asked = len(statuses)
            wait_until(lambda: len(statuses) > asked + 8)
            assert _ask(second, "rolling") == 200
    assert set(statuses) == {200}
    assert _pids(url, "asr") == same


def test_a_gateway_that_is_killed_costs_its_own_requests_alone(
    over_the_cluster: str, two_machines: Machines, configuration: Path, tmp_path: Path
) -> None:
    """And the next one finds the models loaded."""
    url = over_the_cluster
    with gateway_on(two_machines, configuration, tmp_path / "log.txt") as second, ThreadPoolExecutor(16) as threads:
        own: list[Future[int]] = [threads.submit(_ask, second, "slow") for _ in range(8)]
        wait_until(lambda: running(url, "slow") == 8)
        others = [threads.submit(_ask, url, "slow") for _ in range(8)]
        wait_until(lambda: running(url, "slow") == 16)
        process_of(second).kill()
        assert {one.result(LIMIT) for one in own} == {LOST}
        assert {one.result(LIMIT) for one in others} == {200}
    wait_until(lambda: running(url, "slow") == 0)
    before = _pids(url, "slow")
    with gateway_on(two_machines, configuration, tmp_path / "log.txt") as third:
        assert _ask(third, "asr") == 200
        wait_until(lambda: _pids(third, "slow") == before)


def test_a_gateway_that_is_told_to_end_answers_what_it_has(
    over_the_cluster: str, two_machines: Machines, configuration: Path, tmp_path: Path
) -> None:
    url = over_the_cluster
    with gateway_on(two_machines, configuration, tmp_path / "log.txt") as second, ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(_ask, second, "slow") for _ in range(4)]
        wait_until(lambda: running(url, "slow") == 4)
        process_of(second).terminate()
        assert {one.result(LIMIT) for one in asked} == {200}
    assert running(url, "slow") == 0


def test_without_the_token_nobody_joins(two_machines: Machines, configuration: Path) -> None:
    command = children.command("app", "--config", str(configuration), "--cluster", two_machines.address)
    variables = {**children.environment(), **VARIABLES, "RAY_AUTH_TOKEN": "another token " * 3}
    done = subprocess.run(command, env=variables, capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert b"cannot join the cluster" in done.stderr
    assert b"Traceback" not in done.stderr
