"""The suite `make test-security` holds what its list says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.security import ROOT, SECURITY, mark_security


@pytest.mark.parametrize("place", SECURITY)
def test_every_place_of_the_list_is_there(place: str) -> None:
    assert (ROOT / place).exists()


def test_all_tests_of_a_place_are_marked() -> None:
    class Item:
        def __init__(self, path: Path) -> None:
            self.path, self.marks = path, list[str]()

        def add_marker(self, mark: pytest.MarkDecorator) -> None:
            self.marks.append(mark.name)

    inside, other = Item(ROOT / "tests" / "security" / "test_keys.py"), Item(ROOT / "tests" / "test_order.py")
    mark_security([inside, other])
    assert (inside.marks, other.marks) == (["security"], [])
