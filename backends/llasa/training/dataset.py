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
from backends.llasa.training.dataset_text import Entry, Skipped, read_entries
from backends.llasa.xcodec2.config import SAMPLE_RATE

Samples = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with entries done and entries in all."""

_QUIET = 1e-3  # peak amplitude of a clip without speech
_HEAD_START = 4  # batches that may be decoded ahead of the encoder


@dataclass(frozen=True, slots=True)
class Recipe:
    """What becomes of a clip. trim_db: quieter than this below the peak counts as silence (0: nothing is trimmed);
    shortest, longest: seconds after trimming; batch: clips encoded together; workers: threads that read clips."""

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

    def lines(self) -> Iterator[str]:
        """One line of text per skipped line of the input."""
        for item in sorted(self.skipped, key=lambda item: item.line):
            yield f"line {item.line}: {item.id}: {item.reason}" if item.line else f"{item.id}: {item.reason}"


def create(
    audio_dir: str | Path,
    text_file: str | Path | None,
    output: str | Path,
    *,
    codec: Codec,
    separator: str | None = None,
    id_column: int = 0,
    text_column: int | None = None,
    extension: str = ".wav",
    recipe: Recipe | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write the dataset to `output` (jsonl). Raises InvalidInput for what concerns the whole; clips are reported
    instead.

    text_file None: a .txt beside every clip. An interrupted run is continued. progress: called after every batch.
    """
    recipe, report = recipe or Recipe(), Report()
    found = list(
        read_entries(
            Path(audio_dir),
            None if text_file is None else Path(text_file),
            separator,
            id_column,
            text_column,
            extension,
        )
    )
    entries = [item for item in found if isinstance(item, Entry)]
    report.skipped += [item for item in found if isinstance(item, Skipped)]
    if not entries:
        raise InvalidInput(f"no usable clip: {next(report.lines(), 'nothing was found')}")
    settings = {
        "trim_db": recipe.trim_db,
        "shortest": recipe.shortest,
        "longest": recipe.longest,
        "codec": codec.identity,
    }
    settings["clips"] = str(Path(audio_dir).resolve())
    texts = {entry.id: entry.text for entry in entries}
    with DatasetWriter(Path(output), settings, texts, overwrite=overwrite) as writer:
        report.continued = report.written = len(writer.done)
        report.seconds = sum(clip.duration for clip in writer.done.values())
        for group in _prepared(entries, writer.done, recipe, report):
            for clip in _encoded(codec, group):
                writer.write(clip)
                report.written += 1
                report.seconds += clip.duration
            if progress is not None:
                progress(min(len(found), report.written + len(report.skipped)), len(found))
        if not report.written:
            raise InvalidInput(f"every clip was left out: {next(report.lines(), '')}")
    return report


def _prepared(
    entries: Sequence[Entry], done: Container[str], recipe: Recipe, report: Report
) -> Iterator[list[tuple[Entry, Samples]]]:
    """Batches of readable clips; the others go to the report. Clips that are done are heard only, to know them
    again."""
    heard: dict[tuple[bytes, str], Entry] = {}
    for results in _ahead(entries, recipe):
        group = []
        for entry, samples in results:
            if isinstance(samples, str):
                report.skipped.append(Skipped(entry.line, entry.id, samples))
                continue
            key = (hashlib.sha256(samples.tobytes()).digest(), entry.text)
            first = heard.setdefault(key, entry)
            if first is not entry:
                where = f"line {first.line}" if first.line else first.id
                report.skipped.append(Skipped(entry.line, entry.id, f"the same sound and text as {where}"))
                continue
            if entry.id not in done:
                group.append((entry, samples))
        yield group


def _ahead(entries: Sequence[Entry], recipe: Recipe) -> Iterator[list[tuple[Entry, Samples | str]]]:
    """Batches in order, a few of them read in advance by other threads."""
    waiting: deque[list[tuple[Entry, Future[Samples | str]]]] = deque()
    rest = iter(entries)
    with ThreadPoolExecutor(recipe.workers) as pool:

        def fetch() -> None:
            group = [(entry, pool.submit(prepared, entry.audio, recipe)) for entry in islice(rest, recipe.batch)]
            if group:
                waiting.append(group)

        for _ in range(_HEAD_START):
            fetch()
        while waiting:
            yield [(entry, future.result()) for entry, future in waiting.popleft()]
            fetch()


