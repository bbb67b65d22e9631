"""Model files that come as Python packages: found through their metadata, never imported, and used only if every byte
is known.

Owns the search and the check by digest, which is remembered by size and time. Knows no particular package; the sets of
known files are `backends.model_sets`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from backends.interface import ModelUnavailable
from backends.model_files import FileSection, JoinedFile

INSTALL = "python scripts/bootstrap.py weights"  # what a user types to get the packages
LOCATED = ".located.json"  # in a model's folder: where the files lie that are used from where they are


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a package. path: as the package's own list of files names it, "a|b": whichever is there; begins: the
    first bytes, in hexadecimal, of what is wanted where that lies somewhere inside the file."""

    package: str
    path: str
    begins: str = ""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file whose content is known: bytes and SHA-256 of its parts joined in order. parts: in packages, () =
    elsewhere."""

    name: str
    size: int
    sha256: str
    parts: tuple[Part, ...] = ()

    @property
    def packages(self) -> list[str]:
        return list(dict.fromkeys(part.package for part in self.parts))

    @property
    def inside(self) -> bool:
        """Whether it lies inside a larger file, of which it is the only part."""
        return any(part.begins for part in self.parts)


class Refused(ModelUnavailable):
    """A file is there but is not the one that is known."""


def find_part(part: Part) -> Path | None:
    """Where a package's file lies; None if the package is not installed or does not have it."""
    try:
        package = metadata.distribution(part.package)
    except metadata.PackageNotFoundError:
        return None
    paths = (Path(str(package.locate_file(path))) for path in part.path.split("|"))
    return next((path for path in paths if path.is_file()), None)


def find_file(file: KnownFile) -> JoinedFile | None:
    """A file out of packages by its size alone, unchecked; None if parts are missing. Raises Refused for another
    size."""
    paths = [path for part in file.parts if (path := find_part(part)) is not None]
    if not paths or len(paths) < len(file.parts):
        return None
    joined = _inside(file, paths[0]) if file.inside else JoinedFile(*paths)
    if joined.size != file.size:
        raise _refusal(file, f"{joined.size} bytes instead of {file.size}")
    return joined


def _inside(file: KnownFile, path: Path) -> FileSection:
    """A file that lies inside a larger one. Raises Refused where no such bytes are there."""
    offset = _offset_of(path, bytes.fromhex(file.parts[0].begins), path.stat().st_mtime_ns)
    if offset < 0 or offset + file.size > path.stat().st_size:
        raise _refusal(file, "it does not lie there")
    return FileSection(path, offset, file.size)


@lru_cache(maxsize=64)
def _offset_of(path: Path, begins: bytes, changed: int) -> int:
    """Where these bytes first are in a file, -1 = nowhere; changed: so that another file of that name is read anew."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return mapped.find(begins)


def is_installed(*files: KnownFile) -> bool:
    """Whether all parts of the files are there; the content is not looked at."""
    return all(find_part(part) is not None for file in files for part in file.parts)


def read_checked(file: KnownFile) -> bytes:
    """The whole content of a file out of packages.

    Raises ModelUnavailable where it is missing, and Refused where it is another file.
    """
    joined = find_file(file)
    if joined is None:
        missing = " and ".join(missing_packages([file]))
        raise ModelUnavailable(f"{file.name} is missing ({missing} not installed); run: {INSTALL}")
    content = joined.read(0, joined.size)
    if (digest := hashlib.sha256(content).hexdigest()) != file.sha256:
        raise _refusal(file, f"SHA-256 {digest} instead of {file.sha256}")
    return content


def check(file: KnownFile, joined: JoinedFile) -> None:
    """Raises Refused if a file's content is not the known one."""
    if joined.size != file.size:
        raise _refusal(file, f"{joined.size} bytes instead of {file.size}")
    if (digest := joined.sha256()) != file.sha256:
        raise _refusal(file, f"SHA-256 {digest} instead of {file.sha256}")


def _refusal(file: KnownFile, difference: str) -> Refused:
    where = f"the installed package {' and '.join(file.packages)}" if file.parts else "its folder"
    return Refused(f"{file.name} in {where} is not the file that is known ({difference}), so it is refused")


# --- The record of a model whose files are used from where they lie ---------------------------------------------------


def write_record(folder: Path, source: str, files: Mapping[str, JoinedFile], known: Mapping[str, KnownFile]) -> None:
    """Put checked files on record, so that the next start need not read them. Raises OSError."""
    rows = {
        name: {"sha256": known[name].sha256, "parts": [[str(path), *_stamp(path)] for path in joined.parts]}
        for name, joined in files.items()
    }
    write_whole(folder / LOCATED, json.dumps({"source": source, "files": rows}, indent=1).encode())


def read_record(folder: Path) -> dict[str, JoinedFile]:
    """The files on record by name, as far as all their parts still have the size and time of when they were checked."""
    return {name: JoinedFile(*paths) for name, (_, paths) in _valid_rows(folder).items()}


def recorded_digest(folder: Path, name: str) -> str | None:
    """SHA-256 of a file on record; None if it is not on record or has changed since."""
    row = _valid_rows(folder).get(name)
    return row[0] if row else None


def recorded_source(folder: Path) -> str:
    """Where the files on record come from, for people; "" if there is no record."""
    return str(_stored(folder).get("source", ""))


def _valid_rows(folder: Path) -> dict[str, tuple[str, list[Path]]]:
    try:
        rows = _stored(folder)["files"].items()
        return {name: (str(row["sha256"]), paths) for name, row in rows if (paths := _unchanged(row["parts"]))}
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def _stored(folder: Path) -> dict[str, Any]:
    try:
        stored = json.loads((folder / LOCATED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _unchanged(parts: Sequence[Sequence[Any]]) -> list[Path]:
    """The paths, or [] if one has changed or gone."""
    try:
        same = all(_stamp(Path(path)) == [size, changed] for path, size, changed in parts)
    except OSError:
        return []
    return [Path(path) for path, *_ in parts] if same else []


def _stamp(path: Path) -> list[int]:
    """Size in bytes, and time of the last change in nanoseconds."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one step, so that nobody reads half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".new-{os.getpid()}-{path.name}")
    try:
        new.write_bytes(data)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def missing_packages(files: Sequence[KnownFile]) -> list[str]:
    """Packages of which a file is not there, in order and once each."""
    return list(dict.fromkeys(_missing(files)))


def _missing(files: Sequence[KnownFile]) -> Iterator[str]:
    for file in files:
        yield from (part.package for part in file.parts if find_part(part) is None)
