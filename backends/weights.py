"""Where models lie on the disk, whether they are complete, and how they get there.

Owns the folder layout (models_dir/ORG--NAME, or a folder that the configuration names), the completeness check, the
pull from a hub and the import from a folder. A folder that is being filled carries a mark, so that nothing half
complete ever looks complete. Safetensors, CTranslate2's container and whisper.cpp's files only: pickles are taken only
where they are named in `backends.model_files`, and then under weights_only. The hub itself is the business of
`backends.hub`, and models that lie in packages that of `backends.model_sets`. Sizes are bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backends import model_sets
from backends.data_packages import Refused, recorded_source
from backends.hub import download, loads_under_weights_only
from backends.interface import ModelUnavailable
from backends.model_files import (
    COMPANION_PATTERNS,
    CONTAINER,
    NAMED_PICKLES,
    PICKLES,
    RECORD,
    UNFINISHED,
    ModelSpec,
    Progress,
    ggml_files,
    is_container,
    mark,
    matches,
    safetensors_end,
    shard_names,
)
from backends.model_sets import ModelSet, model_set
from backends.registry import BackendInfo

_COPY_CHUNK = 1 << 22


def required_models(info: BackendInfo, model: str, revision: str, options: Mapping[str, Any]) -> list[ModelSpec]:
    """The deployment's own model, then the companions its options name (codec, watermark ...), without repeats."""
    if not info.required_files:
        return []
    specs = [ModelSpec(model or info.default_model, info.required_files, info.pull_patterns, revision)]
    for option, default in info.extra_models.items():
        switch = option.removesuffix("_model")
        if options.get(switch) is False:
            continue  # watermark = false needs no watermark_model
        name = str(options.get(option, default))
        if name and name not in (w.model for w in specs):
            pickles = NAMED_PICKLES.get(name, ())
            # A folder of the user's own may hold either format where the published model is a pickle: its backend
            # looks.
            own = default in NAMED_PICKLES and not is_hub_id(name)
            required = () if own else pickles or ("*.safetensors",)
            switch = switch if hasattr(info.options, switch) else ""
            specs.append(ModelSpec(name, required, (*COMPANION_PATTERNS, *pickles), switch=switch))
    return specs


# --- Where a model lies -----------------------------------------------------------------------------------------------


def is_hub_id(model: str) -> bool:
    """ "openai/whisper-small" is; an absolute path, "./models/x" or a path that exists is not."""
    parts = model.split("/")
    plain = len(parts) == 2 and all(part and part.strip(".") and "\\" not in part and ":" not in part for part in parts)
    return plain and not Path(model).exists()


def model_folder(models_dir: Path, model: str) -> Path:
    """Where a model lies or would lie: its own folder if it names one, else models_dir/ORG--NAME."""
    return models_dir / model.replace("/", "--") if is_hub_id(model) or model_set(model) else Path(model).expanduser()


def comes_in_packages(model: str) -> bool:
    """Whether there are Python packages that hold the model, installed or not."""
    return model_set(model) is not None


def is_fetchable(model: str) -> bool:
    """Whether some hub may have the model."""
    known = model_set(model)
    return known is None or bool(known.hub)


def known_bytes(model: str) -> int:
    """Size of a model whose every file is known, here or not; 0 for any other."""
    known = model_set(model)
    return known.size if known else 0


def problems(folder: Path, spec: ModelSpec) -> list[str]:
    """What is wrong with the files in a folder, for people; [] = complete."""
    if known := model_set(spec.model):
        return model_sets.problems(known, folder)
    if not folder.is_dir():
        return [f"there is no folder {folder}"]
    if (folder / UNFINISHED).exists():
        return [f"{folder} was not filled to its end"]
    return _wrong_files(folder, spec)


def _wrong_files(folder: Path, spec: ModelSpec) -> list[str]:
    if ggml := _ggml(folder, spec):
        names = ", ".join(file.name for file in ggml)
        return [] if len(ggml) == 1 else [f"{folder} holds several models: {names}; put one into a folder of its own"]
    wrong = [f"{pattern} is missing in {folder}" for pattern in spec.required if not _has_any(folder, pattern)]
    wrong += [f"{file} is neither CTranslate2's nor safetensors" for file in _strange_containers(folder, spec)]
    wrong += [text for index in folder.glob("*.safetensors.index.json") for text in _missing_shards(index)]
    wrong += [text for file in folder.glob("*.safetensors") if (text := _truncated(file))]
    commit = read_record(folder)
    if spec.revision and commit and spec.revision not in (commit.get("commit"), commit.get("revision")):
        wrong.append(f"{folder} holds revision {commit.get('revision') or commit.get('commit')}, not {spec.revision}")
    return wrong


