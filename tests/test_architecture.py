"""The rules that hold the folders apart, and the ones that keep Windows a first-class platform."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.registry import engine_packages
from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "backends").rglob("*.py")])
OPEN_TO_APP = (
    "children",
    "interface",
    "live",
    "registry",
    "devices",
    "weights",
    "windows_ml",
    "model_files",
    "languages",
    "openai_voices",
    "frames",
    "messages",
    "audio.sentences",
    "audio.tempo",
)
MOST_LINES = 400
HEAVY = ("torch", "transformers", "onnxruntime", "soundfile", "av", "soxr", "librosa", "moshi", "ray")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _folder(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).with_suffix("").parts


def _is_open(name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in OPEN_TO_APP)


def test_the_gateway_sees_only_the_contract_of_the_backends() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "app").rglob("*.py")
        for name in _imports(path)
        if name.startswith("backends.") and not _is_open(name.removeprefix("backends."))
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


def test_only_the_cluster_imports_ray() -> None:
    users = {_folder(path)[:2] for path in PRODUCT for name in _imports(path) if name.split(".")[0] == "ray"}
    assert users <= {("app", "cluster")}


def test_onnxruntime_is_imported_where_its_telemetry_is_switched_off() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in PRODUCT
        for n in _imports(path)
        if n.split(".")[0] == "onnxruntime"
    }
    assert users == {"backends/onnx_runtime.py"}


@pytest.mark.parametrize("room", ["app", "backends", "scripts"])
def test_no_file_is_longer_than_a_few_screens(room: str) -> None:
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in (ROOT / room).rglob("*.py")}
    assert {path.name: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_engine_packages_do_not_import_each_other() -> None:
    engines = set(engine_packages())
    assert {"whisper", "embedded", "fake"} <= engines
    wrong = []
    for path in (ROOT / "backends").rglob("*.py"):
        own = _folder(path)[1]
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "backends" and len(parts) > 1 and parts[1] in engines and parts[1] != own:
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_the_gateway_process_stays_light() -> None:
    """Importing the whole app must load no tensor library and no decoder, or start-up and memory are lost."""
    code = f"import sys, app.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=LIMIT
    )
    assert answer.stdout.strip() == "[]"


# What Windows lacks, by module.
POSIX_NAMES = {
    "os": "fork forkpty killpg setsid setpgid getpgid getuid geteuid getgid getegid getgroups setuid nice chown lchown "
    "fchmod "
    "mkfifo statvfs getloadavg sched_getaffinity sched_setaffinity uname wait wait3 wait4 WNOHANG sysconf openpty sync "
    "posix_spawn memfd_create pread pwrite sendfile register_at_fork ttyname kill execv execve execvp rename",
    "signal": "SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGQUIT SIGSTOP SIGCONT alarm pause setitimer "
    "pthread_sigmask sigwait siginterrupt",
    "socket": "AF_UNIX fromfd",
    "select": "poll epoll kqueue",
    "time": "tzset clock_gettime pthread_getcpuclockid",
    "asyncio": "open_unix_connection start_unix_server",
}
# Of any object. A rename fails on Windows where the target exists; os.kill and os.exec* mean something else there.
POSIX_METHODS = {"add_signal_handler", "create_unix_server", "create_unix_connection", "get_child_watcher", "rename"}
POSIX_KEYWORDS = {"preexec_fn", "pass_fds", "process_group", "start_new_session"}
POSIX_MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "crypt", "readline"}
POSIX_FOLDERS = ("/tmp", "/var/", "/usr/", "/etc/", "/home/", "/dev/null", "/dev/stdin", "/dev/shm")  # noqa: S108
FORBIDDEN = {f"{module}.{name}" for module, names in POSIX_NAMES.items() for name in names.split()}


def _guarded(tree: ast.AST) -> set[int]:
    """Nodes within an `if` that asks for the platform."""
    asking = [n for n in ast.walk(tree) if isinstance(n, ast.If | ast.IfExp) and _asks_for_platform(n.test)]
    return {id(inner) for node in asking for inner in ast.walk(node)}


def _asks_for_platform(test: ast.expr) -> bool:
    return any(
        ast.unparse(node) in ("sys.platform", "os.name") for node in ast.walk(test) if isinstance(node, ast.Attribute)
    )


def _posix_only(tree: ast.AST) -> Iterator[str]:
    """What does not exist or differs on Windows, outside an `if sys.platform ...` or `if os.name ...`."""
    guarded = _guarded(tree)
    for node in ast.walk(tree):
        if id(node) not in guarded and (found := _posix_fault(node)):
            yield f"{getattr(node, 'lineno', 0)}: {found}"


def _posix_fault(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN:
        return ast.unparse(node)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(POSIX_FOLDERS):
        return node.value
    if isinstance(node, ast.Import) and POSIX_MODULES & {alias.name for alias in node.names}:
        return ast.unparse(node)
    if isinstance(node, ast.ImportFrom) and _imported(node) & (FORBIDDEN | POSIX_MODULES):
        return ast.unparse(node)
    return _posix_call(node) if isinstance(node, ast.Call) else ""


def _imported(node: ast.ImportFrom) -> set[str]:
    return {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}


def _posix_call(node: ast.Call) -> str:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    keywords = {keyword.arg for keyword in node.keywords}
    texts = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    if name in POSIX_METHODS and isinstance(node.func, ast.Attribute):
        return f".{name}()"
    if name == "strftime" and any(re.search(r"%[-_^#0EO]|%[esPkl]", text) for text in texts):
        return f"strftime {texts}"
    if name == "NamedTemporaryFile" and not {"delete", "delete_on_close"} & keywords:
        return "a NamedTemporaryFile cannot be opened a second time on Windows"
    if name in ("get_context", "set_start_method") and {"fork", "forkserver"} & set(texts):
        return f"{name}({texts[0]!r})"
    return ", ".join(sorted(POSIX_KEYWORDS & keywords))


def _implicit_encoding(tree: ast.AST) -> Iterator[str]:
    """Text opened without saying UTF-8, which a Japanese or Western Windows reads in its own code page."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = (
            node.func.id
            if isinstance(node.func, ast.Name)
            else node.func.attr
            if isinstance(node.func, ast.Attribute)
            else ""
        )
        keywords = {keyword.arg for keyword in node.keywords}
        if (
            name in {"read_text", "write_text"}
            and "encoding" not in keywords
            and len(node.args) < (1 if name == "read_text" else 2)
        ):
            yield f"{node.lineno}: {name} without encoding"
        if name == "open" and isinstance(node.func, ast.Name):
            mode = (
                node.args[1] if len(node.args) > 1 else next((k.value for k in node.keywords if k.arg == "mode"), None)
            )
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


