"""Capturing a function as a CUDA graph, so that all its kernels are launched by one call. Knows no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

_WARM_UPS = 3  # runs before the capture, as many as PyTorch's notes on CUDA graphs make

Output = TypeVar("Output")


def capture(function: Callable[[], Output], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Output]:
    """The graph of one call of `function`, and what that call gave: tensors that every replay overwrites.

    The function reads its inputs from tensors that stay where they are, and waits for nothing on the device.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # libraries choose their kernels outside the capture
        for _ in range(_WARM_UPS):
            function()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function()
    return graph, output
