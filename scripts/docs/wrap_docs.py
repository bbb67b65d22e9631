"""Wrap the running text of the English pages at 100 columns: `python scripts/docs/wrap_docs.py [--check]`.

Leaves code, tables, headings, HTML and the pages that are generated as they are; Japanese has no spaces to break at.
Standard library only.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 100
GENERATED = {"configuration.md"}
_LIST_ITEM = re.compile(r"(\s*(?:[-*]|\d+\.) )")
_VERBATIM = re.compile(r"\s*(\||#|<|!\[|\[[^\]]+\]:)|\s*$")  # a table, heading, HTML, picture, link target, empty line


def pages() -> list[Path]:
    """The pages that are wrapped."""
    found = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "models" / "README.md",
        ROOT / "scripts" / "README.md",
    ]
    return sorted(page for page in found if page.name not in GENERATED and not page.name.endswith(".ja.md"))


def wrapped(text: str) -> str:
    """The page with every paragraph and list item filled to the width."""
    return "\n".join(line for block in _blocks(text.splitlines()) for line in _filled(block)) + "\n"


def _blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Runs of lines that belong together: a paragraph, a list item, or one line that stays as it is."""
    block: list[str] = []
    fenced = False
    for line in lines:
        fence = line.lstrip().startswith("```")
        verbatim = fenced or fence or bool(_VERBATIM.match(line))
        if block and (verbatim or _LIST_ITEM.match(line)):
            yield block
            block = []
        if verbatim:
            yield ["", line]  # an empty first line marks what stays
        else:
            block.append(line)
        fenced ^= fence
    if block:
        yield block


def _filled(block: Sequence[str]) -> list[str]:
    if block[0] == "":
        return list(block[1:])
    item = _LIST_ITEM.match(block[0])
    margin = item[1] if item else re.match(r"\s*", block[0])[0]  # type: ignore[index]
    text = " ".join([block[0][len(margin) :].strip(), *(line.strip() for line in block[1:])])
    if any(line.endswith(("  ", "\\")) for line in block):  # a line break that is meant
        return list(block)
    parts = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=margin,
        subsequent_indent=" " * len(margin),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return _safe(parts)


def _safe(lines: list[str]) -> list[str]:
    """Join a line that would begin like a list item or heading to the one before."""
    joined: list[str] = []
    for number, line in enumerate(lines):
        if number and (_LIST_ITEM.match(line) or re.match(r"\s*(#|\||>|\+ )", line)):
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
    return joined


def main(argv: Sequence[str]) -> int:
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := wrapped(text)) != text:
            stale.append(page.relative_to(ROOT).as_posix())
            if "--check" not in argv:
                page.write_text(new, encoding="utf-8")
    for name in stale:
        print(f"{name} {'is not wrapped' if '--check' in argv else 'was wrapped'}")
    return 1 if stale and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
