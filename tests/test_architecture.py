"""The rules that hold the folders apart, and the ones that keep Windows a first-class platform."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "backends").rglob("*.py")])
ENGINES = {"whisper", "diffa", "llasa", "csm", "embedded", "fake"}
OPEN_TO_APP = {"interface", "registry", "devices", "weights", "frames"}
HEAVY = ("torch", "transformers", "onnxruntime", "soundfile", "av", "soxr", "librosa", "moshi")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _folder(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).with_suffix("").parts


def test_the_gateway_sees_only_the_contract_of_the_backends() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "app").rglob("*.py")
        for name in _imports(path)
        if name.startswith("backends.") and name.split(".")[1] not in OPEN_TO_APP
    ]
    assert not wrong


def test_backends_never_import_the_gateway() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "backends").rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0] == "app"
    ]
    assert not wrong


def test_engine_packages_do_not_import_each_other() -> None:
    wrong = []
    for path in (ROOT / "backends").rglob("*.py"):
        own = _folder(path)[1]
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "backends" and len(parts) > 1 and parts[1] in ENGINES and parts[1] != own:
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_the_gateway_process_stays_light() -> None:
    """Importing the whole app must load no tensor library and no decoder, or start-up and memory are lost."""
    code = f"import sys, app.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"


def _posix_only(tree: ast.AST) -> Iterator[str]:
    """Names that do not exist on Windows, outside an `if sys.platform ...` block or a module that guards itself."""
    forbidden = {"os.fork", "os.killpg", "os.setsid", "os.geteuid", "signal.SIGKILL", "signal.SIGHUP"}
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If | ast.IfExp) and "platform" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Attribute) and ast.unparse(node) in forbidden:
            yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/tmp"):  # noqa: S108
            yield f"{node.lineno}: {node.value}"
        if isinstance(node, ast.Import) and any(alias.name in {"resource", "fcntl", "pwd", "grp"} for alias in node.names):
            yield f"{node.lineno}: {ast.unparse(node)}"


def _implicit_encoding(tree: ast.AST) -> Iterator[str]:
    """Text opened without saying UTF-8, which a Japanese or Western Windows reads in its own code page."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        keywords = {keyword.arg for keyword in node.keywords}
        if (
            name in {"read_text", "write_text"}
            and "encoding" not in keywords
            and len(node.args) < (1 if name == "read_text" else 2)
        ):
            yield f"{node.lineno}: {name} without encoding"
        if name == "open" and isinstance(node.func, ast.Name):
            mode = node.args[1] if len(node.args) > 1 else next((k.value for k in node.keywords if k.arg == "mode"), None)
            binary = isinstance(mode, ast.Constant) and "b" in str(mode.value)
            if not binary and "encoding" not in keywords:
                yield f"{node.lineno}: open without encoding"


@pytest.mark.parametrize("rule", [_posix_only, _implicit_encoding])
def test_nothing_assumes_posix(rule: object) -> None:
    wrong = []
    for path in [*PRODUCT, *(ROOT / "scripts").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        wrong += [f"{path.relative_to(ROOT)}:{found}" for found in rule(tree)]  # type: ignore[operator]
    assert not wrong


@pytest.mark.parametrize("source", ["import os\nos.fork()", "import signal\nsignal.SIGKILL", "x = '/tmp/a'", "import fcntl"])
def test_the_posix_rule_finds_what_it_forbids(source: str) -> None:
    assert list(_posix_only(ast.parse(source)))


def test_guarded_code_is_allowed() -> None:
    assert not list(_posix_only(ast.parse("import sys, os\nif sys.platform != 'win32':\n    os.killpg(1, 9)")))


def test_the_encoding_rule_finds_what_it_forbids() -> None:
    assert list(_implicit_encoding(ast.parse("open('a')")))
    assert list(_implicit_encoding(ast.parse("p.read_text()")))
    assert not list(_implicit_encoding(ast.parse("open('a', 'rb'); p.read_text(encoding='utf-8')")))
