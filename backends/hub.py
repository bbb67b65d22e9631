"""The model hub: what a repository holds, fetching it with resume, and errors that say what helps.

The only module that imports huggingface_hub, and only inside its functions, because that takes a second. Files are
streamed by our own code: the client's snapshot download starts a file anew when its process was ended, which is
painful at five gigabytes. Every file is checked against the digest that the hub states. Knows nothing of where models
lie or which are needed (`backends.weights`). Sizes are bytes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from backends import children
from backends.interface import ModelUnavailable
from backends.model_files import CONTAINER, PICKLES, ModelSpec, Progress, mark, matches

PARTS = ".parts"  # folder of files that have not arrived in full
REPORT_SECONDS = 0.25  # between two reports of progress
SPARE_BYTES = 64 << 20  # left free on the disk after a pull
TRIES = 5  # in a row without a single new byte
PAUSE_SECONDS = 1.0  # before a broken transfer goes on
_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30.0
_CHECK = "import sys, torch; torch.load(sys.argv[1], map_location='cpu', weights_only=True)"
_CHECK_SECONDS = 300


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. sha256: of its content, "" for small files, whose git blob id stands for it."""

    path: str
    size: int
    blob_id: str
    sha256: str

    def is_at(self, file: Path) -> bool:
        """Whether a file on the disk is this one, by every byte."""
        if not file.is_file() or file.stat().st_size != self.size:
            return False
        digest: Any = hashlib.sha256() if self.sha256 else hashlib.sha1(usedforsecurity=False)
        if not self.sha256:
            digest.update(b"blob %d\0" % self.size)
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return bool(digest.hexdigest() == (self.sha256 or self.blob_id))


