"""The files that make a model: which are wanted, which pickles may be taken, the mark of a folder that is being filled,
and files that lie in several parts.

A leaf: knows neither the hub nor the packages that bring files.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.interface import ModelUnavailable

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all (0: unknown) while files arrive."""

UNFINISHED = ".unfinished"  # mark of a folder that is being filled
RECORD = ".origin.json"  # model, revision and commit of a folder that was pulled
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz")
CONTAINER = "model.bin"  # the weights of a CTranslate2 folder
_GGML_MAGIC = b"lmgg"  # 0x67676d6c, little endian
COMPANION_PATTERNS = ("*.json", "*.safetensors", "*.yaml", "*.txt", "tokenizer.model")

# Published only as pickles: the files that may be taken, each of which must load under weights_only.
NAMED_PICKLES: Mapping[str, tuple[str, ...]] = {
    "sony/silentcipher": ("44_1_khz/73999_iteration/*.ckpt",),
    "zhoujiaming777/DIFFA": ("pytorch_model.bin",),
}
MOST_HEADER_BYTES = 100_000_000  # the cap of the safetensors format
_LONGEST_NAME = 255  # bytes, of every usual file system
_NO_NAME = frozenset('/\\:*?"<>|') | {chr(code) for code in range(32)}
_CONTAINER_HEAD = struct.Struct("<IH")
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model that a deployment needs. required: globs of which each must match ("a|b": either); patterns: globs of
    what is fetched; switch: the option that, when false, does without it, "" if it cannot be done without."""

    model: str
    required: tuple[str, ...]
    patterns: tuple[str, ...]
    revision: str = ""
    switch: str = ""


def matches(path: str, spec: ModelSpec) -> bool:
    """Whether a file of a repository is wanted: by pattern, and no pickle unless that very file is named. CONTAINER
    only looks like a pickle by its name; what it is shows when it has arrived (`is_container`)."""
    if path == CONTAINER and path in spec.patterns:
        return True
    if Path(path).suffix in PICKLES:
        return any(fnmatch(path, pattern) for pattern in NAMED_PICKLES.get(spec.model, ()))
    return any(fnmatch(path, pattern) for pattern in spec.patterns)


def mark(folder: Path, model: str) -> None:
    """From now on the folder counts as incomplete, until `finish`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{model} is being fetched into this folder; another pull goes on where the last one stopped.\n"
    (folder / UNFINISHED).write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelUnavailable, naming the file, if it is missing, broken or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{path.name} is missing in {path.parent}; pull the model again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{path} does not hold a JSON object")
    return value


def is_file_name(name: object) -> bool:
    """Whether a name out of a file of somebody else's can be that of a file in the same folder, on every platform."""
    return (
        isinstance(name, str) and 0 < len(name.encode("utf-8", "replace")) <= _LONGEST_NAME and not set(name) & _NO_NAME
    )


def shard_names(index: Mapping[str, Any]) -> set[str]:
    """The files that a safetensors index names. Raises ValueError for names that are none."""
    table = index["weight_map"]
    if not isinstance(table, dict) or not table:
        raise ValueError("it has no weight_map")
    if strange := [name for name in table.values() if not is_file_name(name)]:
        raise ValueError(f"{str(strange[0])[:60]!r} is no file's name")
    return set(table.values())


