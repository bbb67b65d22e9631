"""What a newcomer opens first: README leads to every page, and the pages are wrapped for a side-by-side view."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.docs import wrap_docs
from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[2]


def _links(page: str) -> set[str]:
    """Files that a page of the top folder links to, without anchors."""
    return set(re.findall(r"\]\(([^)#:]+)[#)]", (ROOT / page).read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", ["README.md", "README.ja.md"])
def test_the_front_door_leads_to_every_page(page: str) -> None:
    linked = _links(page)
    assert {"LICENSE", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "scripts/README.md"} <= linked
    assert "docs/images/transcribe.png" in linked
    both = {"whisper", "llasa", "csm", "diffa", "embedded"}  # reached from docs/models.md
    pages = {file.name for file in (ROOT / "docs").glob("*.md") if file.stem not in both and ".ja" not in file.name}
    translated = {f"docs/{name}" for name in pages if f"docs/{name.replace('.md', '.ja.md')}" in linked}
    assert {f"docs/{name}" for name in pages} <= linked | translated


def test_the_models_page_leads_to_each_engine() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for engine in ("whisper", "llasa", "csm", "diffa", "embedded"):
        assert f"({engine}.md" in text, engine


def test_every_script_has_its_line() -> None:
    text = (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")
    files = {file.name for file in (ROOT / "scripts").glob("*.py")}
    assert set(re.findall(r"^\| `(\w+\.py)`", text, re.MULTILINE)) == files
    folders = {folder.name for folder in (ROOT / "scripts").iterdir() if any(folder.glob("*.py"))}
    assert set(re.findall(r"^\| `(\w+)/`", text, re.MULTILINE)) == folders


def test_running_text_is_wrapped() -> None:
    """Or run scripts/docs/wrap_docs.py."""
    done = subprocess.run(
        [sys.executable, "scripts/docs/wrap_docs.py", "--check"], cwd=ROOT, capture_output=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout.decode()


def test_wrapping_leaves_what_is_no_running_text() -> None:
    long = " ".join(["word"] * 40)
    kept = f"# {long}\n\n| {long} |\n\n```sh\n{long}\n```\n"
    assert wrap_docs.wrapped(kept) == kept
    item = wrap_docs.wrapped(f"- {long}\n- b\n").splitlines()
    assert [line[:2] for line in item] == ["- ", "  ", "  ", "- "]
    assert max(map(len, item)) <= wrap_docs.WIDTH
    assert " ".join(" ".join(item).split()) == f"- {long} - b"
