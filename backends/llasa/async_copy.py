"""Copies of small integer tensors between host and device, without either waiting for the other.

On CUDA both ways go through pinned memory, because a copy from or to ordinary memory first lets the device finish all
it has been given. Other devices copy plainly: on a CPU there is nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(values: Sequence[int], device: torch.device) -> Tensor:
    """int64 [len(values)] on the device."""
    host = torch.tensor(list(values), dtype=torch.int64)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


class Fetch:
    """A copy of a tensor to the host, in progress or done."""

    def __init__(self, source: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if source.device.type == "cuda":
            self._host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
            self._host.copy_(source, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()
        else:
            self._host = source.cpu()

    @property
    def ready(self) -> bool:
        """Whether `rows` would not wait."""
        return self._done is None or bool(self._done.query())  # type: ignore[no-untyped-call]

    def rows(self) -> list[list[int]]:
        """The numbers of an int tensor [rows, columns]; waits for the copy if it is not done."""
        if self._done is not None:
            self._done.synchronize()
        rows: list[list[int]] = self._host.tolist()
        return rows
