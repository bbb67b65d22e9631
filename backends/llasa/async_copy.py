"""Small numbers between host and device, without either waiting for the other.

On CUDA both ways go through pinned memory, because a copy from or to ordinary memory first lets the device finish all
it has been given. Other devices copy plainly: on a CPU there is nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(values: Sequence[int], device: torch.device) -> Tensor:
    """int64 [len(values)] on the device."""
    fresh = torch.tensor(list(values), dtype=torch.int64)
    return fresh.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else fresh.to(device)


class Fetch:
    """A tensor on its way to the host."""

    def __init__(self, source: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if source.device.type == "cuda":
            self._host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
            self._host.copy_(source, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        else:
            self._host = source.cpu()

    @property
    def ready(self) -> bool:
        """Whether `rows` would not wait."""
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]

    def rows(self) -> list[list[int]]:
        """The numbers of an int tensor [rows, columns]; waits for them if they are not here yet."""
        if self._arrived is not None:
            self._arrived.synchronize()
        found: list[list[int]] = self._host.tolist()
        return found
