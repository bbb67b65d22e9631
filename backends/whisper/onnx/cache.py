"""Built graphs on disk: made once per content of the weights, form and builder version; found again at the next start.

They lie in `.onnx/<key>/` beside the weights, or in a cache folder where that cannot be written or, on Windows, where
onnxruntime could not open them. Knows no session.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import platformdirs

from backends.interface import ModelUnavailable
from backends.whisper.checkpoint import Checkpoint, check
from backends.whisper.config import ModelDimensions
from backends.whisper.onnx.graphs import write_decoder, write_encoder
from backends.whisper.onnx.layers import GraphConfig

BUILDER_VERSION = 7  # raise it whenever the graphs that are built change
_RECORD = "built.json"
_FOLDER = ".onnx"
_UNFINISHED = "building-"
# Characters of the longest path within a root while it is built: folders of the build and of the key, and a file.
_WITHIN = 80
_LONGEST = (
    259  # characters of a path on Windows (MAX_PATH without its end), also for onnxruntime's weights beside a graph
)
_ON_WINDOWS = os.name == "nt"
_ABANDONED = 3600.0  # seconds; a build takes some, and minutes on a slow disk


def built_graphs(checkpoint: Checkpoint, dims: ModelDimensions, form: GraphConfig, cache_folder: str = "") -> Path:
    """The folder with encoder.onnx and decoder.onnx for this form, built if need be.

    Raises ModelUnavailable if the checkpoint is incomplete or no folder can be written.
    """
    check(checkpoint, dims)
    key = _key(checkpoint, dims, form)
    roots = [root for root in (checkpoint.folder / _FOLDER, _fallback_root(cache_folder)) if not _is_too_deep(root)]
    if not roots:
        raise ModelUnavailable(
            f"the path {checkpoint.folder} is too long for ONNX Runtime on Windows; move the weights nearer to the top "
            "of a drive, or set cache_folder to a short path"
        )
    for root in roots:
        if _is_whole(root / key):
            return root / key
    problem: OSError | None = None
    for root in roots:
        try:
            root.mkdir(parents=True, exist_ok=True)
            return _build(root, key, checkpoint, dims, form)
        except OSError as error:
            problem = error
    raise ModelUnavailable(
        f"no room for the ONNX graphs of {checkpoint.folder.name}: {problem}; set cache_folder"
    ) from problem


def _fallback_root(cache_folder: str) -> Path:
    return Path(cache_folder) if cache_folder else platformdirs.user_cache_path("speech-gateway") / "onnx"


def _is_too_deep(root: Path) -> bool:
    """Whether onnxruntime could not open graphs below it: on Windows it makes the paths of their weights canonical in a
    buffer of fixed size, with the prefix for long paths as well as without it."""
    return _ON_WINDOWS and len(str(root.absolute())) + _WITHIN > _LONGEST


def _key(checkpoint: Checkpoint, dims: ModelDimensions, form: GraphConfig) -> str:
    marks = json.dumps([BUILDER_VERSION, checkpoint.content_hash(), asdict(dims), asdict(form)], sort_keys=True)
    return f"{form.weights}-{'static' if form.static else 'dynamic'}-{hashlib.sha256(marks.encode()).hexdigest()[:16]}"


def _is_whole(folder: Path) -> bool:
    """The record names every file with its size; anything else (torn write, cut file) is built anew."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return record["version"] == BUILDER_VERSION and all(
            (folder / name).stat().st_size == size for name, size in record["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _build(root: Path, key: str, checkpoint: Checkpoint, dims: ModelDimensions, form: GraphConfig) -> Path:
    """Write into a temporary folder and rename it, so that two processes cannot tear each other's work."""
    _drop_leftovers(root)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=root, ignore_cleanup_errors=True) as name:
        work = Path(name) / key
        work.mkdir()
        write_encoder(work, checkpoint, dims, form.encoder)
        write_decoder(work, checkpoint, dims, form)
        files = {path.name: path.stat().st_size for path in sorted(work.iterdir())}
        (work / _RECORD).write_text(json.dumps({"version": BUILDER_VERSION, "files": files}), encoding="utf-8")
        for path in work.iterdir():
            _to_disk(path)
        target = root / key
        if not _is_whole(target):
            shutil.rmtree(target, ignore_errors=True)
            try:
                os.replace(work, target)  # noqa: PTH105 - a folder onto nothing, atomic on every platform
            except OSError:
                if not _is_whole(target):  # another process was not faster: a real problem
                    raise
    return target


def _to_disk(path: Path) -> None:
    """A loss of power after the folder got its name must not leave files of the right size without their content."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _drop_leftovers(root: Path) -> None:
    """Graphs of another builder version are of no use to anyone, nor is what a build left that was killed."""
    for folder in [entry for entry in root.iterdir() if entry.is_dir()]:
        left = _is_abandoned(folder) if folder.name.startswith(_UNFINISHED) else not _is_of_this_version(folder)
        if left:
            shutil.rmtree(folder, ignore_errors=True)


def _is_of_this_version(folder: Path) -> bool:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return bool(record.get("version") == BUILDER_VERSION)
    except FileNotFoundError:
        return True  # no graphs of ours
    except (OSError, ValueError, AttributeError):
        return False


def _is_abandoned(folder: Path) -> bool:
    """Has nobody written to it for an hour?"""
    try:
        newest = max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
    except OSError:
        return False  # it is just being finished
    return time.time() - newest > _ABANDONED
