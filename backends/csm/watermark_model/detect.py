"""Look for the watermark in a file and print what was found as JSON; a short-lived process of its own.

    python -m backends.csm.watermark_model.detect speech.wav --model models/sony--silentcipher --user-dir CONFIG

FILE is an audio file, or float32 samples as .npy with --rate. Prints {"status", "message", "confidence", "ours"} on one
line: status is "found", "not found" or "too short" (less than one repetition of the message). Exit status 1 and
{"error", "kind"} if it cannot look.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from backends.csm.loading import find_folder
from backends.csm.watermark import Samples, load_watermark, result
from backends.csm.watermark_model.key import KEY_FILE, parse_key, read_key
from backends.interface import BackendError, InvalidInput

_LONGEST = 600.0  # seconds of a file that are looked at


def detect_file(
    file: Path,
    model: Path,
    *,
    key: tuple[int, ...] | None = None,
    rate: int | None = None,
    statistics: str = "batch",
) -> dict[str, object]:
    """The detection in a file as JSON values. Raises InvalidInput or ModelUnavailable."""
    samples, samples_rate = _read(file, rate)
    watermark = load_watermark(model, "running" if statistics == "running" else "batch")
    return result(watermark.detect(samples, samples_rate), key)


def _read(file: Path, rate: int | None) -> tuple[Samples, int]:
    try:
        if file.suffix == ".npy":
            if rate is None:
                raise InvalidInput("samples in .npy need --rate")
            return np.load(file, allow_pickle=False).astype(np.float32).reshape(-1), rate
        with soundfile.SoundFile(file) as file_reader:
            count = int(min(len(file_reader), _LONGEST * file_reader.samplerate))
            return file_reader.read(count, dtype="float32", always_2d=True).mean(
                axis=1, dtype=np.float32
            ), file_reader.samplerate
    except (soundfile.SoundFileError, ValueError, OSError, EOFError) as error:
        raise InvalidInput(f"{file.name} cannot be read as audio: {error}") from error


def _key(arguments: argparse.Namespace) -> tuple[int, ...] | None:
    if key := sys.stdin.read().strip() if arguments.key_from_stdin else arguments.key:
        return parse_key(key)
    kept = arguments.user_dir / KEY_FILE if arguments.user_dir else None
    return read_key(kept) if kept is not None and kept.is_file() else None


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="sony/silentcipher", help="hub id or folder of the watermark model")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--user-dir", type=Path, help="where watermark.key lies")
    parser.add_argument("--key", default="", help="ten hex digits to compare with, instead")
    parser.add_argument(
        "--key-from-stdin", action="store_true", help="read these digits from stdin: others can read commands"
    )
    parser.add_argument("--rate", type=int, help="Hz of samples in .npy")
    parser.add_argument("--statistics", choices=("batch", "running"), default="batch")
    arguments = parser.parse_args(argv)
    try:
        folder = find_folder(None, arguments.model, arguments.models_dir)
        rate, statistics = arguments.rate, arguments.statistics
        found = detect_file(arguments.file, folder, key=_key(arguments), rate=rate, statistics=statistics)
    except BackendError as error:
        print(json.dumps({"error": error.message, "kind": error.kind}))
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