def safetensors_head(file: Path) -> tuple[dict[str, Any], int]:
    """The table of a safetensors file, without its metadata, and the byte at which the tensors begin.

    The file is 8 bytes of length, JSON, then the tensors. Raises OSError; EOFError for a head that the file cannot
    hold; ValueError for one that is no JSON object.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MOST_HEADER_BYTES, size - 8):
            raise EOFError("the head is longer than the file")
        try:
            table = json.loads(stream.read(length))
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
    if not isinstance(table, dict):
        raise ValueError("it is no JSON object")
    table.pop("__metadata__", None)
    return table, 8 + length


def safetensors_end(file: Path) -> int:
    """How long a safetensors file says it is, in bytes. Raises OSError, EOFError or ValueError for a broken head."""
    table, base = safetensors_head(file)
    try:
        ends = [entry["data_offsets"][1] for entry in table.values()]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"the head is garbled: {error}") from error
    if not all(type(end) is int and end >= 0 for end in ends):
        raise ValueError("an offset is no whole number")
    return base + max(ends, default=0)


def is_container(file: Path) -> bool:
    """Whether a file begins as CTranslate2's container does: a small version number, then the name of the model's
    kind."""
    with file.open("rb") as stream:
        head = stream.read(_CONTAINER_HEAD.size)
        if len(head) < _CONTAINER_HEAD.size:
            return False
        version, length = _CONTAINER_HEAD.unpack(head)
        name = stream.read(length)
    return 0 < version < 100 and 1 < len(name) == length <= 64 and name.endswith(b"Spec\0") and name[:-1].isalnum()


def ggml_files(folder: Path) -> list[Path]:
    """The files of a folder that are a whole model in whisper.cpp's format, by their content; safetensors beside them
    win."""
    if any(folder.glob("*.safetensors")) or (folder / "model.safetensors.index.json").is_file():
        return []
    return [path for path in sorted(folder.glob("*.bin")) if is_ggml(path)]


def is_ggml(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_GGML_MAGIC)) == _GGML_MAGIC


class JoinedFile:
    """A file that lies in one or several parts, read through memory maps as if it were one."""

    def __init__(self, *parts: Path) -> None:
        """Raises ModelUnavailable if a part is missing or empty."""
        self.parts = parts
        try:
            sizes = [part.stat().st_size for part in parts]
        except OSError as error:
            raise ModelUnavailable(f"{error.filename} cannot be read: {error.strerror}") from error
        self._ends = np.cumsum(sizes, dtype=np.int64).tolist()
        self.size: int = self._ends[-1] if parts else 0

    def __str__(self) -> str:
        return " + ".join(str(part) for part in self.parts)

    @cached_property
    def _maps(self) -> list[NDArray[np.uint8]]:
        filled = [part for part in self.parts if part.stat().st_size]
        return [np.memmap(str(part), np.uint8, "r") for part in filled]

    def bytes_at(self, offset: int, length: int) -> NDArray[np.uint8]:
        """Bytes [length]: the map itself, or a copy where they lie across the end of a part."""
        if not 0 <= offset <= offset + length <= self.size:
            raise ModelUnavailable(f"{self} is truncated: it has {self.size} bytes, {offset + length} are needed")
        pieces, begin = [], 0
        for part in self._maps:
            first, last = max(0, offset - begin), min(len(part), offset + length - begin)
            if first < last:
                pieces.append(part[first:last])
            begin += len(part)
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.uint8), *pieces])

    def read(self, offset: int, length: int) -> bytes:
        """Raises ModelUnavailable beyond the end."""
        return self.bytes_at(offset, length).tobytes()

    def sha256(self) -> str:
        """Of the whole, in hexadecimal."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def _chunks(self) -> Iterator[bytes]:
        for part in self.parts:
            with part.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    yield chunk


class FileSection(JoinedFile):
    """A file that is a part of a larger one. offset, size: bytes."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        """Raises ModelUnavailable if the larger one is missing or too short."""
        super().__init__(path)
        if offset + size > self.size:
            raise ModelUnavailable(f"{path} is truncated")
        self._offset, self.size = offset, size

    def bytes_at(self, offset: int, length: int) -> NDArray[np.uint8]:
        """Bytes [length] of the section."""
        if not 0 <= offset <= offset + length <= self.size:
            raise ModelUnavailable(f"{self} has no {offset + length} bytes")
        return np.memmap(str(self.parts[0]), np.uint8, "r", self._offset + offset, (length,))

    def _chunks(self) -> Iterator[bytes]:
        for first in range(0, self.size, _CHUNK):
            yield self.read(first, min(_CHUNK, self.size - first))
