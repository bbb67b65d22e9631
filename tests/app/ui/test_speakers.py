"""The Speakers tab as a person uses it: headless Chromium against a server whose models answer from a script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.audio import wav_of
from tests.support.browser import ARGUMENTS, CHROMIUM, NEEDS_PAGE, served_by
from tests.support.waiting import LIMIT

if TYPE_CHECKING:
    from playwright.sync_api import Page

LAUNCH = [*ARGUMENTS, "--autoplay-policy=no-user-gesture-required"]

pytestmark = NEEDS_PAGE

SERVE = """
import sys
from backends import children
from tests.support.server import FAKES, fake_settings, running
tables = {**FAKES, "diarize": {"backend": "fake", "task": "diarization"}}
tables["embedded-asr"] = {"backend": "whisper", "model": "whisper-base", "engine": "onnx", "device": "cpu"}
with running(fake_settings(deployments=tables, aliases={"gpt-4o-transcribe": "embedded-asr"})) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with served_by(SERVE) as url:
        yield url


@pytest.fixture(scope="module")
def page(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The open tab after a recording of 4 s was told apart."""
    from playwright.sync_api import sync_playwright

    recording = tmp_path_factory.mktemp("audio") / "talk of two.wav"
    recording.write_bytes(wav_of(4))
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=LAUNCH) as browser,
    ):
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(LIMIT * 1000)
        page.goto(f"{server}/ui/")
        page.get_by_role("tab", name="Speakers").click()
        page.locator("#conversation input[type=file]").set_input_files(recording)
        page.get_by_role("button", name="Remove audio").or_(page.get_by_label("Clear")).filter(
            visible=True
        ).first.wait_for()
        page.get_by_role("button", name="Who says what").click()
        page.locator("#turns .sg-turn").first.wait_for()
        yield page


def test_every_speaker_has_a_colour_and_turns(page: Page) -> None:
    turns = page.locator("#turns .sg-turn")
    assert [turn.inner_text().split() for turn in turns.all()] == [
        ["▶", "A", "0:00.0", "to", "0:02.0", "Good", "morning"],
        ["▶", "B", "0:02.0", "to", "0:04.0", "to", "you."],
    ]
    colours = turns.evaluate_all("all => all.map(one => getComputedStyle(one).borderLeftColor)")
    assert len(set(colours)) == 2


def test_one_turn_is_played(page: Page) -> None:
    """From its start to its end, where the recording stops by itself."""
    audio = page.locator("#turns audio")
    audio.evaluate("one => { window.began = []; one.addEventListener('play', () => began.push(one.currentTime)); }")
    page.get_by_role("button", name="Play 0:00.0 to 0:02.0").click()
    page.wait_for_function("window.began.length && document.querySelector('#turns audio').paused")
    assert page.evaluate("window.began") == [0]
    assert 2.0 <= audio.evaluate("one => one.currentTime") < 4.0
    page.get_by_role("button", name="Play 0:02.0 to 0:04.0").click()
    page.wait_for_function("window.began.length > 1")
    assert page.evaluate("window.began")[1] >= 2.0


@pytest.mark.parametrize(
    ("form", "holds"),
    [
        ("txt", "Ann: Good morning\nB: to you.\n"),
        ("srt", "Ann: Good morning"),
        ("vtt", "<v Ann>Good morning"),
        ("rttm", "SPEAKER audio 1 0.000 2.000 <NA> <NA> Ann <NA> <NA>"),
        ("json", '"speaker": "Ann"'),
    ],
)
def test_a_name_is_changed_and_saved(page: Page, form: str, holds: str) -> None:
    page.get_by_label("Name of A").fill("Ann")
    assert page.locator("#turns .sg-turn b").all_inner_texts() == ["Ann", "B"]
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_label("Format").first.click()
    page.get_by_role("option", name=form, exact=True).filter(visible=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save with these names").click()
    assert download.value.suggested_filename == f"conversation.{form}"
    assert holds in Path(download.value.path()).read_text(encoding="utf-8")
