"""The model hub: what a repository holds, fetching it with resume, and errors that say what helps.

The only module that imports huggingface_hub, and only inside its functions, because that takes a second. Knows nothing of
where models lie or which are needed (`backends.weights`). Sizes are bytes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from backends.interface import ModelUnavailable

if TYPE_CHECKING:
    from backends.weights import Progress, Wanted

POLL_SECONDS = 0.5  # between two looks at how much has arrived
SPARE_BYTES = 64 << 20  # left free on the disk after a pull
_CHECK = "import sys, torch; torch.load(sys.argv[1], map_location='cpu', weights_only=True)"
_CHECK_SECONDS = 300


def download(wanted: Wanted, folder: Path, progress: Progress | None, endpoint: str | None) -> str:
    """Fetch the wanted files into a folder; returns the commit. Raises ModelUnavailable, OSError of the disk."""
    import huggingface_hub

    from backends.weights import mark, matches

    with hub_errors(wanted, endpoint):
        api = huggingface_hub.HfApi(endpoint=endpoint)
        info = api.model_info(wanted.model, revision=wanted.revision or None, files_metadata=True)
        files = {f.rfilename: f.size or 0 for f in info.siblings or () if matches(f.rfilename, wanted)}
        refused = [f.rfilename for f in info.siblings or () if _is_refused_pickle(f.rfilename)]
        if not any(name.endswith(".safetensors") for name in files) and refused and not _named(files):
            raise ModelUnavailable(
                f"{wanted.model} holds its weights only as pickles ({', '.join(refused[:3])}), which can run code when they"
                " are loaded; they are refused. Use a repository with safetensors."
            )
        commit = str(info.sha or "")
        _check_room(folder, sum(files.values()))
        mark(folder, wanted.model)
        with _reporting(folder, sum(files.values()), progress):
            huggingface_hub.snapshot_download(
                wanted.model,
                revision=commit or None,
                local_dir=folder,
                allow_patterns=[_escaped(name) for name in files],
                endpoint=endpoint,
                max_workers=4,
            )
    return commit


def _escaped(name: str) -> str:
    """A file name as a glob pattern that matches only itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _is_refused_pickle(name: str) -> bool:
    return name.endswith((".bin", ".pt", ".pth", ".ckpt"))


def _named(files: dict[str, int]) -> bool:
    return any(_is_refused_pickle(name) for name in files)


def _check_room(folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder).free
    missing = total - _present(folder)
    if missing + SPARE_BYTES > free:
        raise ModelUnavailable(
            f"the disk of {folder} is too full: {missing / 1e9:.1f} GB are to be fetched, {free / 1e9:.1f} GB are free"
        )


def _present(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix not in (".metadata", ".lock"))


@contextmanager
def _reporting(folder: Path, total: int, progress: Progress | None) -> Iterator[None]:
    """Report how many bytes lie in the folder, the unfinished ones too, whatever way the client fetches them."""
    if progress is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            progress(min(_present_or_zero(folder), total), total)

    watcher = threading.Thread(target=watch, name="pull progress", daemon=True)
    progress(0, total)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    progress(total, total)


def _present_or_zero(folder: Path) -> int:
    try:
        return _present(folder)
    except OSError:  # a file was renamed while we looked
        return 0


@contextmanager
def hub_errors(wanted: Wanted, endpoint: str | None) -> Iterator[None]:
    """What went wrong with the hub, in words that help; nothing half complete is lost, the next pull goes on."""
    from huggingface_hub import constants, errors

    hub = endpoint or constants.ENDPOINT
    name = wanted.model
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelUnavailable(
            f"{name} is given only to those who accepted its terms: do so at {hub}/{name}, then set HF_TOKEN to your access token"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelUnavailable(f"{hub} has no model {name}, or it is private and HF_TOKEN is not set") from error
    except errors.RevisionNotFoundError as error:
        raise ModelUnavailable(f"{name} has no revision {wanted.revision!r} at {hub}") from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelUnavailable(f"{name} is not on this disk, and HF_HUB_OFFLINE forbids to fetch it") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.FileMetadataError, errors.HTTPError) as error:  # type: ignore[attr-defined]  # what the client of this version raises
        raise ModelUnavailable(f"{hub} could not give {name}: {error}; pull again to go on where it stopped") from error
    except ConnectionError as error:
        raise ModelUnavailable(f"{hub} is out of reach: {error}; pull again to go on where it stopped") from error


def loads_under_weights_only(file: Path) -> None:
    """Let a process of its own load a pickle with nothing but plain tensors allowed. Raises ModelUnavailable."""
    try:
        done = subprocess.run(  # noqa: S603 # our own interpreter and a fixed program
            [sys.executable, "-c", _CHECK, str(file)], capture_output=True, timeout=_CHECK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelUnavailable(f"{file} took too long to check") from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"exit status {done.returncode}"
        raise ModelUnavailable(f"{file} is a pickle that does not load under weights_only, so it is refused: {why}")
