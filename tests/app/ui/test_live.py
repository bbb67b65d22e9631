"""The Live tab as a person uses it: headless Chromium with a recording for a microphone, against a real socket."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import ARGUMENTS, CHROMIUM, NEEDS_PAGE, served_by
from tests.support.live_pool import RATE, silence, tone
from tests.support.waiting import LIMIT

if TYPE_CHECKING:
    from playwright.sync_api import Page, Playwright

LAUNCH = [*ARGUMENTS, "--use-fake-device-for-media-stream"]
KEY = "a key for the page"

pytestmark = NEEDS_PAGE


SERVE = f"""
import sys
from backends import children
from tests.support.live_pool import realtime_server
with realtime_server(server={{"api_keys": [{{"name": "me", "key": {KEY!r}}}]}}, realtime={{"sessions": 1}}) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that asks for a key, which the browser's script never learns."""
    with served_by(SERVE) as url:
        yield url


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A turn, over and over; the next begins before the answer to it has been said."""
    file = tmp_path_factory.mktemp("audio") / "turns.wav"
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(silence(0.2) + tone(1.3) + silence(0.9))
    return file


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as one:
        yield one


@contextmanager
def opened(playwright: Playwright, server: str, recording: Path, *, allowed: bool = True) -> Iterator[Page]:
    """The page with the tab open. allowed: whether the browser lets it have the microphone."""
    more = [f"--use-file-for-fake-audio-capture={recording}"]
    more += ["--use-fake-ui-for-media-stream"] if allowed else ["--deny-permission-prompts"]
    with playwright.chromium.launch(executable_path=CHROMIUM, args=[*LAUNCH, *more]) as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})  # a phone's
        page.set_default_timeout(LIMIT * 1000)
        page.goto(f"{server}/ui/")
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Open").click()
        page.get_by_role("button", name="Transcribe").filter(visible=True).first.wait_for()
        page.get_by_role("tab", name="Live").click()
        page.get_by_role("button", name="Start", exact=True).filter(visible=True).wait_for()
        yield page


@pytest.fixture(scope="module")
def page(playwright: Playwright, server: str, recording: Path) -> Iterator[Page]:
    with opened(playwright, server, recording) as page:
        yield page


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).filter(visible=True).click()


def assert_fits(page: Page) -> None:
    """Nothing of the tab sticks out of a phone's width, not even into a part of the page that scrolls."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    panel = page.get_by_role("tabpanel").filter(visible=True)
    beyond = "all => all.filter(one => one.getBoundingClientRect().right > 390.5).map(one => one.outerHTML)"
    assert panel.locator("*:visible").count() > 10
    assert panel.locator("*").evaluate_all(beyond) == []


def test_words_come_while_they_are_said_and_become_a_turn(page: Page) -> None:
    press(page, "Start")
    page.locator("#sg-live-turns .sg-unsure").filter(has_text="one").first.wait_for()
    page.locator("#sg-live-turns .sg-turn span:not(.sg-unsure)").filter(has_text="one two").first.wait_for()
    page.locator("#sg-live-delay").filter(has_text="Text after").wait_for()
    assert_fits(page)
    press(page, "Stop")
    page.locator("#sg-live-state").filter(has_text="Not listening").wait_for()
    assert not page.locator("#sg-live-turns .sg-unsure").count(), "what was begun is written down"
    assert page.locator("#sg-live-problem").is_hidden()


def test_a_conversation_is_answered_and_interrupted(page: Page) -> None:
    page.get_by_label("Converse").filter(visible=True).check()
    press(page, "Start")
    page.locator("#sg-live-turns .sg-turn-answer").filter(has_text="Answer").first.wait_for()
    page.locator("#sg-live-delay").filter(has_text="Answer after").wait_for()
    page.locator("#sg-live-turns .sg-turn-answer em").filter(has_text="(interrupted)").first.wait_for()
    assert_fits(page)
    press(page, "Stop")
    page.locator("#sg-live-state").filter(has_text="Not listening").wait_for()
    assert page.locator("#sg-live-problem").is_hidden()
    page.get_by_label("Write down").filter(visible=True).check()


def test_without_the_microphone_the_page_says_so(playwright: Playwright, server: str, recording: Path) -> None:
    with opened(playwright, server, recording, allowed=False) as page:
        press(page, "Start")
        page.locator("#sg-live-problem").filter(has_text="does not allow the microphone").wait_for()