class Meter:
    """Counts bytes and reports them now and then."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self._total, self._progress = 0, total, progress
        self._next = 0.0

    def add(self, count: int) -> None:
        self.done += count
        if self._progress is not None and (time.monotonic() >= self._next or self.done >= self._total):
            self._progress(self.done, self._total)
            self._next = time.monotonic() + REPORT_SECONDS


def download(spec: ModelSpec, folder: Path, progress: Progress | None, endpoint: str | None) -> str:
    """Fetch the wanted files into a folder; returns the commit. Raises ModelUnavailable, OSError of the disk."""
    from huggingface_hub import HfApi, constants

    hub = endpoint or constants.ENDPOINT  # HF_ENDPOINT, if that is set
    with hub_errors(spec, hub):
        api = HfApi(endpoint=hub)
        info = api.model_info(spec.model, revision=spec.revision or None, files_metadata=True)
        files = _listed_files(spec, info)
        commit = str(info.sha or spec.revision or "main")
        _check_room(folder, sum(file.size for file in files))
        mark(folder, spec.model)
        meter = Meter(sum(file.size for file in files), progress)
        meter.add(0)
        for file in files:
            _bring(file, f"{hub}/{spec.model}/resolve/{commit}/{quote(file.path)}", folder, meter)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    return commit


def _listed_files(spec: ModelSpec, info: Any) -> list[RemoteFile]:
    """Small files first, so that what is wrong with a repository shows early. Raises ModelUnavailable."""
    names = [sibling.rfilename for sibling in info.siblings or ()]
    siblings = [s for s in info.siblings or () if matches(s.rfilename, spec) and _is_inside(s.rfilename)]
    if any(s.rfilename.endswith(".safetensors") for s in siblings):
        siblings = [s for s in siblings if s.rfilename != CONTAINER]
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles and not any(s.rfilename.endswith((".safetensors", *PICKLES)) for s in siblings):
        raise ModelUnavailable(
            f"{spec.model} holds its weights only as pickles ({', '.join(pickles[:3])}), which can run code "
            f"when they are"
            " loaded; they are refused. Use a repository with safetensors."
        )
    files = [RemoteFile(s.rfilename, s.size or 0, s.blob_id or "", s.lfs.sha256 if s.lfs else "") for s in siblings]
    return sorted(files, key=lambda file: file.size)


def _is_inside(path: str) -> bool:
    """A repository must not write outside of its folder."""
    parts = PurePosixPath(path).parts
    return not path.startswith(("/", ".")) and ".." not in parts and "\\" not in path and ":" not in path


def _check_room(folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder).free
    missing = total - sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    if missing + SPARE_BYTES > free:
        raise ModelUnavailable(
            f"the disk of {folder} is too full: {missing / 1e9:.1f} GB are to be fetched, {free / 1e9:.1f} GB are free"
        )


def _bring(file: RemoteFile, url: str, folder: Path, meter: Meter) -> None:
    """Have one file in its place, whole and checked; goes on with what an earlier pull left."""
    target = folder / file.path
    if file.is_at(target):
        meter.add(file.size)
        return
    part = folder / PARTS / f"{file.blob_id or hashlib.sha256(file.path.encode()).hexdigest()}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    meter.add(part.stat().st_size)
    _fill(file, url, part, meter)
    if not file.is_at(part):
        part.unlink()
        raise ModelUnavailable(f"{file.path} arrived damaged: it is not what the hub says it is; pull again")
    part.replace(target)


def _fill(file: RemoteFile, url: str, part: Path, meter: Meter) -> None:
    """Fetch what is missing of a file, through broken connections. Raises the last error if nothing comes any more."""
    from huggingface_hub import errors

    tries = TRIES
    while (have := part.stat().st_size) < file.size:
        try:
            _append(url, part, have, meter)
        except errors.HfHubHTTPError:
            raise
        except errors.HTTPError:  # type: ignore[attr-defined]  # what the client's connections raise
            tries = TRIES if part.stat().st_size > have else tries - 1
            if not tries:
                raise
            time.sleep(PAUSE_SECONDS)


def _append(url: str, part: Path, have: int, meter: Meter) -> None:
    """One transfer from byte `have` on, or from the start where the server knows no ranges."""
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import get_session, hf_raise_for_status

    headers = {**build_hf_headers(), "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_SECONDS) as response:
        hf_raise_for_status(response)
        resumed = response.status_code == 206
        if not resumed:
            meter.add(-have)
        with part.open("ab" if resumed else "wb") as stream:
            for chunk in response.iter_bytes():  # as they arrive: a break loses nothing
                stream.write(chunk)
                meter.add(len(chunk))


@contextmanager
def hub_errors(spec: ModelSpec, hub: str) -> Iterator[None]:
    """What went wrong with the hub, in words that help; nothing half complete is lost, the next pull goes on."""
    from huggingface_hub import errors

    name = spec.model
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelUnavailable(
            f"{name} is given only to those who accepted its terms: do so at {hub}/{name}, then set HF_TOKEN to "
            f"your access token"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelUnavailable(f"{hub} has no model {name}, or it is private and HF_TOKEN is not set") from error
    except errors.RevisionNotFoundError as error:
        raise ModelUnavailable(f"{name} has no revision {spec.revision!r} at {hub}") from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelUnavailable(f"{name} is not on this disk, and HF_HUB_OFFLINE forbids to fetch it") from error
    # What the client of this version raises.
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.FileMetadataError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise ModelUnavailable(f"{hub} could not give {name}: {error}; pull again to go on where it stopped") from error
    except ConnectionError as error:
        raise ModelUnavailable(f"{hub} is out of reach: {error}; pull again to go on where it stopped") from error


def loads_under_weights_only(file: Path) -> None:
    """Let a process of its own load a pickle with nothing but plain tensors allowed. Raises ModelUnavailable."""
    try:
        command = children.command_of_program(_CHECK, str(file))
        done = children.run(command, children.environment(offline=True, secrets=False), seconds=_CHECK_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ModelUnavailable(f"{file} took too long to check") from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"exit status {done.returncode}"
        raise ModelUnavailable(f"{file} is a pickle that does not load under weights_only, so it is refused: {why}")
