"""A dataset in the two forms that the original training code reads: code files with a metadata.csv, and token rows.

Knows clips and token ids; nothing of audio.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from backends.llasa.text import neutralised
from backends.llasa.training.dataset_file import Clip
from backends.llasa.vocabulary import Vocabulary

ROW = 2048  # tokens
_MOST_VALIDATION = 1000
_VALIDATION_SHARE = 20  # one in so many clips, so that a small dataset keeps clips to train on


def export_npy(clips: Sequence[Clip], folder: Path) -> None:
    """vq_codes/ID.wav.npy (int32 [frames], whole frames only, as the original extractor) and metadata.csv (id|text)."""
    lines = []
    for clip in clips:
        name = _file_name(clip.source)
        path = folder / "vq_codes" / f"{name}.wav.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        codes = clip.code[:-1] if len(clip.code) > 1 else clip.code  # the encoder pads by up to a frame
        np.save(path, np.asarray(codes, np.int32))
        lines.append(f"{name}|{' '.join(clip.text.split()).replace('|', ' ')}\n")
    (folder / "metadata.csv").write_text("".join(lines), encoding="utf-8", newline="\n")


def export_memmap(clips: Sequence[Clip], tokenizer: Path, folder: Path, row: int = ROW, seed: int = 0) -> Iterator[str]:
    """Token rows int32 [clips, row], shuffled, in a training and a validation file. Yields what was left out and
    why."""
    vocabulary = Vocabulary.from_folder(tokenizer)
    rows, skipped = [], []
    for clip in clips:
        ids = token_row(clip, vocabulary)
        if len(ids) > row:
            skipped.append(f"{clip.source}: {len(ids)} tokens are more than {row}")
        else:
            rows.append(ids + [vocabulary.pad] * (row - len(ids)))
    random.Random(seed).shuffle(rows)  # noqa: S311 - a reproducible order, not a secret
    held = min(_MOST_VALIDATION, len(rows) // _VALIDATION_SHARE)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[: len(rows) - held]), ("val", rows[len(rows) - held :])):
        table = np.asarray(part, np.int32).reshape(len(part), row)
        table.tofile(folder / f"{name}_input_ids.memmap")
        np.save(folder / f"{name}_input_ids_shape.npy", np.asarray(table.shape))
    yield from skipped


def token_row(clip: Clip, vocabulary: Vocabulary) -> list[int]:
    """Text between its markers, then codes between theirs."""
    text = vocabulary.encode(f"<|TEXT_UNDERSTANDING_START|>{neutralised(clip.text)}<|TEXT_UNDERSTANDING_END|>")
    return [*text, vocabulary.start, *vocabulary.speech_ids(clip.code), vocabulary.stop]


def _file_name(source: str) -> str:
    """A path below the folder, whatever the id was."""
    parts = [part for part in source.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    name = "/".join(parts) or "clip"
    return name.rsplit(".", 1)[0] if name.lower().endswith((".wav", ".flac", ".ogg", ".mp3", ".opus")) else name