def prepared(path: Path, recipe: Recipe) -> Samples | str:
    """A clip ready to encode, or the reason why it is left out."""
    try:
        samples = read_clip(path)
    except InvalidInput as error:
        return error.message
    if not len(samples) or not np.isfinite(samples).all() or np.abs(samples).max() < _QUIET:
        return "it is silent"
    samples = trimmed(samples, recipe.trim_db)
    seconds = len(samples) / SAMPLE_RATE
    if seconds < recipe.shortest:
        return f"{seconds:.2f} s is shorter than {recipe.shortest:g} s"
    if seconds > recipe.longest:
        return f"{seconds:.1f} s is longer than {recipe.longest:g} s"
    return samples


def trimmed(samples: Samples, decibels: float) -> Samples:
    """Without the silence at both ends."""
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
    usual = Recipe()
    made = argparse.ArgumentParser(
        prog="speech-gateway dataset create", description="Turn clips and texts into a LLASA dataset."
    )
    made.add_argument("audio_dir", type=Path, help="folder of clips")
    made.add_argument("text_file", type=Path, nargs="?", help="texts; without it, a .txt beside every clip")
    made.add_argument("-o", "--output", type=Path, default=Path("dataset/data.jsonl"), help="(default: %(default)s)")
    made.add_argument("--codec", type=Path, required=True, help="folder of X-Codec-2")
    made.add_argument("--separator", help="between id and text (default: judged by the file)")
    made.add_argument("--id-column", type=int, default=0, help="column of the clip's name, counted from 0")
    made.add_argument("--text-column", type=int, help="column of the text, counted from 0")
    made.add_argument("--extension", default=".wav", help="of clips named without one (default: %(default)s)")
    made.add_argument("--trim-db", type=float, default=usual.trim_db, help="0 keeps silence at the ends")
    made.add_argument("--shortest", type=float, default=usual.shortest, help="seconds")
    made.add_argument("--longest", type=float, default=usual.longest, help="seconds")
    made.add_argument("--batch", type=int, default=usual.batch)
    made.add_argument("--workers", type=int, default=usual.workers)
    made.add_argument("--device", default="cpu", help="cpu, cuda:0, mps or xpu:0 (default: %(default)s)")
    made.add_argument("--bf16", action="store_true", help="encode in bfloat16 where the device has it")
    made.add_argument("--overwrite", action="store_true")
    made.add_argument("--npy", type=Path, help="also write codes as .npy files with a metadata.csv into this folder")
    made.add_argument("--memmap", type=Path, help="also write training rows into this folder; needs --tokenizer")
    made.add_argument("--tokenizer", type=Path, help="folder of the LLASA model whose token ids the rows hold")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Create a dataset as the command line says. Returns the exit status."""
    chosen = parser().parse_args(arguments)
    try:
        _run(chosen)
    except (BackendError, OSError) as error:
        print(f"error: {error.message if isinstance(error, BackendError) else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    return 0


def _check_writable(folder: Path) -> None:
    """Raises OSError before the clips are encoded, not after; leaves nothing behind."""
    place = folder.absolute()
    tempfile.TemporaryFile(dir=next(there for there in (place, *place.parents) if there.exists())).close()


def _run(chosen: argparse.Namespace) -> None:
    import torch
    from rich.progress import Progress as Bar

    from backends.llasa.dtypes import language_dtype

    if chosen.memmap and not chosen.tokenizer:
        raise InvalidInput("--memmap needs --tokenizer, the folder of the LLASA model")
    for folder in (chosen.output.parent, chosen.npy, chosen.memmap):
        if folder is not None:
            _check_writable(folder)
    try:
        torch.empty(1, device=chosen.device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise InvalidInput(f"--device {chosen.device} cannot be used: {reason}") from error
    wanted = language_dtype("bfloat16", chosen.device) if chosen.bf16 else "float32"
    codec = load_codec(chosen.codec, chosen.device, encoder=True, encoder_dtype=getattr(torch, wanted))
    recipe = Recipe(chosen.trim_db, chosen.shortest, chosen.longest, max(1, chosen.batch), max(1, chosen.workers))
    with Bar(transient=True) as bar:
        task = bar.add_task("clips", total=None)
        report = create(
            chosen.audio_dir,
            chosen.text_file,
            chosen.output,
            codec=codec,
            separator=chosen.separator,
            id_column=chosen.id_column,
            text_column=chosen.text_column,
            extension=chosen.extension,
            recipe=recipe,
            overwrite=chosen.overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for line in report.lines():
        print(f"left out: {line}")
    print(f"{chosen.output}: {report.written} clips, {report.seconds / 60:.1f} minutes, {len(report.skipped)} left out")
    clips = list(read_clips(chosen.output)) if chosen.npy or chosen.memmap else []
    if chosen.npy:
        export_npy(clips, chosen.npy)
    if chosen.memmap:
        for reason in export_memmap(clips, chosen.tokenizer, chosen.memmap):
            print(f"not in the rows: {reason}")


if __name__ == "__main__":
    sys.exit(main())