@pytest.mark.parametrize(
    "source",
    [
        "os.fork()",
        "signal.SIGKILL",
        "x = '/tmp/a'",
        "import fcntl",
        "from resource import setrlimit",
        "from os import getuid",
        "os.kill(pid, signal.SIGTERM)",
        "path.rename(other)",
        "subprocess.Popen(command, preexec_fn=f)",
        "subprocess.Popen(command, start_new_session=True)",
        "loop.add_signal_handler(2, stop)",
        "socket.socket(socket.AF_UNIX)",
        "time.strftime('%-d')",
        "tempfile.NamedTemporaryFile()",
        "multiprocessing.get_context('fork')",
    ],
)
def test_the_posix_rule_finds_what_it_forbids(source: str) -> None:
    assert list(_posix_only(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "if sys.platform != 'win32':\n    os.killpg(1, 9)",
        "if os.name != 'nt':\n    os.execv(a, b)",
        "path.replace(other)",
        "time.strftime('%Y-%m-%d')",
        "tempfile.NamedTemporaryFile(delete=False)",
    ],
)
def test_guarded_and_portable_code_is_allowed(source: str) -> None:
    assert not list(_posix_only(ast.parse(source)))


def test_the_encoding_rule_finds_what_it_forbids() -> None:
    assert list(_implicit_encoding(ast.parse("open('a')")))
    assert list(_implicit_encoding(ast.parse("p.read_text()")))
    assert not list(_implicit_encoding(ast.parse("open('a', 'rb'); p.read_text(encoding='utf-8')")))
