"""Headless Chromium, and servers for its pages.

Owns where the browser is, how it is started without reaching for the network, and which tests want it.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backends import children

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NEEDS_PAGE = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the extra ui is not installed"),
]


@contextmanager
def served_by(program: str) -> Iterator[str]:
    """The address that a program prints, which runs until the block ends.

    A process of its own: CPython 3.11 fails where Gradio is imported in one thread and another one compiles.
    """
    command = children.command_of_program(program)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=children.environment(), text=True, encoding="utf-8", **pipes) as process:
        assert process.stdout is not None
        yield next(line.strip() for line in process.stdout if line.startswith("http"))
        process.kill()
