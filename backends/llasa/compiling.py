"""torch.compile for the decode step, where it works; otherwise the reason why it does not.

Compiled code is kept in the user's folder, so that a second start finds it.
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
    """Compile the loop's step and try it. Returns "on", or "off: REASON" with the loop left as it was."""
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
    """CUDA graphs for the loop's step, on CUDA. Returns "graphs", or "" with the loop left as it was."""
    if loop.device.type != "cuda":
        return ""
    reason = loop.fix_shapes(compiled=False)
    if reason:
        log.warning("CUDA graphs are not used: %s", reason)
    return "" if reason else "graphs"


def obstacle(device: torch.device) -> str:
    """What stands in the way of torch.compile on a device, "" if nothing is known to."""
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
