"""Booleans that arrive as text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from app.booleans import is_true, parse_boolean
from app.errors import InvalidRequest
from app.realtime.fields import flag
from app.routes.fields import read_flag

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1", "yes", "On"])
def test_words_for_true(text: str) -> None:
    assert parse_boolean(text) is True
    assert is_true(text)


@pytest.mark.parametrize("text", ["false", "FALSE", "0", "no", "Off"])
def test_words_for_false(text: str) -> None:
    assert parse_boolean(text) is False
    assert not is_true(text)


@pytest.mark.parametrize("text", ["", "maybe", "2", " true"])
def test_text_that_is_no_boolean(text: str) -> None:
    assert parse_boolean(text) is None
    assert not is_true(text)


def test_unset_is_not_true() -> None:
    assert not is_true(None)


@pytest.mark.parametrize("value", [0, 1, "true", [], {}])
def test_a_field_of_json_takes_only_booleans(value: object) -> None:
    for read in (lambda: read_flag(value, "stream"), lambda: flag(True)(None, value, "stream")):
        with pytest.raises(InvalidRequest, match="stream must be true or false, not ") as told:
            read()
        assert told.value.param == "stream"


def test_an_unset_field_has_its_default() -> None:
    assert read_flag(None, "stream", default=True) is flag(True)(None, None, "stream") is True
    assert read_flag(None, "stream") is flag(False)(None, None, "stream") is False


def test_no_other_module_lists_the_words() -> None:
    others = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "app").rglob("*.py")
        if path.name != "booleans.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Tuple | ast.List | ast.Set)
        and {"1", "true"} <= {part.value for part in node.elts if isinstance(part, ast.Constant)}
    ]
    assert not others
