"""Dataset creation: a folder of clips and their texts become codes that LLASA can be fine-tuned on.

    python -m backends.llasa.training.dataset AUDIO_DIR TEXT_FILE -o data.jsonl --codec FOLDER

Clips are read, resampled and trimmed by several threads while the codec encodes the batch before. Everything that is
left out is reported with its line and reason. Knows nothing of the language model.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.interface import BackendError, InvalidInput
from backends.llasa.codec import Codec, load_codec
from backends.llasa.reference_audio import read_clip
from backends.llasa.training.dataset_export import export_memmap, export_npy
from backends.llasa.training.dataset_file import Clip, DatasetWriter, read_clips
from backends.llasa.training.dataset_text import DatasetSource, Entry, Skipped, read_entries
from backends.llasa.xcodec2.config import SAMPLE_RATE

Samples = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with entries done and entries in all."""

_QUIET = 1e-3  # peak amplitude of a clip without speech
_HEAD_START = 4  # batches that may be decoded ahead of the encoder


@dataclass(frozen=True, slots=True)
class Recipe:
    """How clips are prepared and encoded.

    trim_db: quieter than this below the peak counts as silence (0: nothing is trimmed); shortest, longest: seconds
    after trimming; batch: clips encoded together; workers: threads that read clips.
    """

    trim_db: float = 40.0
    shortest: float = 0.5
    longest: float = 15.0
    batch: int = 4
    workers: int = 4


@dataclass(slots=True)
class Report:
    """written: clips in the output; continued: of them, from an interrupted run; skipped: every line left out."""

    written: int = 0
    continued: int = 0
    seconds: float = 0.0
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, clips: Iterable[Clip]) -> None:
        """Count clips that are in the output."""
        for clip in clips:
            self.written += 1
            self.seconds += clip.duration

    def lines(self) -> Iterator[str]:
        """One line of text per skipped line of the input."""
        for item in sorted(self.skipped, key=lambda item: item.line):
            yield f"line {item.line}: {item.id}: {item.reason}" if item.line else f"{item.id}: {item.reason}"


