"""How a script that holds the server to its promises ends: one line of JSON, a file of it, and an exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def finish(figures: dict[str, Any], output: Path | None) -> int:
    """Print and keep the figures; the exit status is 1 if figures["broken"] names a promise that was not kept."""
    print("broken: " + ("\n  ".join(["", *figures["broken"]]) if figures["broken"] else "nothing"))
    print(json.dumps(figures))
    if output:
        output.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 1 if figures["broken"] else 0
