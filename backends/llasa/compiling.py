"""torch.compile or CUDA graphs for the decode step, and the reason where they do not work.

Compiled code is cached in the user's folder, so that a second start is faster.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from pathlib import Path

import torch

from backends.llasa.decoding import TokenLoop

log = logging.getLogger(__name__)

_COMPILERS = ("cl",) if sys.platform == "win32" else ("g++", "clang++", "c++")


def try_compile(loop: TokenLoop, user_dir: Path) -> str:
    """Compile the loop's step and check its result. Returns "on", or "off: REASON" with the loop unchanged."""
    reason = obstacle(torch.device(loop.device))
    if not reason:
        cache = user_dir / "compiled"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
        os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton"))
        reason = loop.fix_shapes(compiled=True)
    if reason:
        log.warning("torch.compile is not used: %s", reason)
        return f"off: {reason}"
    return "on"


def try_graphs(loop: TokenLoop) -> str:
    """Capture the loop's step as CUDA graphs, on CUDA. Returns "graphs", or "" with the loop unchanged."""
    if loop.device.type != "cuda":
        return ""
    reason = loop.fix_shapes(compiled=False)
    if reason:
        log.warning("CUDA graphs are not used: %s", reason)
    return "" if reason else "graphs"


def obstacle(device: torch.device) -> str:
    """Why torch.compile cannot work on a device, "" if nothing known prevents it."""
    if os.environ.get("NO_TORCH_COMPILE"):
        return "NO_TORCH_COMPILE is set"
    if device.type in ("cuda", "xpu"):
        return "" if importlib.util.find_spec("triton") else "Triton is not installed"
    if device.type == "cpu":
        return (
            ""
            if any(shutil.which(name) for name in _COMPILERS)
            else f"no C++ compiler ({', '.join(_COMPILERS)}) was found"
        )
    return f"it is not supported on {device.type}"
