"""From a socket to a worker process and back: the gateway with its real scheduler and the test double as a model."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from app.serving.pool import WorkerPool
from tests.support.audio import wav_of
from tests.support.server import Running, server_fixture
from tests.support.waiting import LIMIT, wait_until

KEY = {"api-key": "k"}
TABLES = {
    "quick": {"backend": "fake", "task": "transcription"},
    "slow": {"backend": "fake", "task": "transcription", "delay": 0.1, "steps": 30},
    "steady": {"backend": "fake", "task": "transcription", "delay": 0.3},
    "narrow": {"backend": "fake", "task": "transcription", "delay": 0.2, "steps": 3, "max_batch": 1},
    "absent": {"backend": "whisper", "model": "nobody/nothing", "auto_pull": False, "fallback": "quick"},
    "broken": {"backend": "fake", "task": "transcription", "fail_step": "error"},
}


server = server_fixture(deployments=TABLES, limits={"queue_jobs": 1}, real=True)


def _transcribe(server: Running, model: str, wav: bytes, **fields: str) -> httpx.Response:
    path = f"{server.url}/v1/audio/transcriptions"
    return httpx.post(path, headers=KEY, data={"model": model} | fields, files={"file": wav}, timeout=LIMIT)


def _accepted(server: Running, name: str) -> int:
    """Jobs that a worker has taken up."""
    pool = server.gateway.pool
    assert isinstance(pool, WorkerPool)
    return int(server.do(pool.snapshot)["deployments"][name]["accepted"])


def _active(server: Running, model: str) -> int:
    return int(server.do(lambda: server.gateway.pool.status()[model].jobs_active))


def _kill_worker(server: Running, model: str) -> None:
    """Kill the process that holds the model, as the system's memory killer would."""
    supervisor = server.gateway.pool.dispatchers[model].supervisor  # type: ignore[attr-defined]
    psutil.Process(supervisor.worker.pid).kill()


def test_a_request_goes_all_the_way(server: Running, wav: bytes) -> None:
    answer = _transcribe(server, "quick", wav, response_format="verbose_json")
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["text"] == " ".join(segment["text"].strip() for segment in document["segments"])
    assert answer.headers["x-gateway-engine"] == "fake"
    row = httpx.get(f"{server.url}/health").json()["deployments"]["quick"]
    assert (row["state"], row["device"], row["jobs_active"]) == ("ready", "cpu", 0)


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}])
def test_another_deployment_transcribes_until_the_weights_are_there(
    server: Running, wav: bytes, fields: dict[str, str]
) -> None:
    answer = _transcribe(server, "absent", wav, **fields)
    assert answer.status_code == 200, answer.text
    told = (
        answer.headers["x-gateway-fallback"],
        answer.headers["x-ms-deployment-name"],
        answer.headers["x-gateway-engine"],
    )
    assert told == ("quick", "quick", "fake")
    assert "x-gateway-fallback" not in _transcribe(server, "quick", wav, **fields).headers


def test_long_audio_travels_as_a_file_that_is_gone_afterwards(server: Running) -> None:
    answer = _transcribe(server, "quick", wav_of(60))
    assert answer.status_code == 200
    assert answer.json()["usage"]["seconds"] == 60
    folder = server.gateway.media.folder
    assert folder is not None
    wait_until(lambda: not list(folder.iterdir()))


def test_a_killed_worker_costs_one_request(server: Running, wav: bytes) -> None:
    with ThreadPoolExecutor() as threads:
        lost = threads.submit(_transcribe, server, "slow", wav)
        wait_until(lambda: _accepted(server, "slow") == 1)  # before that, another worker would take it over
        _kill_worker(server, "slow")
        answer = lost.result(LIMIT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
    assert int(answer.headers["retry-after"]) >= 1
    assert _transcribe(server, "slow", wav).status_code == 200


def test_a_killed_worker_ends_a_stream_with_an_error_event(server: Running) -> None:
    path = f"{server.url}/v1/audio/transcriptions"
    form = {"model": "steady", "stream": "true"}
    with httpx.stream("POST", path, headers=KEY, data=form, files={"file": wav_of(20)}, timeout=LIMIT) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["type"] == "transcript.text.delta"
        _kill_worker(server, "steady")
        events = [line for line in lines if line.startswith("data: ")]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "worker_lost"


def test_a_defect_of_a_model_is_a_500_without_its_words(server: Running, wav: bytes) -> None:
    answer = _transcribe(server, "broken", wav)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_server_error")
    assert _transcribe(server, "quick", wav).status_code == 200


def test_above_capacity_all_are_served_or_told_when_to_come_back(server: Running, wav: bytes) -> None:
    assert _transcribe(server, "narrow", wav).status_code == 200
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: _transcribe(server, "narrow", wav), range(8)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert server.do(lambda: server.gateway.in_flight) == 0


def test_a_client_that_leaves_frees_the_worker(server: Running, wav: bytes) -> None:
    path, patience = f"{server.url}/v1/audio/transcriptions", httpx.Timeout(LIMIT, read=0.5)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(path, headers=KEY, data={"model": "slow"}, files={"file": wav}, timeout=patience)
    wait_until(lambda: _active(server, "slow") == 0)
    assert server.do(lambda: server.gateway.in_flight) == 0
