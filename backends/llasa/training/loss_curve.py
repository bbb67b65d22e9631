"""A loss curve as a picture and as a few lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

_COLUMNS, _ROWS = 60, 10


def draw_curve(losses: Sequence[float], path: Path) -> None:
    """A PNG of the loss over optimiser steps, with a running mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, alpha=0.4, label="loss")
    axes.plot(steps, running_mean(losses), label="running mean")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("cross entropy")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def running_mean(losses: Sequence[float], keep: float = 0.9) -> list[float]:
    """Exponential mean that starts at the first value."""
    means: list[float] = []
    for loss in losses:
        means.append(loss if not means else keep * means[-1] + (1 - keep) * loss)
    return means


def drawn_in_text(losses: Sequence[float]) -> str:
    """The curve in characters, for a terminal: at most 60 columns of 10 rows."""
    if not losses:
        return ""
    columns = min(_COLUMNS, len(losses))
    edges = [round(i * len(losses) / columns) for i in range(columns + 1)]
    values = [sum(losses[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(values), max(values)
    heights = [round((value - low) / (high - low or 1) * (_ROWS - 1)) for value in values]
    lines = []
    for row in reversed(range(_ROWS)):
        label = f"{low + (high - low) * row / (_ROWS - 1):8.3f}"
        lines.append(f"{label} |" + "".join("*" if height == row else " " for height in heights).rstrip())
    return "\n".join([*lines, " " * 9 + "+" + "-" * columns + f" {len(losses)} steps"])
