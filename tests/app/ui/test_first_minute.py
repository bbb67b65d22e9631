"""The first minute of a new user, at the page, in both languages: speak, save what was said, have it written down.

Nothing is chosen but the text and a format that the page takes back: what a fresh machine has answers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends.audio.error_rate import error_rate
from backends.data_packages import is_installed
from backends.model_sets import MODEL_SETS, VOICE_FILES, problems
from tests.support.browser import ARGUMENTS, CHROMIUM, NEEDS_PAGE
from tests.support.server import server_process
from tests.support.waiting import LIMIT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    *NEEDS_PAGE,
    pytest.mark.real_weights,
    pytest.mark.skipif(
        not is_installed(*VOICE_FILES.values()) or importlib.util.find_spec("pyopenjtalk") is None,
        reason="the neural voices are not installed: python scripts/bootstrap.py weights",
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with empty folders, offline."""
    folder = tmp_path_factory.mktemp("home")
    if wrong := problems(MODEL_SETS["whisper-base"], folder / "whisper-base"):
        pytest.skip(f"{wrong[0]}: python scripts/bootstrap.py weights")
    config = folder / "gateway.toml"
    config.write_text(f"offline = true\nmodels_dir = '{folder / 'models'}'\n", encoding="utf-8")
    with server_process(folder / "log", "--config", str(config)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS]) as browser,
    ):
        yield browser


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(LIMIT * 1000)
    page.goto(f"{server}/ui/")
    page.get_by_role("button", name="Transcribe").wait_for()
    page.get_by_text("Ready").first.wait_for()
    yield page
    page.close()


def press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).filter(visible=True).click()


def spoken(page: Page, text: str, file: Path) -> None:
    """Have the page speak, and save what it says."""
    page.get_by_role("tab", name="Speak", exact=True).click()
    page.get_by_role("textbox", name="Text", exact=True).fill(text)
    press(page, "Speak")
    page.get_by_text("Inference time").filter(visible=True).wait_for()
    save = page.get_by_role("tabpanel").filter(visible=True)
    with page.expect_download() as download:
        save.get_by_role("button", name="Save speech.").or_(save.get_by_role("link", name="Save speech.")).first.click()
    download.value.save_as(file)


def written(page: Page, file: Path) -> str:
    """What the page writes of a recording."""
    page.get_by_role("tab", name="Transcribe").click()
    page.locator("input[type=file]").first.set_input_files(file)
    page.get_by_role("button", name="Remove audio").or_(page.get_by_label("Clear")).filter(
        visible=True
    ).first.wait_for()
    press(page, "Transcribe")
    page.get_by_text("Inference time").filter(visible=True).wait_for()
    return page.locator("#transcript textarea").input_value()


@pytest.mark.parametrize(
    ("text", "language"),
    [("Please open the front door before you leave.", "en"), ("明日の朝、駅の前で会いましょう。", "ja")],
)
def test_what_the_page_speaks_it_understands(page: Page, tmp_path: Path, text: str, language: str) -> None:
    file = tmp_path / "speech.mp3"
    spoken(page, text, file)
    note = page.get_by_role("tabpanel").filter(visible=True).locator(".sg-note").first.inner_text()
    assert "piper+kokoro+espeak-ng" in note
    assert "espeak-ng spoke" not in note
    assert error_rate(text, written(page, file), language) <= 0.2
