"""The web page as a person uses it: headless Chromium against a real server process with the embedded engines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from backends import model_sets
from tests.support.browser import ARGUMENTS, CHROMIUM
from tests.support.server import server_process
from tests.support.waiting import LIMIT

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

ROOT = Path(__file__).resolve().parents[3]
LAUNCH = [*ARGUMENTS, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a microphone that beeps
SENTENCE = "The weather is nice today."
MISSING_WEIGHTS = model_sets.problems(model_sets.MODEL_SETS["whisper-base"], Path("nowhere"))

_CHOSEN = "name => document.querySelector('#deployment-0 input').value.startsWith(name)"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


LLASA = ROOT / "tests" / "data" / "llasa"
WITH_ADAPTER = {
    "backend": "llasa",
    "model": str(LLASA / "lm"),
    "codec_model": str(LLASA / "codec"),
    "device": "cpu",
    "dtype": "float32",
    "retries": 0,
}


def _table(name: str, values: Mapping[str, object]) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(
        [f'[deployments."{name}"]', *lines, f"adapters = {{ mine = {json.dumps(str(LLASA / 'lora'))} }}", ""]
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `python -m app` with its defaults, offline."""
    folder = tmp_path_factory.mktemp("home")
    config = folder / "gateway.toml"
    top = f"offline = true\nmodels_dir = {json.dumps(str(folder / 'models'))}\n"
    second = '[deployments.second]\nbackend = "whisper"\nmodel = "openai/whisper-base"\n'
    config.write_text(top + _table("with-adapter", WITH_ADAPTER) + second, encoding="utf-8")
    with server_process(folder / "log", "--config", str(config)) as url:
        yield url


