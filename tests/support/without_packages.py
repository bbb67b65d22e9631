"""A copy of this environment that lacks some packages, for what happens where they are gone. Installs nothing."""

from __future__ import annotations

import sysconfig
import venv
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from scripts.provision import environment_python


def environment_without(packages: Collection[str], folder: Path) -> Path:
    """The interpreter of an environment in `folder` whose packages are links to ours, but for those named.

    Raises OSError where this system makes no links.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    base = {"base": str(folder), "platbase": str(folder)}
    site, left_out = Path(sysconfig.get_path("purelib", vars=base)), _entries(packages)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name not in left_out and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    return environment_python(folder)


def _entries(packages: Collection[str]) -> set[str]:
    """The names in the folder of packages that belong to these."""
    found = set()
    for name in packages:
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError:
            continue
        found |= {Path(file).parts[0] for file in files}
    return found - {"..", "__pycache__"}
