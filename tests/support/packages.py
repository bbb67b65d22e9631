"""Makes installed-looking packages of data files in a folder, as importlib.metadata finds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(site: Path, name: str, files: Mapping[str, bytes], version: str = "1.0.0") -> None:
    """Put a package into a folder that stands on sys.path. Its modules would fail if anything imported them."""
    module = name.replace("-", "_")
    for path, data in {f"{module}/__init__.py": b"raise RuntimeError('imported')", **files}.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(data)
    info = site / f"{module}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
