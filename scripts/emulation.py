"""What the lanes for other machines share: a folder that is kept between runs, Debian's mirror, and requirements.

Imported by scripts that run as files of their own; imports nothing of the project. Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def cache_folder(environ: Mapping[str, str], name: str) -> Path:
    """Where a lane keeps what it has downloaded, some GB; the variable <NAME>_LANE_CACHE names another place."""
    caches = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    given = environ.get(f"{name.upper()}_LANE_CACHE")
    return Path(given or Path(caches) / "speech-gateway" / f"{name}-lane")


def mirror() -> list[str]:
    """The mirror that this machine's own packages come from, so that none is named here."""
    sources = Path(os.sep, "etc", "apt")
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in sources.rglob("*")
        if path.suffix in (".sources", ".list")
    ]
    found = re.search(r"^(?:URIs:|deb (?:\[[^]]*\] )?)\s*(\S+/debian)/?\s", "\n".join(texts), re.MULTILINE)
    return [found[1]] if found else []


def requirement_lines(files: Sequence[Path]) -> list[str]:
    """What the files require, without hashes: wheels of another platform have others."""
    texts = [file.read_text(encoding="utf-8") for file in files]
    return [line.rstrip("\\ ") for text in texts for line in text.splitlines() if re.match(r"[a-zA-Z0-9]", line)]
