"""Turns the end of the console or terminal that a server was started from into a shutdown.

Owns the system's calls for it: SIGHUP where there are terminals, the control handler where there are Windows consoles.
Knows nothing of what has to be ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

_DRAIN_SECONDS, _END_SECONDS = 3.0, 1.5  # Windows ends a process 5 s after its console was closed, whatever it does

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    # CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT of wincon.h
    _CLOSING = (2, 5, 6)

    @contextlib.contextmanager
    def shutdown_on_close(shut_down: Callable[[], None], cut: Callable[[], None]) -> Iterator[None]:
        """While this lasts, a closed console calls `shut_down`, and `cut` when little of the time is left.

        Windows ends the process when its handler returns, so the handler, which has a thread of its own, waits until
        this context is left.
        """
        left = threading.Event()

        def handle(event: int) -> bool:
            if event not in _CLOSING:
                return False
            shut_down()
            if not left.wait(_DRAIN_SECONDS):
                cut()
                left.wait(_END_SECONDS)
            return True

        handler = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)(handle)
        kernel = ctypes.WinDLL("kernel32")
        kernel.SetConsoleCtrlHandler(handler, True)
        try:
            yield
        finally:
            left.set()
            kernel.SetConsoleCtrlHandler(handler, False)

else:

    @contextlib.contextmanager
    def shutdown_on_close(shut_down: Callable[[], None], cut: Callable[[], None]) -> Iterator[None]:
        """While this lasts, SIGHUP calls `shut_down`, except where it was ignored before, as `nohup` asks for.

        A closed terminal sends it more than once (its shell and the system do), so `cut` is never called. Output that
        went to the terminal goes nowhere afterwards: writing to one that is gone is an error, and logging it would stop
        the shutdown.
        """
        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        ):
            yield
            return
        terminals = [descriptor for descriptor in (1, 2) if _is_terminal(descriptor)]

        def handle(*_: object) -> None:
            _silence(terminals)
            shut_down()

        before = signal.signal(signal.SIGHUP, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)


def _is_terminal(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        return os.isatty(descriptor)
    return False


def _silence(terminals: list[int]) -> None:
    """Redirect these descriptors to the null device if their terminal is gone."""
    for descriptor in terminals:
        if not _is_terminal(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