def _ggml(folder: Path, spec: ModelSpec) -> list[Path]:
    """Models of whisper.cpp, each whole in one file, where a Whisper is wanted."""
    return ggml_files(folder) if CONTAINER in spec.patterns else []


def _has_any(folder: Path, alternatives: str) -> bool:
    return any(True for pattern in alternatives.split("|") for _ in folder.glob(pattern))


def _strange_containers(folder: Path, spec: ModelSpec) -> list[Path]:
    """A model.bin where CTranslate2's is expected and no safetensors stand beside it; a pickle bears the same name."""
    file = folder / CONTAINER
    expected = CONTAINER in spec.patterns and file.is_file() and not any(folder.glob("*.safetensors"))
    return [file] if expected and not is_container(file) else []


def weights_format(folder: Path, model: str = "") -> str:
    """The format of the weights in a folder, for people, recognised by content; "" where there are none.

    model: as the deployment names it, which may be a set in packages.
    """
    if known := model_set(model):
        ready = not model_sets.problems(known, folder)
        kind = "ONNX Runtime" if known.variants[0].files[0].name.endswith(".ort") else "CTranslate2"
        return f"{kind}, {recorded_source(folder) or 'checked at the first start'}" if ready else ""
    if any(folder.glob("*.safetensors")):
        return "safetensors"
    if ggml_files(folder):
        return "GGML"
    file = folder / CONTAINER
    return "CTranslate2" if file.is_file() and is_container(file) else ""