@pytest.fixture(scope="module")
def recording(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SENTENCE, spoken by the server."""
    body = {"model": "embedded-tts", "input": SENTENCE, "voice": "alloy", "response_format": "wav"}
    answer = httpx.post(f"{server}/openai/v1/audio/speech", json=body, headers={"api-key": "k"}, timeout=LIMIT)
    path = tmp_path_factory.mktemp("audio") / "sentence.wav"
    path.write_bytes(answer.raise_for_status().content)
    return path


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[Page]:
    """The opened page; every request that leaves this machine is an error."""
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=LAUNCH) as browser,
    ):
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(LIMIT * 1000)
        outside: list[str] = []
        local = (server, "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(local) else outside.append(request.url))
        page.goto(f"{server}/ui/")
        page.get_by_role("button", name="Transcribe").wait_for()
        page.wait_for_function(_CHOSEN, arg="embedded-asr")
        yield page
        assert not outside


def _select(page: Page, tab: str, label: str, choice: str) -> None:
    """Pick an entry of a drop-down in the open tab."""
    box = page.get_by_role("tabpanel").filter(visible=True).get_by_label(label).first
    box.click()
    page.get_by_role("option", name=choice).filter(visible=True).click()


def _open(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()


def test_what_can_answer_is_chosen_and_the_page_is_wide_from_the_start(page: Page) -> None:
    """The fixture has waited for the choice: the better deployments lack their weights."""
    panel = page.get_by_role("tabpanel").filter(visible=True)
    transcript, recording = (
        page.locator("#transcript").bounding_box(),
        panel.get_by_label("Deployment").first.bounding_box(),
    )
    assert transcript is not None
    assert recording is not None
    assert transcript["x"] > recording["x"] + recording["width"], "side by side"


def test_what_is_chosen_before_the_page_knows_who_can_answer_stays(server: str, page: Page) -> None:
    held: list[Route] = []
    early = page.context.browser.new_page()  # type: ignore[union-attr]
    try:
        early.set_default_timeout(LIMIT * 1000)
        early.route("**/queue/join*", lambda route: held.append(route))
        early.goto(f"{server}/ui/")
        while len(held) < 2:  # the questions who can answer, and how the server is
            early.wait_for_timeout(50)
        _select(early, "Transcribe", "Deployment", "whisper-1")
        for route in held:
            route.continue_()
        early.unroute("**/queue/join*")
        early.get_by_text("Ready").first.wait_for()
        early.wait_for_timeout(1500)
        assert early.locator("#deployment-0 input").input_value().startswith("whisper-1")
        early.locator("#deployment-0 input").click()  # what it waited for has come
        early.get_by_role("option", name="second (weights missing)").filter(visible=True).wait_for()
    finally:
        early.close()


@pytest.mark.skipif(bool(MISSING_WEIGHTS), reason="".join(MISSING_WEIGHTS[:1]) or "the weights are here")
def test_a_recording_is_transcribed_with_its_picture(server: str, page: Page, recording: Path) -> None:
    form = {"model": "embedded-asr", "response_format": "text"}
    files = {"file": recording.read_bytes()}
    transcript = httpx.post(
        f"{server}/v1/audio/transcriptions", data=form, files=files, headers={"api-key": "k"}, timeout=LIMIT
    ).text
    _open(page, "Transcribe")
    page.get_by_text("Ready").first.wait_for()  # the strip at the top
    _select(page, "Transcribe", "Deployment", "embedded-asr")
    page.get_by_label("Show when each word is said").check()
    page.locator("input[type=file]").first.set_input_files(recording)
    page.get_by_role("button", name="Remove audio").or_(page.get_by_label("Clear")).filter(
        visible=True
    ).first.wait_for()
    page.get_by_role("button", name="Transcribe").click()
    page.get_by_text("Inference time").filter(visible=True).wait_for()
    assert transcript.strip()
    assert page.locator("#transcript textarea").input_value() == transcript.rstrip("\n")
    page.get_by_role("tabpanel").filter(visible=True).locator("img").first.wait_for()
    words = [word.inner_text().split()[-1] for word in page.locator("#times .sg-word").all()]
    assert words == transcript.split()


def test_text_is_spoken_and_drawn(page: Page) -> None:
    _open(page, "Speak")
    _select(page, "Speak", "Deployment", "embedded-tts")
    page.get_by_role("textbox", name="Text", exact=True).fill(SENTENCE)
    page.get_by_role("button", name="Speak", exact=True).click()
    page.get_by_text("Inference time").filter(visible=True).wait_for()
    page.get_by_role("tabpanel").filter(visible=True).locator("img").first.wait_for()
    assert page.locator("#spoken").get_by_label("Play").or_(page.locator("#spoken audio")).count()


def test_every_format_can_be_saved(page: Page) -> None:
    """pcm too, which no browser plays."""
    _open(page, "Speak")
    _select(page, "Speak", "Format", "pcm")
    page.get_by_role("button", name="Speak", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save speech.pcm").or_(
            page.get_by_role("link", name="Save speech.pcm")
        ).first.click()
    assert download.value.suggested_filename == "speech.pcm"
    assert Path(download.value.path()).stat().st_size > 24_000
    assert page.locator("#spoken").get_by_label("Play").or_(page.locator("#spoken audio")).count()


def test_what_the_api_refuses_is_shown_until_the_next_answer(page: Page) -> None:
    _open(page, "Speak")
    voice = page.get_by_role("tabpanel").filter(visible=True).get_by_label("Voice or LoRA adapter").first
    voice.fill("nobody-in-particular")
    voice.press("Enter")
    page.get_by_role("button", name="Speak", exact=True).click()
    alert = page.get_by_role("alert").filter(has_text="That did not work.")
    alert.get_by_text("nobody-in-particular").wait_for()
    _select(page, "Speak", "Voice or LoRA adapter", "coral")
    page.get_by_role("button", name="Speak", exact=True).click()
    page.get_by_text("Inference time").filter(visible=True).wait_for()
    assert not alert.count()


def test_an_adapter_is_chosen_and_speaks(server: str, page: Page) -> None:
    _open(page, "Speak")
    _select(page, "Speak", "Deployment", "with-adapter")
    page.get_by_text("Clone a voice from a clip").filter(visible=True).wait_for()
    _select(page, "Speak", "Voice or LoRA adapter", "mine (LoRA adapter)")
    _select(page, "Speak", "Format", "wav")
    panel = page.get_by_role("tabpanel").filter(visible=True)
    with page.expect_download() as download:
        page.get_by_role("button", name="Speak", exact=True).click()
        panel.get_by_role("button", name="Save speech.wav").or_(
            panel.get_by_role("link", name="Save speech.wav")
        ).first.click()
    assert Path(download.value.path()).stat().st_size > 1000
    voices = httpx.get(
        f"{server}/v1/audio/voices", params={"model": "with-adapter"}, headers={"api-key": "k"}, timeout=LIMIT
    ).json()
    assert {"default", "mine"} <= {voice["id"] for voice in voices["voices"]}, "it was this model that spoke"


def test_the_microphone_is_recorded(page: Page) -> None:
    _open(page, "Ask")
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_label("Record audio").click()
    panel.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)
    panel.get_by_role("button", name="Stop", exact=True).click()
    panel.get_by_label("Play").first.wait_for()
    panel.get_by_role("button", name="Ask", exact=True).click()
    panel.get_by_text("pull diffa").wait_for()  # it came so far: what is missing are the weights


def test_on_a_phone_nothing_sticks_out(page: Page) -> None:
    size = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 844})
    try:
        for tab in ("Transcribe", "Speakers", "Ask", "Speak", "Health"):
            _open(page, tab)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    finally:
        page.set_viewport_size(size or {"width": 1200, "height": 900})


def test_health_lists_devices_and_deployments(page: Page) -> None:
    _open(page, "Health")
    page.get_by_role("button", name="Refresh").click()
    for text in ("embedded-tts", "embedded-asr", "whisper-1", "cpu"):
        page.get_by_text(text).filter(visible=True).first.wait_for()
