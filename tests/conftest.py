"""Set-up for all tests: no network, one thread per library, a cache folder of their own."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile

import httpx
import pytest

from tests.support.order import slow_files_first
from tests.support.security import mark_security
from tests.support.server import use_engine
from tests.support.skips import skip_summary
from tests.support.waiting import LIMIT

# Before any numeric library is imported: several test processes share two cores, and oversubscribed OpenMP collapses.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_TORCH_COMPILE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Servers remember footprints in the user's cache folder: tests neither trust what lies there nor add to it.
_cache = tempfile.mkdtemp(prefix="speech-gateway-tests-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = os.environ["LOCALAPPDATA"] = _cache

# httpx gives up after 5 s unless told otherwise: on a busy machine that would be a statement about time.
for _name in ("get", "post", "put", "delete", "request", "stream"):
    setattr(httpx, _name, functools.partial(getattr(httpx, _name), timeout=LIMIT))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        choices=["", "uvicorn", "cluster"],
        default="",
        help="what serves: workers of the gateway's own, or a cluster (over Ray in tests/app/cluster, else without)",
    )


def pytest_configure(config: pytest.Config) -> None:
    use_engine(config.getoption("--server"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_security(items)
    slow_files_first(items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was skipped and which command adds it."""
    if skipped := terminalreporter.stats.get("skipped"):
        terminalreporter.section("skipped tests")
        for line in skip_summary(skipped):
            terminalreporter.write_line(line)
