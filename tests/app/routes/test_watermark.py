"""POST audio/watermark/detect with the real detector process, on the tiny networks of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from openai import OpenAI

from backends import children
from backends.csm.watermark import load_watermark
from tests.support.audio import by_soundfile, tone
from tests.support.server import FAKES, Running, fake_settings, running
from tests.support.waiting import LIMIT

NETS = Path(__file__).resolve().parents[2] / "data" / "csm" / "silentcipher_tiny"
URL = "/v1/audio/watermark/detect"
KEY = (1, 2, 3, 250, 0)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    marking = {"backend": "csm", "watermark_model": str(NETS), "watermark_key": bytes(KEY).hex()}
    silent = {**marking, "watermark": False, "watermark_key": ""}
    settings = fake_settings(deployments={**FAKES, "silent": silent, "marking": marking}, server={"admin_key": "boss"})
    with running(settings) as server:
        yield server


def post(server: Running, file: bytes, key: str = "boss", url: str = URL, **fields: str) -> httpx.Response:
    headers = {"api-key": key} if key else {}
    return httpx.post(server.url + url, files={"file": ("x", file)}, data=fields, headers=headers, timeout=LIMIT)


def test_a_marked_file_is_read(server: Running) -> None:
    speech = tone(44_100, 1.0)[:, 0]
    marked = load_watermark(NETS).encode(speech, 44_100, KEY, 20.0)
    answer = post(server, by_soundfile(marked[:, None], 44_100, "WAV", "FLOAT"), model="marking")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    expected = load_watermark(NETS).detect(np.clip(marked, -1, 1), 44_100)
    assert expected.status == "found"
    assert (found["status"], tuple(found["message"])) == (expected.status, expected.message)
    assert found["confidence"] == pytest.approx(expected.confidence, abs=0.01)
    assert found["duration"] == 1.0


def test_without_a_name_the_one_that_marks_is_asked(server: Running) -> None:
    """Not the built-in one, whose networks are not on disk, nor one with its mark switched off: the key tells."""
    noise = 0.2 * np.random.default_rng(0).standard_normal(44_100).astype(np.float32)
    marked = load_watermark(NETS).encode(noise, 44_100, KEY, 12.0)
    answer = post(server, by_soundfile(marked[:, None], 44_100, "WAV", "FLOAT"))
    assert answer.status_code == 200, answer.text
    assert (answer.json()["message"], answer.json()["ours"]) == (list(KEY), True)


def test_a_provenance_check_says_the_same_to_the_sdk(server: Running) -> None:
    speech = 0.2 * np.random.default_rng(0).standard_normal(44_100).astype(np.float32)
    marked = load_watermark(NETS).encode(speech, 44_100, KEY, 12.0)
    sounds = {"detected": marked, "not_detected": speech}
    with OpenAI(base_url=f"{server.url}/v1", api_key="boss", max_retries=0, _strict_response_validation=True) as client:
        for outcome, samples in sounds.items():
            file = by_soundfile(samples[:, None], 44_100, "WAV", "FLOAT")
            answer = client.content_provenance_checks.with_raw_response.create(
                file=("a.wav", file), extra_body={"model": "marking"}
            )
            (found,) = answer.parse().results
            assert (found.type, found.outcome) == ("synthid", outcome)
            assert "SilentCipher" in answer.headers["x-gateway-note"]
    assert post(server, b"x", key="somebody", url="/v1/content_provenance_checks").status_code == 403


@pytest.mark.parametrize(("key", "status"), [("", 403), ("somebody", 403)])
def test_only_the_administrator_may_ask(server: Running, key: str, status: int) -> None:
    assert post(server, b"x", key=key).status_code == status


def test_bad_uploads(server: Running) -> None:
    assert post(server, b"no sound at all " * 9, model="marking").json()["error"]["param"] == "file"
    error = post(server, b"x", model="fake-tts").json()["error"]
    assert (error["code"], error["param"]) == ("OperationNotSupported", "model")
    assert post(server, b"x", model="nobody").json()["error"]["code"] == "model_not_found"


def test_missing_networks_are_named(tmp_path: Path) -> None:
    gone = {"backend": "csm", "watermark_model": str(tmp_path / "gone")}
    with running(fake_settings(deployments={**FAKES, "csm-1b": gone})) as server:
        answer = post(server, by_soundfile(tone(16_000, 1.0), 16_000, "WAV", "PCM_16"))
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "ModelUnavailable"
        assert "gone" in answer.json()["error"]["message"]


def test_a_detector_that_cannot_start(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    command = children.command

    def of_a_missing_module(module: str, *arguments: str, python: str = "") -> list[str]:
        return command("backends.csm.no_such_module", *arguments, python=python)

    monkeypatch.setattr(children, "command", of_a_missing_module)
    answer = post(server, by_soundfile(tone(16_000, 0.2), 16_000, "WAV", "PCM_16"), model="marking")
    assert answer.status_code == 503
    assert answer.headers["x-should-retry"] == "false"