def create(
    source: DatasetSource,
    output: Path,
    codec: Codec,
    recipe: Recipe | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write the dataset to `output` (jsonl); an interrupted run is continued. progress: called after every batch.

    Clips that cannot be used are reported. Raises InvalidInput for what concerns the whole dataset.
    """
    recipe, report = recipe or Recipe(), Report()
    listed = list(read_entries(source))
    entries = [item for item in listed if isinstance(item, Entry)]
    report.skipped += [item for item in listed if isinstance(item, Skipped)]
    if not entries:
        raise InvalidInput(f"no usable clip: {next(report.lines(), 'nothing was found')}")
    texts = {entry.id: entry.text for entry in entries}
    with DatasetWriter(output, _settings(source, codec, recipe), texts, overwrite=overwrite) as writer:
        report.continued = len(writer.done)
        report.add(writer.done.values())
        for batch in _usable_batches(entries, writer.done, recipe, report):
            clips = list(_encoded(codec, batch))
            for clip in clips:
                writer.write(clip)
            report.add(clips)
            if progress is not None:
                progress(min(len(listed), report.written + len(report.skipped)), len(listed))
        if not report.written:
            raise InvalidInput(f"every clip was left out: {next(report.lines(), '')}")
    return report


def _settings(source: DatasetSource, codec: Codec, recipe: Recipe) -> dict[str, object]:
    """What must be the same for an interrupted run to be continued."""
    return {
        "trim_db": recipe.trim_db,
        "shortest": recipe.shortest,
        "longest": recipe.longest,
        "codec": codec.identity,
        "clips": str(source.audio_dir.resolve()),
    }


def _usable_batches(
    entries: Sequence[Entry], done: Container[str], recipe: Recipe, report: Report
) -> Iterator[list[tuple[Entry, Samples]]]:
    """Batches of usable clips that are not done; the others go to the report. Done clips are read, to find copies."""
    known: dict[tuple[bytes, str], Entry] = {}
    for results in _read_ahead(entries, recipe):
        group = []
        for entry, samples in results:
            if isinstance(samples, str):
                report.skipped.append(Skipped(entry.line, entry.id, samples))
                continue
            key = (hashlib.sha256(samples.tobytes()).digest(), entry.text)
            first = known.setdefault(key, entry)
            if first is not entry:
                original = f"line {first.line}" if first.line else first.id
                report.skipped.append(Skipped(entry.line, entry.id, f"the same sound and text as {original}"))
                continue
            if entry.id not in done:
                group.append((entry, samples))
        yield group


def _read_ahead(entries: Sequence[Entry], recipe: Recipe) -> Iterator[list[tuple[Entry, Samples | str]]]:
    """Batches in order, a few of them read in advance by other threads: samples, or why a clip cannot be used."""
    waiting: deque[list[tuple[Entry, Future[Samples | str]]]] = deque()
    rest = iter(entries)
    with ThreadPoolExecutor(recipe.workers) as pool:

        def fetch() -> None:
            group = [(entry, pool.submit(prepare, entry.audio, recipe)) for entry in islice(rest, recipe.batch)]
            if group:
                waiting.append(group)

        for _ in range(_HEAD_START):
            fetch()
        while waiting:
            yield [(entry, future.result()) for entry, future in waiting.popleft()]
            fetch()


def prepare(path: Path, recipe: Recipe) -> Samples | str:
    """A clip ready to encode, float32 [time] at 16 kHz, or the reason why it is left out."""
    try:
        samples = read_clip(path)
    except InvalidInput as error:
        return error.message
    if not len(samples) or not np.isfinite(samples).all() or np.abs(samples).max() < _QUIET:
        return "it is silent"
    samples = trim_silence(samples, recipe.trim_db)
    seconds = len(samples) / SAMPLE_RATE
    if seconds < recipe.shortest:
        return f"{seconds:.2f} s is shorter than {recipe.shortest:g} s"
    if seconds > recipe.longest:
        return f"{seconds:.1f} s is longer than {recipe.longest:g} s"
    return samples


def trim_silence(samples: Samples, decibels: float) -> Samples:
    """Samples without the silence at both ends: what is quieter than `decibels` below the peak (0: as they are)."""
    if not decibels:
        return samples
    from librosa.effects import trim

    cut: Samples = trim(samples, top_db=decibels)[0]
    return np.ascontiguousarray(cut, np.float32)


def _encoded(codec: Codec, group: Iterable[tuple[Entry, Samples]]) -> Iterator[Clip]:
    pairs = list(group)
    if not pairs:
        return
    for (entry, samples), codes in zip(pairs, codec.encode_batch([samples for _, samples in pairs]), strict=True):
        yield Clip(entry.text, tuple(codes[0, 0].tolist()), entry.id, len(samples) / SAMPLE_RATE)


# --- command line -----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The arguments of `python -m backends.llasa.training.dataset`, which `speech-gateway dataset create` passes on."""
    defaults = Recipe()
    result = argparse.ArgumentParser(
        prog="speech-gateway dataset create", description="Turn clips and texts into a LLASA dataset."
    )
    result.add_argument("audio_dir", type=Path, help="folder of clips")
    result.add_argument("text_file", type=Path, nargs="?", help="texts; without it, a .txt beside every clip")
    result.add_argument("-o", "--output", type=Path, default=Path("dataset/data.jsonl"), help="(default: %(default)s)")
    result.add_argument("--codec", type=Path, required=True, help="folder of X-Codec-2")
    result.add_argument("--separator", help="text between id and text (default: judged by the file)")
    result.add_argument("--id-column", type=int, default=0, help="column of the clip's name, counted from 0")
    result.add_argument("--text-column", type=int, help="column of the text, counted from 0")
    result.add_argument(
        "--extension", default=".wav", help="file extension of clips that are named without one (default: %(default)s)"
    )
    result.add_argument(
        "--trim-db",
        type=float,
        default=defaults.trim_db,
        help="dB below the peak that count as silence at the ends; 0 keeps them (default: %(default)s)",
    )
    result.add_argument("--shortest", type=float, default=defaults.shortest, help="shortest clip, seconds")
    result.add_argument("--longest", type=float, default=defaults.longest, help="longest clip, seconds")
    result.add_argument(
        "--batch", type=int, default=defaults.batch, help="clips encoded together (default: %(default)s)"
    )
    result.add_argument(
        "--workers", type=int, default=defaults.workers, help="threads that read clips (default: %(default)s)"
    )
    result.add_argument("--device", default="cpu", help="cpu, cuda:0, mps or xpu:0 (default: %(default)s)")
    result.add_argument("--bf16", action="store_true", help="encode in bfloat16 where the device has it")
    result.add_argument("--overwrite", action="store_true", help="replace a dataset that is there already")
    result.add_argument("--npy", type=Path, help="also write codes as .npy files with a metadata.csv into this folder")
    result.add_argument("--memmap", type=Path, help="also write training rows into this folder; needs --tokenizer")
    result.add_argument("--tokenizer", type=Path, help="folder of the LLASA model whose token ids the rows hold")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Create a dataset as the command line says. Returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        _run(arguments)
    except (BackendError, OSError) as error:
        print(f"error: {error.message if isinstance(error, BackendError) else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from rich.progress import Progress as ProgressBar

    _check(arguments)
    codec = _codec(arguments)
    source = DatasetSource(
        arguments.audio_dir,
        arguments.text_file,
        arguments.separator,
        arguments.id_column,
        arguments.text_column,
        arguments.extension,
    )
    batch, workers = max(1, arguments.batch), max(1, arguments.workers)
    recipe = Recipe(arguments.trim_db, arguments.shortest, arguments.longest, batch, workers)
    with ProgressBar(transient=True) as bar:
        task = bar.add_task("clips", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        report = create(source, arguments.output, codec, recipe, overwrite=arguments.overwrite, progress=progress)
    _print_report(arguments.output, report)
    _export(arguments)


def _check(arguments: argparse.Namespace) -> None:
    """Raises InvalidInput or OSError for folders and a device that cannot be used, before any clip is encoded."""
    import torch

    if arguments.memmap and not arguments.tokenizer:
        raise InvalidInput("--memmap needs --tokenizer, the folder of the LLASA model")
    for folder in (arguments.output.parent, arguments.npy, arguments.memmap):
        if folder is not None:
            _check_writable(folder)
    try:
        torch.empty(1, device=arguments.device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise InvalidInput(f"--device {arguments.device} cannot be used: {reason}") from error


def _check_writable(folder: Path) -> None:
    """Raises OSError if the folder cannot be made or written into; leaves nothing behind."""
    path = folder.absolute()
    tempfile.TemporaryFile(dir=next(parent for parent in (path, *path.parents) if parent.exists())).close()


def _codec(arguments: argparse.Namespace) -> Codec:
    import torch

    from backends.llasa.dtypes import language_dtype

    dtype = language_dtype("bfloat16", arguments.device) if arguments.bf16 else "float32"
    return load_codec(arguments.codec, arguments.device, encoder=True, encoder_dtype=getattr(torch, dtype))


def _print_report(output: Path, report: Report) -> None:
    for line in report.lines():
        print(f"left out: {line}")
    print(f"{output}: {report.written} clips, {report.seconds / 60:.1f} minutes, {len(report.skipped)} left out")


def _export(arguments: argparse.Namespace) -> None:
    """Write the other forms of the dataset that the command line asks for."""
    clips = list(read_clips(arguments.output)) if arguments.npy or arguments.memmap else []
    if arguments.npy:
        export_npy(clips, arguments.npy)
    if arguments.memmap:
        for reason in export_memmap(clips, arguments.tokenizer, arguments.memmap):
            print(f"not in the rows: {reason}")


if __name__ == "__main__":
    sys.exit(main())
