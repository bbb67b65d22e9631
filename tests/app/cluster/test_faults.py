"""What is lost with a process, a machine or a client of a cluster, and what is not: over Ray, on two machines."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.support.audio import wav_of
from tests.support.ray_cluster import Machines, model_process, replicas, running
from tests.support.waiting import LIMIT, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
KEY = {"api-key": "k"}


def _ask(url: str, name: str, *, stream: bool = False) -> tuple[int, str]:
    """Status and text of one request."""
    data = {"model": name, **({"stream": "true"} if stream else {})}
    files = {"file": wav_of(50)}
    answer = httpx.post(f"{url}/v1/audio/transcriptions", headers=KEY, data=data, files=files, timeout=LIMIT)
    return answer.status_code, answer.text


@contextlib.contextmanager
def _mixed(url: str, count: int, *names: str) -> Iterator[list[Future[tuple[int, str]]]]:
    """Requests that run, whole and streamed in turn, spread over the deployments."""
    with ThreadPoolExecutor(count) as threads:
        asked = [threads.submit(_ask, url, names[i % len(names)], stream=i % 4 == 3) for i in range(count)]
        wait_until(lambda: sum(running(url, name) for name in set(names)) >= count - 2)
        yield asked


def _outcomes(asked: list[Future[tuple[int, str]]]) -> tuple[int, int]:
    """How many were answered and how many were hit. Everything else is a fault."""
    answered = hit = 0
    for status, text in (one.result(LIMIT) for one in asked):
        if status == 503 or (status == 200 and '"error"' in text):
            assert "worker_lost" in text
            hit += 1
        else:
            assert status == 200, text
            answered += 1
    return answered, hit


def test_a_client_that_leaves_frees_its_slot_over_there(over_the_cluster: str) -> None:
    url = over_the_cluster
    for _ in range(3):
        left = threading.Event()

        def leave(left: threading.Event = left) -> None:
            with httpx.Client(timeout=LIMIT) as client:
                data, files = {"model": "far", "stream": "true"}, {"file": wav_of(50)}
                where = f"{url}/v1/audio/transcriptions"
                with client.stream("POST", where, headers=KEY, data=data, files=files) as answer:
                    next(answer.iter_lines())
                    left.set()

        thread = threading.Thread(target=leave)
        thread.start()
        assert left.wait(LIMIT)
        thread.join(LIMIT)
        wait_until(lambda: running(url, "far") == 0)


def _other(url: str, number: int) -> int:
    """Status of a quick request of one of three kinds."""
    if number % 3 == 0:
        return _ask(url, "asr", stream=number % 2 == 1)[0]
    if number % 3 == 1:
        body: dict[str, object] = {"model": "tts", "voice": "fake-low", "input": "Hello there."}
        return httpx.post(f"{url}/v1/audio/speech", headers=KEY, json=body, timeout=LIMIT).status_code
    body = {"model": "chat", "messages": [{"role": "user", "content": "what"}], "modalities": ["text"]}
    return httpx.post(f"{url}/v1/chat/completions", headers=KEY, json=body, timeout=LIMIT).status_code


@pytest.mark.parametrize("what", ["worker", "replica"])
def test_losing_a_process_amid_fifty_requests_costs_its_own_jobs_alone(over_the_cluster: str, what: str) -> None:
    """16 long ones fill the 8 slots of both replicas, give or take one that waits there; one of the two is hit."""
    url = over_the_cluster
    wait_until(lambda: len(replicas(url, "slow")) == 2)
    with _mixed(url, 16, "slow") as asked, ThreadPoolExecutor(34) as threads:
        wait_until(lambda: running(url, "slow") == 16)
        others = [threads.submit(_other, url, number) for number in range(34)]
        victim = next(iter(replicas(url, "slow").values()))
        process = model_process(victim) if what == "worker" else psutil.Process(int(victim["pid"]))
        process.kill()
        answered, hit = _outcomes(asked)
        assert {one.result(LIMIT) for one in others} == {200}
    assert hit == min(int(victim["running"]), 8)  # what only waited there is sent to the other
    assert answered == 16 - hit
    assert _ask(url, "asr")[0] == 200
    wait_until(
        lambda: (len(replicas(url, "slow")) == 2 and victim["pid"] not in _pids(url, "slow")) or what == "worker"
    )
    assert _ask(url, "slow")[0] == 200


def _pids(url: str, name: str) -> set[int]:
    return {int(row["pid"]) for row in replicas(url, name).values()}


def test_a_burst_is_spread_over_idle_replicas(over_the_cluster: str) -> None:
    url = over_the_cluster
    wait_until(lambda: len(replicas(url, "slow")) == 2 and running(url, "slow") == 0)
    with _mixed(url, 4, "slow") as asked:
        wait_until(lambda: running(url, "slow") == 4)
        assert sorted(row["running"] for row in replicas(url, "slow").values()) == [2, 2]
        assert _outcomes(asked) == (4, 0)


def test_replicas_come_with_the_work_and_go_after_it(over_the_cluster: str) -> None:
    url = over_the_cluster
    wait_until(lambda: not replicas(url, "scaled"))
    most = 0
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(_ask, url, "scaled") for _ in range(6)]
        while not all(one.done() for one in asked) and most < 2:
            most = max(most, len(replicas(url, "scaled")))
        assert {one.result(LIMIT)[0] for one in asked} == {200}
    assert most >= 1
    wait_until(lambda: not replicas(url, "scaled"))


def test_losing_a_machine_costs_its_own_jobs_alone(over_the_cluster: str, two_machines: Machines) -> None:
    url = over_the_cluster
    with _mixed(url, 8, "far", "slow") as asked:
        two_machines.lose()
        _, hit = _outcomes(asked)
    assert hit >= 4  # all of `far`, and what of `slow` was there
    assert _ask(url, "asr")[0] == 200
    two_machines.add()
    wait_until(lambda: len(replicas(url, "far")) == 1)
    assert _ask(url, "far")[0] == 200