def _missing_shards(index: Path) -> Iterator[str]:
    """Only for an index that this folder has shards of: some repositories list a second layout that is not fetched."""
    try:
        shards = shard_names(json.loads(index.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield f"{index} is not readable ({type(error).__name__}: {str(error)[:200]})"
        return
    missing = sorted(shard for shard in shards if not (index.parent / shard).is_file())
    if len(missing) < len(shards) or not any(index.parent.glob("*.safetensors")):
        yield from (f"{shard} is missing in {index.parent} ({index.name} lists it)" for shard in missing)


def _truncated(file: Path) -> str:
    """A safetensors file tells its own length in its head; "" if it is as long as that."""
    size = file.stat().st_size
    try:
        whole = safetensors_end(file)
    except (OSError, EOFError, ValueError):
        return f"{file} is truncated or no safetensors file"
    return "" if size == whole else f"{file} has {size} bytes where {whole} belong: it is truncated or damaged"


def weights_bytes(folder: Path, model: str = "") -> int:
    """Size of the weight files, which is what a first guess at memory rests on. model: may be a set in packages."""
    if (known := model_set(model)) and not model_sets.problems(known, folder):
        return known.size
    if not folder.is_dir():
        return 0
    return sum(f.stat().st_size for f in folder.iterdir() if f.suffix == ".safetensors" or f.suffix in PICKLES)


def read_record(folder: Path) -> dict[str, str]:
    """Model, revision and commit that a pull left behind; {} for a folder that came otherwise."""
    try:
        stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in stored.items()} if isinstance(stored, dict) else {}


# --- How it gets there ------------------------------------------------------------------------------------------------


def pull(
    spec: ModelSpec,
    models_dir: Path,
    *,
    progress: Progress | None = None,
    endpoint: str | None = None,
    offline: bool = False,
) -> Path:
    """Fetch what is missing of a model, going on where an earlier pull stopped; returns its folder.

    Two pulls of one model, also from two processes, do it once. endpoint: another hub (None: HF_ENDPOINT or the public
    one). Raises ModelUnavailable with what is wrong and what helps.
    """
    folder = model_folder(models_dir, spec.model)
    if known := model_set(spec.model):
        return _pull_set(known, folder, models_dir, progress, endpoint, offline)
    if not is_hub_id(spec.model):
        if wrong := problems(folder, spec):
            raise ModelUnavailable(
                f"{spec.model} is a folder and not a hub id, so nothing can be fetched: {'; '.join(wrong)}"
            )
        return folder
    with locked(models_dir, spec.model):
        if not problems(folder, spec):
            return folder
        if offline:
            raise ModelUnavailable(f"{spec.model} is not on this disk, and the server is set to stay offline")
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            commit = download(spec, folder, progress, endpoint)
            finish(folder, spec, commit)
    return folder


def _pull_set(
    known: ModelSet, folder: Path, models_dir: Path, progress: Progress | None, endpoint: str | None, offline: bool
) -> Path:
    """From the models folder or packages if it is there, else from the hub."""
    with locked(models_dir, known.name):
        if wrong := model_sets.problems(known, folder):
            if offline or not known.hub:
                why = "the server is set to stay offline" if offline else "no hub is known to have it"
                raise ModelUnavailable(f"{wrong[0]}, and {why}")
            names = tuple(file.name for file in known.variants[0].files)
            spec = ModelSpec(known.hub, names, names, known.revision)
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                finish(folder, spec, download(spec, folder, progress, endpoint))
        return _checked(known, folder)


def _checked(known: ModelSet, folder: Path) -> Path:
    """Where a set's files are on record, once their digests are known; files that are not the known ones count as
    absent."""
    try:
        return model_sets.locate(known, folder).folder
    except Refused:
        if any(folder.glob(CONTAINER)):
            mark(folder, known.name)
        raise


def import_folder(source: Path, spec: ModelSpec, models_dir: Path, *, progress: Progress | None = None) -> Path:
    """Copy a model from a folder (a stick, a share) and check every byte; for machines without a network."""
    known = model_set(spec.model)
    if known and not model_sets.holds(known, source):
        raise Refused(f"{source} does not hold {spec.model}: a file is missing, or its size is not the known one")
    if not known and (wrong := problems(source, spec)):
        raise ModelUnavailable(f"{source} does not hold {spec.model}: {'; '.join(wrong)}")
    folder = model_folder(models_dir, spec.model)
    files = _ggml(source, spec) or sorted(
        f for f in source.rglob("*") if f.is_file() and matches(f.relative_to(source).as_posix(), spec)
    )
    total, done = sum(f.stat().st_size for f in files), 0
    with locked(models_dir, spec.model), disk_errors(folder):
        mark(folder, spec.model)
        for file in files:
            target = folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            done = _copy_checked(file, target, done, total, progress)
        finish(folder, spec, "")
        if known:
            _checked(known, folder)
    return folder


def _copy_checked(file: Path, target: Path, done: int, total: int, progress: Progress | None) -> int:
    """Copy and compare digests of what was read and what was written; returns the new count of bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_COPY_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    with target.open("rb") as copied:
        if hashlib.file_digest(copied, "sha256").digest() != digest.digest():
            raise ModelUnavailable(f"{target} differs from {file} after copying: the disk or the memory is faulty")
    return done


def finish(folder: Path, spec: ModelSpec, commit: str) -> None:
    """Check what has arrived, and only then take the mark away."""
    check_pickles(folder, spec)
    if wrong := _wrong_files(folder, spec):
        raise ModelUnavailable(f"{spec.model} is not complete: {'; '.join(wrong)}")
    record = {"model": spec.model, "revision": spec.revision, "commit": commit}
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
    (folder / UNFINISHED).unlink(missing_ok=True)


def check_pickles(folder: Path, spec: ModelSpec) -> None:
    """Every pickle must load under weights_only, tried in a process of its own. Raises ModelUnavailable."""
    for pattern in NAMED_PICKLES.get(spec.model, ()):
        for file in folder.glob(pattern):
            loads_under_weights_only(file)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A full or read-only disk in words that help."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(existing(folder)).free
            raise ModelUnavailable(
                f"the disk of {folder} is full ({free} bytes free): make room and pull again"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise ModelUnavailable(f"{folder} cannot be written: {error}") from error
        raise


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return folder if folder.exists() or folder == folder.parent else existing(folder.parent)


@contextmanager
def locked(models_dir: Path, model: str) -> Iterator[None]:
    """One pull of a model at a time, over all processes; the second waits and then finds it done."""
    from filelock import FileLock

    locks = models_dir / ".locks"
    with disk_errors(locks):
        locks.mkdir(parents=True, exist_ok=True)
    with FileLock(str(locks / f"{model.replace('/', '--')}.lock")):
        yield


# --- As a process (`python -m backends.weights`), so that the gateway never imports the hub's client ------------------


def main(arguments: Sequence[str]) -> int:
    """Pull one model: JSON of it on the command line, JSON lines of progress on stdout, the last one with the
    outcome."""
    order = json.loads(arguments[0])
    spec = ModelSpec(order["model"], tuple(order["required"]), tuple(order["patterns"]), order.get("revision", ""))
    last = -1

    def tell(done: int, total: int) -> None:
        nonlocal last
        if done != last:
            print(json.dumps({"done": done, "total": total}), flush=True)
            last = done

    try:
        folder = pull(spec, Path(order["models_dir"]), progress=tell)
    except Exception as error:  # the gateway has to be told of whatever it was
        text = error.message if isinstance(error, ModelUnavailable) else f"{type(error).__name__}: {error}"
        print(json.dumps({"error": text}), flush=True)
        return 1
    print(json.dumps({"folder": os.fspath(folder)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
