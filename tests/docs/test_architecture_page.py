"""docs/architecture.md against the code: its three walks, its circles, its glossary."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from backends.registry import backend_info, backend_names

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in ("app", "backends")
    for path in (ROOT / room).rglob("*.py")
}
Graph = dict[str, set[str]]


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


@cache
def nodes(module: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))))


def _for_types(module: str) -> set[ast.AST]:
    """The nodes that only the type checker reads."""
    blocks = [node for node in nodes(module) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {node for block in blocks for node in ast.walk(block)}


@cache
def imports(module: str, *, types: bool = False) -> set[str]:
    """Modules of ours that the module imports, also inside functions. types: also for the type checker alone."""
    found: set[str] = set()
    left_out = set() if types else _for_types(module)
    for node in nodes(module):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return (found & MODULES.keys()) - {module}


@cache
def reached(module: str) -> set[str]:
    """Modules that the module imports, names as the program of a child, or makes as a backend."""
    named = {node.value for node in nodes(module) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    made = {backend_info(name).entry.partition(":")[0] for name in backend_names()}
    return imports(module) | (named & MODULES.keys()) | (made if module == "backends.registry" else set())


def circles(graph: Graph) -> list[set[str]]:
    """The sets of modules that reach each other."""
    reach = {module: _reach(graph, module) for module in graph}
    found = {frozenset(other for other in reach[module] if module in reach[other]) for module in graph}
    return [set(circle) for circle in found if len(circle) > 1]


def _reach(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def walks() -> list[list[str]]:
    lists = re.split(r"\n\n(?=[A-Z])", section("Three walks through the code"))[1:]
    return [re.findall(r"^\d+\. `([^`]+)`", text, re.MULTILINE) for text in lists]


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


@pytest.mark.parametrize("walk", walks(), ids=lambda walk: walk[1])
def test_each_file_of_a_walk_is_reached_from_one_before_it(walk: list[str]) -> None:
    assert [path for path in walk if module_of(path) not in MODULES] == []
    near = set[str]()
    for path in walk:
        assert not near or module_of(path) in near, path
        direct = reached(module_of(path))
        near |= direct.union(*map(reached, direct))


def test_there_are_three_walks() -> None:
    assert [walk[1] for walk in walks()] == [
        "app/http/middleware.py",
        "app/routes/speech/route.py",
        "app/routes/chat/route.py",
    ]


def test_at_most_seven_objects_carry_a_request() -> None:
    rows = re.findall(r"^\| (`.*`) \| `([^`]+)` \|", section("What carries a request"), re.MULTILINE)
    assert 5 <= len(rows) <= 7
    for names, pattern in rows:
        code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob(pattern))
        assert [name for name in re.findall(r"`(\w+)`", names) if not re.search(rf"^class {name}\b", code, re.M)] == []


def test_files_that_the_page_names_exist() -> None:
    named = re.findall(r"`((?:app|backends|tests|scripts)/[\w/.]*)`", PAGE)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_no_import_is_part_of_a_circle() -> None:
    assert circles({module: imports(module) for module in MODULES}) == []


def test_the_circles_of_types_are_those_of_the_page() -> None:
    lines = re.findall(r"^- (`.*`): \S", section("Imports in circles"), re.MULTILINE)
    named = sorted(sorted(re.findall(r"`([\w.]+)`", line)) for line in lines)
    assert sorted(map(sorted, circles({module: imports(module, types=True) for module in MODULES}))) == named


def test_a_circle_is_found() -> None:
    graph: Graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(graph) == [{"a", "b", "c"}]


def test_the_glossary_is_short_and_sorted() -> None:
    terms = re.findall(r"^\| ([a-z ]+) \| ", section("Glossary"), re.MULTILINE)[1:]
    assert 10 <= len(terms) <= 20
    assert terms == sorted(terms)
