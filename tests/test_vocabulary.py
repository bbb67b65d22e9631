"""One word per meaning: names that the field has standard terms for keep to them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Word that is no part of a name -> the standard term.
RETIRED = {
    "arbiter": "memory manager",
    "bell": "notifier",
    "chooser": "rng",
    "choosing": "sampling",
    "climb": "decode with fallback",
    "complaint": "problem",
    "cure": "hint",
    "ear": "recognizer",
    "heard": "audio, transcript, tokens",
    "hear": "encode, transcribe",
    "hollow": "meta",
    "hum": "repetition",
    "hush": "end on silence",
    "lacks": "missing",
    "ladder": "temperatures",
    "lane": "replica",
    "ledger": "footprint cache",
    "listening": "VAD, ASR",
    "machinery": "services",
    "mouth": "speaker",
    "outlook": "report",
    "peaks": "absmax",
    "placing": "placement, dtypes",
    "proof": "check",
    "prove": "check",
    "pump": "loop",
    "pulse": "heartbeat, progress",
    "relieve": "free memory, recover",
    "resident": "supervisor",
    "rung": "attempt",
    "shelf": "temporary files",
    "skeleton": "meta model",
    "stretch": "segment, sequence, tempo",
    "ticket": "reservation",
    "trouble": "failure, problem",
    "visit": "record",
    "wish": "request, options, preference",
    "yielding": "draining",
}
# Names in which the word has its usual meaning: the resident set of a process, a lane of CI.
RIGHTFUL = re.compile(r"resident_(bytes|memory)|(cpu|run|busy|windows)_lane|LaneUnavailable")


def names(tree: ast.AST) -> Iterator[str]:
    """Every name that the source defines: functions, classes, arguments, variables, attributes and aliases."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.alias(asname=str(name)):
                yield name


def words(name: str) -> set[str]:
    """`ModelFiles`, `model_files` -> model, files, file: a plural counts as its singular too."""
    parts = {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", RIGHTFUL.sub("", name))}
    return parts | {part.removesuffix("s") for part in parts} | {part.removesuffix("es") for part in parts}


def retired(source: str, *more: str) -> set[str]:
    """Names with a retired word that a source defines, and those of `more`."""
    return {name for name in [*names(ast.parse(source)), *more] if words(name) & RETIRED.keys()}


@pytest.mark.parametrize("room", ["app", "backends", "scripts", "tests"])
def test_names_keep_to_the_standard_terms(room: str) -> None:
    wrong = {
        path.relative_to(ROOT).as_posix(): sorted(found)
        for path in (ROOT / room).rglob("*.py")
        if (found := retired(path.read_text(encoding="utf-8"), path.stem))
    }
    assert not wrong


# Those of them that comments, docstrings and pages can do without, too.
UNWRITTEN = (
    "arbiter",
    "chooser",
    "climb",
    "ladder",
    "ledger",
    "rung",
    "skeleton",
    "stretches",
    "ticket",
    "wish",
    "wishes",
)
WRITTEN = [
    *(path for room in ("app", "backends", "scripts") for path in sorted((ROOT / room).rglob("*.py"))),
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def test_comments_docstrings_and_pages_keep_to_them_too() -> None:
    rule = re.compile(rf"\b({'|'.join(UNWRITTEN)})\b", re.IGNORECASE)
    lines = [
        (path.relative_to(ROOT).as_posix(), number, line)
        for path in WRITTEN
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]
    assert [line for line in lines if rule.search(line[2])] == []


@pytest.mark.parametrize(
    "source", ["class WishList: ...", "def f(tickets): ...", "a.my_ladder = 1", "import x as rungs", "heard = 1"]
)
def test_the_rule_finds_every_kind_of_name(source: str) -> None:
    assert retired(source)


def test_the_usual_meaning_is_no_fault() -> None:
    assert not retired("resident_bytes = 1\ndef run_lane(year, visitor): ...")
