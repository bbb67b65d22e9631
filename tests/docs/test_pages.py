"""The pages for people: links that lead somewhere, generated pages that are current, translations that keep the
commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "models" / "README.md"])
TRANSLATIONS = [("README.md", "README.ja.md"), ("docs/windows.md", "docs/windows.ja.md")]


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", _text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    broken = []
    for link, picture in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", _text(page)):
        target = link or picture
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


def test_the_configuration_page_is_current() -> None:
    subprocess.run([sys.executable, "scripts/docs/generate.py", "--check"], cwd=ROOT, check=True, timeout=LIMIT)


@pytest.mark.parametrize(("english", "japanese"), TRANSLATIONS)
def test_a_translation_keeps_every_command(english: str, japanese: str) -> None:
    """Code blocks are the same, in the same order, so that what the tests run of one holds for the other."""
    blocks = [re.findall(r"^```.*?^```", _text(ROOT / page), re.MULTILINE | re.DOTALL) for page in (english, japanese)]
    assert blocks[0] == blocks[1]


def test_pictures_are_small_and_shown() -> None:
    pictures = list((ROOT / "docs" / "images").glob("*.png"))
    shown = "".join(map(_text, PAGES))
    assert len(pictures) >= 2
    for picture in pictures:
        assert picture.stat().st_size < 200_000, picture.name
        assert f"images/{picture.name}" in shown
