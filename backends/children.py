"""The one way to start a Python process of ours, safe in any working folder.

Owns the command line, the environment, the process group, and a run with a time limit that leaves no process behind.
Python puts the working folder and PYTHONPATH before its own library, so files that lie there would be run as ours:
children get `-P` and a PYTHONPATH of this project alone. Knows no module that it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.privacy import NO_TELEMETRY

ROOT = Path(__file__).resolve().parents[1]  # holds `app` and `backends`, which every interpreter must find
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# Of Python's own variables only these are passed on. The others change what is imported or run (PYTHONPATH,
# PYTHONSTARTUP, PYTHONWARNINGS, PYTHONBREAKPOINT), or are right for the parent's interpreter only (PYTHONHOME).
_HARMLESS = frozenset(
    {
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONFAULTHANDLER",
        "PYTHONHASHSEED",
        "PYTHONIOENCODING",
        "PYTHONNOUSERSITE",
        "PYTHONUNBUFFERED",
    }
)
_SECRET_PARTS = ("TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL")
# On Windows a child that is to get Ctrl+Break alone needs a group of its own; elsewhere signals are sent to one process
# anyway.
NEW_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


@dataclass(frozen=True, slots=True)
class Finished:
    """How a child ended. returncode: negative for a signal; stdout and stderr: what it wrote, b"" where that was
    discarded."""

    returncode: int
    stdout: bytes
    stderr: bytes = b""


def command(module: str, *arguments: str, python: str = "") -> list[str]:
    """The command line that runs a module of ours. python: an interpreter of 3.11 or later, "" = this one."""
    return [python or sys.executable, "-P", "-m", module, *arguments]


def command_of_program(program: str, *arguments: str) -> list[str]:
    """The command line that runs a program given as text."""
    return [sys.executable, "-P", "-c", program, *arguments]


def environment(
    *, threads: int | None = None, offline: bool = False, secrets: bool = True, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Ours without Python's own variables, with our packages to be found and every telemetry off.

    threads: CPU threads of numeric libraries, which read them at import; None leaves them alone. offline: the hub must
    not be asked. secrets: whether our configuration and variables that are named like secrets are passed on. extra:
    more variables.
    """
    variables = {name: value for name, value in os.environ.items() if _passed_on(name.upper(), secrets)}
    numeric = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
    hub = {"HF_HUB_OFFLINE": "1"} if offline else {}
    return {**variables, **NO_TELEMETRY, **numeric, **hub, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **(extra or {})}


def _passed_on(name: str, secrets: bool) -> bool:
    if name.startswith("PYTHON"):
        return name in _HARMLESS
    return secrets or not (name.startswith("SPEECH_GATEWAY_") or any(part in name for part in _SECRET_PARTS))


def own_group() -> dict[str, Any]:
    """Options of a process that Ctrl+C and Ctrl+Break in our console must not reach: we end it ourselves."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


async def start(
    arguments: Sequence[str], variables: Mapping[str, str], *, stdin: int, stdout: int, stderr: int, limit: int = 2**16
) -> asyncio.subprocess.Process:
    """A child in a process group of its own. limit: bytes that are read ahead from its pipes. Raises OSError."""
    return await asyncio.create_subprocess_exec(
        *arguments, stdin=stdin, stdout=stdout, stderr=stderr, env=variables, limit=limit, **own_group()
    )


def kill(process: asyncio.subprocess.Process) -> None:
    """Kill the process if it still runs; it must still be waited for.

    Not by its own `kill` where there are signals: that of Python 3.11 looks first whether the process has ended, which
    takes the exit status away from the event loop.
    """
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.kill(process.pid, signal.SIGKILL)


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill the process if it still runs, and wait until it is gone."""
    kill(process)
    await process.wait()


async def run_async(
    arguments: Sequence[str], variables: Mapping[str, str], *, seconds: float, stdin: bytes | None = None
) -> Finished:
    """What the child printed; its stderr is discarded. Raises OSError and TimeoutError; leaves no process behind."""
    process = await start(
        arguments,
        variables,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(seconds):
            printed, _ = await process.communicate(stdin)
    finally:
        await end(process)
    return Finished(process.returncode or 0, printed)


def run(
    arguments: Sequence[str], variables: Mapping[str, str], *, seconds: float | None = None, stdin: bytes = b""
) -> Finished:
    """What the child printed. Blocks. Raises OSError and subprocess.TimeoutExpired; leaves no process behind."""
    done = subprocess.run(  # noqa: S603 # made by `command`
        arguments, env=variables, input=stdin, capture_output=True, timeout=seconds, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def run_on_terminal(arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    """Let the child have our terminal, Ctrl+C included. Returns its exit status."""
    return subprocess.run(arguments, env=variables, check=False).returncode  # noqa: S603 # made by `command`
