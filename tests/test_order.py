"""Files with slow tests start first, whole and in their own order."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.order import slow_files_first


@dataclass
class Item:
    path: str
    name: str
    slow: bool = False

    def get_closest_marker(self, name: str) -> bool:
        return self.slow and name == "slow"


def test_files_with_slow_tests_come_first() -> None:
    items = [
        Item("a", "1"),
        Item("a", "2"),
        Item("b", "1"),
        Item("b", "2", slow=True),
        Item("c", "1"),
        Item("d", "1", slow=True),
    ]
    slow_files_first(items)
    assert [item.path + item.name for item in items] == ["b1", "b2", "d1", "a1", "a2", "c1"]
