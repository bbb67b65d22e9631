"""Models of known content: every place where they may lie, each checked by digest, and each replaced file refused by
name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import model_sets, weights
from backends.data_packages import LOCATED, KnownFile, Part, Refused, read_record, recorded_digest
from backends.interface import ModelUnavailable
from backends.model_files import JoinedFile, ModelSpec
from backends.model_sets import MODEL_SETS, ModelSet, Variant, locate, model_set, problems
from tests.support.hub import COMMIT, Hub, running_hub
from tests.support.packages import install

FIRST, SECOND = b"\x06\0\0\0\x0c\0WhisperSpec\0" + b"a" * 200, b"b" * 100
OTHER = b"\x06\0\0\0\x0c\0WhisperSpec\0" + b"of another converter"
CONFIG = b"{}"


def known(name: str, data: bytes, *parts: tuple[str, str]) -> KnownFile:
    return KnownFile(name, len(data), hashlib.sha256(data).hexdigest(), tuple(Part(*part) for part in parts))


SET = ModelSet(
    "model-x",
    (
        Variant(
            "maker-one",
            (
                known("model.bin", FIRST + SECOND, ("one-part1", "one_part1/m.1"), ("one-part2", "one_part2/m.2")),
                known("config.json", CONFIG, ("one-part1", "one_part1/config.json")),
            ),
        ),
        Variant(
            "maker-two",
            (
                known("model.bin", OTHER, ("two-model", "two_model/model.bin")),
                known("config.json", CONFIG, ("two-model", "two_model/config.json")),
            ),
        ),
    ),
    "org/model-x",
    COMMIT,
    "many",
)
WANTED = ModelSpec("model-x", ("config.json", "model*.safetensors|model.bin"), ("config.json", "model.bin"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages can be put into."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(model_sets.platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setitem(MODEL_SETS, SET.name, SET)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return weights.model_folder(tmp_path / "models", SET.name)


def install_one(site: Path, first: bytes = FIRST, second: bytes = SECOND) -> None:
    install(site, "one-part1", {"one_part1/m.1": first, "one_part1/config.json": CONFIG})
    install(site, "one-part2", {"one_part2/m.2": second})


def install_two(site: Path, data: bytes = OTHER) -> None:
    install(site, "two-model", {"two_model/model.bin": data, "two_model/config.json": CONFIG})


def content(folder: Path) -> bytes:
    file = read_record(folder)["model.bin"]
    return file.read(0, file.size)


def test_a_set_lies_in_the_models_folder_under_its_name(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weights.model_folder(tmp_path, "model-x") == tmp_path / "model-x"
    (tmp_path / "model-x").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_set("model-x") is None  # a folder that exists is meant
    assert model_set("org/model-x") is None


def test_parts_of_packages_are_used_where_they_lie_and_never_imported(site: Path, folder: Path) -> None:
    install_one(site)
    assert problems(SET, folder) == []
    found = locate(SET, folder)
    assert (found.folder, found.source, found.refused) == (folder, "maker-one", ())
    assert content(folder) == FIRST + SECOND
    assert {path.name for path in folder.iterdir()} == {"config.json", LOCATED}
    assert weights.weights_format(folder, SET.name) == "CTranslate2, package maker-one"
    assert weights.weights_bytes(folder, SET.name) == len(FIRST + SECOND + CONFIG)


def test_a_checked_file_is_not_read_again_until_it_changes(
    site: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_one(site)
    locate(SET, folder)
    read: list[Path] = []
    hashing = JoinedFile.sha256
    monkeypatch.setattr(JoinedFile, "sha256", lambda file: (read.extend(file.parts), hashing(file))[1])
    locate(SET, folder)
    assert read == []
    os.utime(site / "one_part1" / "m.1", ns=(1, 1))
    assert recorded_digest(folder, "model.bin") is None
    locate(SET, folder)
    assert site / "one_part1" / "m.1" in read


def test_the_second_package_stands_in_for_the_first(site: Path, folder: Path) -> None:
    install(site, "one-part2", {"one_part2/m.2": SECOND})  # half of the first is of no use
    install_two(site)
    assert problems(SET, folder) == []
    assert locate(SET, folder).source == "maker-two"
    assert content(folder) == OTHER


def test_a_replaced_package_is_refused_by_name_and_the_next_one_used(site: Path, folder: Path) -> None:
    install_one(site, second=b"e" * len(SECOND))
    with pytest.raises(Refused, match=r"one-part1 and one-part2 is not the file that is known.*SHA-256"):
        locate(SET, folder)
    assert not folder.exists()
    install_two(site)
    found = locate(SET, folder)
    assert found.source == "maker-two"
    assert "one-part1 and one-part2" in found.refused[0]


def test_a_package_that_is_replaced_after_its_check_is_noticed(site: Path, folder: Path) -> None:
    install_one(site)
    locate(SET, folder)
    install_one(site, second=b"e" * len(SECOND))
    with pytest.raises(Refused, match="one-part2"):
        locate(SET, folder)


def test_a_package_of_another_size_is_a_problem_before_anything_is_loaded(site: Path, folder: Path) -> None:
    install_one(site, second=SECOND[1:])
    assert "refused" in problems(SET, folder)[0]
    assert "two-model not installed" in problems(SET, folder)[0]


def test_nothing_there_names_every_package_and_the_extra(site: Path, folder: Path) -> None:
    told = problems(SET, folder)[0]
    assert "weight packages ears" in told
    assert "one-part1 and one-part2 not installed; two-model not installed" in told
    with pytest.raises(ModelUnavailable, match="two-model not installed"):
        locate(SET, folder)


def test_files_in_the_models_folder_come_first_and_are_checked(site: Path, folder: Path) -> None:
    install_one(site)
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(OTHER)
    (folder / "config.json").write_bytes(CONFIG)
    assert locate(SET, folder).source == str(folder)
    assert content(folder) == OTHER
    (folder / "model.bin").write_bytes(OTHER[::-1])
    with pytest.raises(Refused, match=r"model\.bin in its folder is not the file that is known"):
        locate(SET, folder)


def test_another_model_in_the_sets_folder_is_named_and_not_passed_over(site: Path, folder: Path) -> None:
    install_one(site)
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"x" * 5000)
    assert "remove or rename" in problems(SET, folder)[0]
    with pytest.raises(Refused, match="remove or rename"):
        locate(SET, folder)


def test_a_models_folder_that_cannot_be_written_leaves_the_record_in_the_cache(site: Path, tmp_path: Path) -> None:
    install_one(site)
    (tmp_path / "models").write_bytes(b"in the way")
    found = locate(SET, tmp_path / "models" / "model-x")
    assert found.folder == tmp_path / "cache" / "speech-gateway" / "models" / "model-x"
    assert content(found.folder) == FIRST + SECOND
    assert locate(SET, tmp_path / "models" / "model-x") == found


@pytest.mark.parametrize(
    "record", ["", "[]", "{", '{"files": 3}', '{"files": {"model.bin": {"sha256": 1, "parts": [["x"]]}}}']
)
def test_a_garbled_record_is_made_anew(site: Path, folder: Path, record: str) -> None:
    install_one(site)
    locate(SET, folder)
    (folder / LOCATED).write_text(record, encoding="utf-8")
    assert read_record(folder) == {}
    assert locate(SET, folder).source == "maker-one"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with running_hub() as found:
        found.repositories["org/model-x"] = {"model.bin": FIRST + SECOND, "config.json": CONFIG, "README.md": b"no"}
        yield found


def test_a_pull_takes_packages_before_the_hub(site: Path, tmp_path: Path, folder: Path) -> None:
    install_one(site)
    assert weights.pull(WANTED, tmp_path / "models", endpoint="http://127.0.0.1:9", offline=True) == folder
    assert content(folder) == FIRST + SECOND


def test_offline_and_without_packages_a_pull_says_what_is_missing(site: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"two-model not installed.*stay offline"):
        weights.pull(WANTED, tmp_path / "models", offline=True)


def test_without_packages_a_pull_fetches_and_checks_the_known_files(
    site: Path, tmp_path: Path, folder: Path, hub: Hub
) -> None:
    weights.pull(WANTED, tmp_path / "models", endpoint=hub.url)
    assert problems(SET, folder) == []
    assert locate(SET, folder).source in ("maker-one", str(folder))
    assert (folder / "model.bin").read_bytes() == FIRST + SECOND
    assert not (folder / "README.md").exists()


def test_a_hub_that_gives_other_files_is_refused(site: Path, tmp_path: Path, folder: Path, hub: Hub) -> None:
    hub.repositories["org/model-x"]["model.bin"] = FIRST + SECOND[::-1].replace(b"b", b"c")
    with pytest.raises(Refused, match=r"model\.bin in its folder"):
        weights.pull(WANTED, tmp_path / "models", endpoint=hub.url)
    assert problems(SET, folder) != []


def test_a_set_is_imported_from_a_folder(site: Path, tmp_path: Path, folder: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "config.json").write_bytes(CONFIG)
    (stick / "model.bin").write_bytes(b"short")
    with pytest.raises(Refused, match="size is not the known one"):
        weights.import_folder(stick, WANTED, tmp_path / "models")
    (stick / "model.bin").write_bytes(OTHER)
    assert weights.import_folder(stick, WANTED, tmp_path / "models") == folder
    assert content(folder) == OTHER


def test_the_known_digests_are_whole_and_the_packages_pinned() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for known_set in MODEL_SETS.values():
        assert len(known_set.revision) == (40 if known_set.hub else 0)
        for variant in known_set.variants:
            for file in variant.files:
                assert len(bytes.fromhex(file.sha256)) == 32
                assert all(f'"{package}==' in text for package in file.packages)


def test_parts_are_read_across_their_ends(tmp_path: Path) -> None:
    data = bytes(range(100))
    cuts = [0, 7, 7, 50, 100]
    paths = [tmp_path / str(index) for index in range(len(cuts) - 1)]
    for path, begin, end in zip(paths, cuts[:-1], cuts[1:], strict=True):
        path.write_bytes(data[begin:end])
    joined = JoinedFile(*paths)
    assert all(
        joined.read(first, last - first) == data[first:last] for first in range(101) for last in range(first, 101)
    )
    for offset, length in ((99, 2), (-1, 1), (101, 0), (0, -1)):
        with pytest.raises(ModelUnavailable):
            joined.read(offset, length)
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        JoinedFile(tmp_path / "absent")


def test_the_record_can_be_read_by_people(site: Path, folder: Path) -> None:
    install_one(site)
    locate(SET, folder)
    record = json.loads((folder / LOCATED).read_text(encoding="utf-8"))
    assert record["source"] == "package maker-one"
    assert record["files"]["model.bin"]["sha256"] == SET.variants[0].files[0].sha256


LIBRARY = b"code" * 100 + b"BEGINS HERE and ends here" + b"more code" * 50
INSIDE = LIBRARY[400:425]


def _carved(content: bytes = INSIDE) -> ModelSet:
    part = Part("one-lib", "one_lib/absent.dll|one_lib/lib.so", b"BEGINS".hex())
    file = KnownFile("net.ort", len(content), hashlib.sha256(content).hexdigest(), (part,))
    return ModelSet("model-c", (Variant("maker", (file,)),), "", "", "any", "others")


def test_a_file_inside_a_library_is_cut_out_and_outlives_its_package(
    site: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = _carved()
    assert "others" in problems(known, folder)[0]
    install(site, "one-lib", {"one_lib/lib.so": LIBRARY})
    assert problems(known, folder) == []
    assert (locate(known, folder).folder / "net.ort").read_bytes() == INSIDE
    (site / "one_lib" / "lib.so").unlink()
    assert problems(known, folder) == []


@pytest.mark.parametrize("library", [b"no such bytes", LIBRARY[:410], LIBRARY.replace(b"ends", b"ENDS")])
def test_a_library_with_other_bytes_is_refused(site: Path, folder: Path, library: bytes) -> None:
    install(site, "one-lib", {"one_lib/lib.so": library})
    with pytest.raises(Refused, match="one-lib is not the file that is known"):
        locate(_carved(), folder)


def test_nothing_is_fetched_from_a_hub_that_nobody_knows(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODEL_SETS, "model-c", _carved())
    with pytest.raises(ModelUnavailable, match="no hub is known to have it"):
        weights.pull(ModelSpec("model-c", (), ()), tmp_path / "models")
