"""A bounded form of `scripts/fuzz.py`: the same hostile requests, fewer of them; and its judgement, judged."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from random import Random

import pytest

from app.config.settings import Settings
from scripts.fuzz import DOUBLES, Tally, send, sources
from scripts.stress.fuzzing import greedy
from scripts.stress.fuzzing.exchange import Case, Outcome, ask, judge
from scripts.stress.gateway_process import ROOT, unexpected
from tests.support.server import Running, running

REQUESTS = {
    "forms": 60,
    "containers": 100,
    "media": 60,
    "json": 250,
    "base64": 60,
    "versions": 120,
    "names": 120,
    "heads": 120,
}  # page: by the script alone, as Gradio leaves sockets and loops behind in its process
ERROR = b'{"error":{"code":null,"message":"Wrong.","type":"invalid_request_error","param":"file"}}'


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Running]:
    with running(Settings.model_validate(tomllib.loads(DOUBLES))) as server:
        yield server


@pytest.mark.parametrize("group", REQUESTS)
def test_hostile_requests_get_proper_answers(fuzzed: Running, group: str) -> None:
    tally = Tally()
    cases = sources(tiny=False)[group](Random(f"suite {group}"))
    send(fuzzed.port, cases, ask, float("inf"), REQUESTS[group], tally)
    assert tally.findings == []
    assert tally.count == REQUESTS[group]
    assert any(400 <= status < 500 for status in tally.statuses)
    assert set(tally.statuses) & {200, 404}


def test_a_greedy_client_does_not_shut_out_another() -> None:
    settings = Settings.model_validate(tomllib.loads(DOUBLES))
    with running(settings, real=True) as server:
        count = greedy.run(server.port, Random(1), 10)
    assert count.honest == {200: 20}
    assert (len(count.alone), len(count.beside)) == (10, 10)
    assert count.findings == []
    assert count.greedy[429]


@pytest.mark.parametrize(
    ("status", "kind", "body", "finding"),
    [
        (500, "application/json", ERROR, "status 500"),
        (503, "application/json", ERROR, "status 503"),
        (400, "text/plain", ERROR, "another shape"),
        (400, "application/json", b'{"detail":"x"}', "another shape"),
        (400, "application/json", b"<html>", "not JSON"),
        (404, "application/json", ERROR.replace(b"null", b"7"), "odd values"),
        (404, "application/json", ERROR.replace(b'"Wrong."', b"null"), "without text"),
        (200, "application/json", b"{", "not JSON"),
        (200, "text/event-stream; charset=utf-8", b'data: {"error":{"code":"internal_server_error"}}', "in the stream"),
        (400, "application/json", ERROR, ""),
        (200, "audio/wav", b"RIFF", ""),
    ],
)
def test_what_counts_as_broken(status: int, kind: str, body: bytes, finding: str) -> None:
    found = judge(status, kind, body)
    assert finding in found
    assert bool(finding) == bool(found)


def test_a_request_without_an_answer_is_told(fuzzed: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.stress.fuzzing.exchange.PATIENCE_SECONDS", 0.3)
    assert "hangs" in ask(fuzzed.port, Case("half a head", b"GET / HTTP/1.1\r\n")).finding
    assert ask(fuzzed.port, Case("half a head", b"GET / HTTP/1.1\r\n", complete=False)).finding == ""


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ('{"event": "request"}\n', 0),
        ('{"event": "internal_error"}\n', 1),
        ("Traceback (most recent call last):\n  ValueError\n", 1),
        ("Traceback (most recent call last):\n  in gradio/queueing.py\nValueError: no value\n", 0),
        ('Traceback (most recent call last):\n  in gradio/queueing.py\n  File "{ROOT}/app/ui/handlers.py"\n', 1),
        ("Traceback (most recent call last):\n  in gradio/queueing.py\nTask was destroyed but it is pending!\n", 1),
    ],
)
def test_tracebacks_that_gradio_prints_of_a_calls_values_are_no_failures(log: str, told: int) -> None:
    assert len(unexpected(log.replace("{ROOT}", str(ROOT)))) == told


def test_findings_are_counted() -> None:
    tally = Tally()
    tally.tell("a", Outcome(200, 0.1))
    tally.tell("b", Outcome(500, 0.2, "status 500"))
    assert (tally.count, tally.slowest, tally.findings) == (2, (0.2, "b"), ["b: status 500"])
