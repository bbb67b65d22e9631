"""CTranslate2 folders: the same tokens as the published layout, every number format, and refusals of whatever is
damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import model_sets
from backends.data_packages import KnownFile, Part
from backends.interface import Done, ModelFiles, ModelUnavailable, Placement, TranscriptionRequest
from backends.model_files import JoinedFile
from backends.model_sets import ModelSet, Variant
from backends.whisper.backend import WhisperBackend
from backends.whisper.checkpoint import Checkpoint, check, expected_shapes
from backends.whisper.config import container_of, read_dims, read_generation_config
from backends.whisper.engine import Whisper, load_whisper
from backends.whisper.formats.ctranslate2 import is_ctranslate2, published_generation_config, read_container
from backends.whisper.onnx.layers import quantise, quantise_blocks
from tests.backends.whisper.spoken import greedy_tokens, record
from tests.support import ctranslate2 as writer
from tests.support.packages import install

ERROR = {
    "float32": 0.0,
    "float16": 0.0,
    "bfloat16": 0.004,
    "int16": 0.0012,
}  # of the largest weight; the miniature is float16
INT8_ERROR = 0.5 / 127


# --- The same model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", writer.KINDS)
def test_every_number_format_holds_the_published_weights(published: Path, tmp_path: Path, kind: str) -> None:
    folder = writer.write_folder(published, tmp_path, kind)
    ours, theirs, dims = Checkpoint(folder), Checkpoint(published), read_dims(folder)
    assert dims == read_dims(published)
    check(ours, dims)
    for name in [*expected_shapes(dims), "encoder.embed_positions.weight"]:
        assert ours[name].shape == theirs.shape(name)
        largest = np.abs(theirs[name]).max()
        assert np.abs(ours[name] - theirs[name]).max() <= 1.01 * ERROR.get(kind, INT8_ERROR) * largest, name
    rows = np.array([[3, 1], [2, 2]])
    name = "decoder.embed_tokens.weight"
    assert np.array_equal(ours.rows(name, rows), ours[name][rows])
    assert not ours.has_own_head()


def test_ids_rules_and_heads_are_those_of_the_published_files(published: Path, tmp_path: Path) -> None:
    folder = writer.write_folder(published, tmp_path)
    assert read_generation_config(folder) == read_generation_config(published)


@pytest.mark.parametrize(("engine", "kind"), [("onnx", "float32"), ("onnx", "float16"), ("torch", "float16")])
def test_tokens_are_those_of_the_published_layout(
    plain: Whisper, published: Path, tmp_path: Path, engine: str, kind: str
) -> None:
    model = load_whisper(writer.write_folder(published, tmp_path, kind), engine=engine)
    assert greedy_tokens(model) == greedy_tokens(plain)
    assert all(greedy_tokens(model))


def test_int8_is_computed_in_int8_with_the_same_tokens(plain: Whisper, published: Path, tmp_path: Path) -> None:
    model = load_whisper(writer.write_folder(published, tmp_path, "int8"), dtype="int8")
    assert model.network.dtype == "int8"
    assert greedy_tokens(model) == greedy_tokens(plain)


def test_the_whole_recording_word_for_word(plain: Whisper, published: Path, tmp_path: Path) -> None:
    model = load_whisper(writer.write_folder(published, tmp_path, "float16"))
    clip = record(6, seed=9)
    one, other = (m.transcribe(clip.samples, word_timestamps=True) for m in (plain, model))
    assert one == other
    assert one.words


def test_int8_weights_are_used_as_they_are_stored(published: Path, tmp_path: Path) -> None:
    folder = writer.write_folder(published, tmp_path, "int8")
    stored = writer.arrays(published, "int8")["decoder/layer_0/ffn/linear_1/weight"]
    checkpoint = Checkpoint(folder)
    name = "decoder.layers.0.fc2.weight"
    steps = checkpoint.row_steps(name)
    assert steps is not None
    whole, _ = quantise(checkpoint[name].T, 8)
    assert np.array_equal(whole.T, stored)
    blocks, scales = quantise_blocks(checkpoint[name].T, 128, steps)
    assert np.array_equal(blocks.reshape(stored.shape).astype(int) - 128, stored)
    assert np.array_equal(scales, np.repeat(steps[:, None], stored.shape[1] // 128, axis=1))
    assert Checkpoint(published).row_steps(name) is None


def test_nothing_is_copied_on_the_disk_but_graphs(published: Path, tmp_path: Path) -> None:
    folder = writer.write_folder(published, tmp_path)
    load_whisper(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.bin", "config.json", "tokenizer.json", ".onnx", ".content-hash.json"}
    assert Checkpoint(folder)["decoder.layer_norm.weight"].any()


def test_a_file_in_two_parts_is_read_as_one(published: Path, tmp_path: Path) -> None:
    data = writer.container(writer.arrays(published, "float16"))
    cut = len(data) // 2
    (tmp_path / "a").write_bytes(data[:cut])
    (tmp_path / "b").write_bytes(data[cut:])
    (tmp_path / "whole").write_bytes(data)
    parts, whole = JoinedFile(tmp_path / "a", tmp_path / "b"), JoinedFile(tmp_path / "whole")
    assert parts.size == whole.size
    assert parts.sha256() == whole.sha256()
    assert read_container(parts).variables == read_container(whole).variables
    for variable in read_container(parts).variables.values():
        length = variable.row_bytes * (variable.shape[0] if variable.shape else 1)
        assert parts.read(variable.offset, length) == whole.read(variable.offset, length)


def test_safetensors_beside_the_container_win(published: Path, tmp_path: Path) -> None:
    folder = writer.write_folder(published, tmp_path)
    assert container_of(folder) is not None
    shutil.copy(published / "model.safetensors", folder)
    assert container_of(folder) is None


@pytest.mark.parametrize("vocabulary", [51_864, 51_865])
def test_files_of_english_only_models_list_languages_that_they_do_not_have(vocabulary: int) -> None:
    tokenizer = {"added_tokens": [{"id": 4, "content": "<|en|>"}, {"id": 5, "content": "<|notimestamps|>"}]}
    made = published_generation_config({"lang_ids": [4, 5]}, tokenizer, vocabulary)
    assert made["is_multilingual"] is (vocabulary == 51_865)
    assert made["lang_to_id"] == ({"<|en|>": 4} if vocabulary == 51_865 else {})


# --- Out of packages --------------------------------------------------------------------------------------------------


def known_set(site: Path, folder: Path, name: str = "whisper-mini") -> ModelSet:
    """Installs a folder as two packages, its weights cut in the middle, and knows their digests."""
    whole = (folder / "model.bin").read_bytes()
    cut = len(whole) // 2
    small = {file: (folder / file).read_bytes() for file in ("config.json", "tokenizer.json")}
    install(
        site,
        "mini-part1",
        {"mini_part1/model.bin.part1": whole[:cut], **{f"mini_part1/{n}": d for n, d in small.items()}},
    )
    install(site, "mini-part2", {"mini_part2/model.bin.part2": whole[cut:]})
    parts = (Part("mini-part1", "mini_part1/model.bin.part1"), Part("mini-part2", "mini_part2/model.bin.part2"))
    files = [KnownFile("model.bin", len(whole), hashlib.sha256(whole).hexdigest(), parts)]
    files += [
        KnownFile(n, len(d), hashlib.sha256(d).hexdigest(), (Part("mini-part1", f"mini_part1/{n}"),))
        for n, d in small.items()
    ]
    return ModelSet(name, (Variant("mini", tuple(files)),), "org/mini", "c" * 40, "English")


def test_the_backend_transcribes_with_weights_that_lie_in_two_packages(
    plain: Whisper, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = writer.write_folder(published, tmp_path / "made", "float16")
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    known = known_set(tmp_path / "site", folder)
    monkeypatch.setitem(model_sets.MODEL_SETS, known.name, known)
    clip, place = record(2, seed=4), tmp_path / "models" / known.name
    backend = WhisperBackend()
    files = ModelFiles("w", known.name, place, tmp_path, tmp_path, {"vad": False})
    capabilities = backend.load(files, Placement(dtype="float32"))
    job = backend.start(TranscriptionRequest(clip.samples, language="en"))
    events = []
    while not any(isinstance(event, Done) for event in events):
        events += [event for _, event in backend.step([job])]
    assert events[-1].text.strip() == plain.transcribe(clip.samples, "en", vad=False).text
    assert "warning" not in capabilities.detail
    assert not (place / "model.bin").exists()
    assert Checkpoint(place).content_hash() == known.variants[0].files[0].sha256


# --- Refusals ---------------------------------------------------------------------------------------------------------


def changed(published: Path, **changes: Any) -> bytes:
    """A container with some variables changed (None: left out), and its head."""
    head = {key: changes.pop(key) for key in ("version", "kind", "revision", "aliases") if key in changes}
    made = writer.arrays(published) | {name.replace("__", "/"): value for name, value in changes.items()}
    return writer.container({name: value for name, value in made.items() if value is not None}, **head)


GAP = {f"encoder__layer_1__{name}": None for name in ("self_attention/layer_norm/gamma",)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": 5}, "version 5"),
        ({"version": 7}, "version 7"),
        ({"revision": 2}, "revision 2"),
        ({"decoder__pre_norm": np.array(0, np.int8)}, "pre_norm is not 1"),
        ({"decoder__alibi": np.array(1, np.int8)}, "alibi is not 0"),
        ({"decoder__activation": np.array(2, np.int8)}, "activation 2 is not supported"),
        ({"encoder__num_heads": None}, "no number encoder/num_heads"),
        ({"encoder__num_heads": np.array(5, np.int16)}, "not a multiple of the number of heads"),
        ({"encoder__num_heads": np.array(0, np.int16)}, "below 1"),
        ({"decoder__num_heads": np.array(-3, np.int16)}, "below 1"),
        ({"encoder__conv1__weight": None}, "no array encoder/conv1/weight"),
        ({"decoder__embeddings__weight": None, "aliases": {}}, "no array decoder/embeddings/weight"),
        ({"decoder__embeddings__weight": None}, "leads nowhere"),
        ({"decoder__layer_1__ffn__linear_1__bias": None}, r"lacks 1 tensors: decoder\.layers\.1\.fc2\.bias"),
        ({"decoder__layer_9__ffn__linear_1__bias": np.zeros(96, np.float32)}, "gaps among its 3 layers"),
        ({"decoder__quite_another__thing": np.zeros(3, np.float32)}, "no part of a Whisper"),
        (
            {"decoder__layer_0__self_attention__linear_0__weight": np.zeros((287, 96), np.float32)},
            "3 arrays of one size",
        ),
        ({"decoder__layer_0__ffn__linear_1__weight": np.zeros((96, 96), np.float32)}, "does not fit"),
        (
            {"decoder__layer_0__ffn__linear_1__weight": np.zeros((96, 384), np.int8)},
            "scale of decoder/layer_0/ffn/linear_1/weight",
        ),
        ({"decoder__layer_0__ffn__linear_1__weight": np.zeros((96, 384), np.int32)}, "not of a float type"),
        ({"decoder__layer_0__self_attention__linear_0__bias": np.ones(288, np.float32)}, r"k_proj\.bias is not zero"),
    ],
)
def test_what_is_no_whisper_is_refused_by_name(
    published: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    folder = writer.write_folder(published, tmp_path)
    (folder / "model.bin").write_bytes(changed(published, **changes))
    with pytest.raises(ModelUnavailable, match=told):
        load_whisper(folder)


def test_a_scale_of_another_shape_is_refused(published: Path, tmp_path: Path) -> None:
    folder = writer.write_folder(published, tmp_path, "int8")
    made = writer.arrays(published, "int8")
    name = "decoder/layer_0/ffn/linear_1/weight_scale"
    (folder / "model.bin").write_bytes(writer.container(made | {name: made[name][:-1]}))
    with pytest.raises(ModelUnavailable, match="scale of decoder/layer_0/ffn/linear_1/weight"):
        load_whisper(folder)


def test_a_file_that_ends_anywhere_else_is_refused(published: Path, tmp_path: Path) -> None:
    data = writer.container(writer.arrays(published))
    file = tmp_path / "model.bin"
    for length in [*range(19, 120), 1000, len(data) // 2, len(data) - 1]:
        file.write_bytes(data[:length])
        with pytest.raises(ModelUnavailable, match="truncated"):
            read_container(JoinedFile(file))
    file.write_bytes(data + b"x")
    with pytest.raises(ModelUnavailable, match="1 bytes behind its end"):
        read_container(JoinedFile(file))


HEAD = struct.pack("<I", 6) + writer.text("WhisperSpec") + struct.pack("<I", 3)
ONE = HEAD + struct.pack("<I", 1) + writer.text("a")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (HEAD + struct.pack("<I", 2**32 - 1), "claims 4294967295 entries"),
        (ONE + b"\xff" + b"\xff" * 255 * 4, "claims 255 dimensions"),
        (ONE + struct.pack("<BIIBI", 2, 2**32 - 1, 2**32 - 1, 0, 4), "damaged"),
        (ONE + struct.pack("<BIBI", 1, 1 << 30, 1, 1 << 30), "truncated"),
        (ONE + struct.pack("<BIBI", 1, 1, 9, 4) + bytes(4), "unknown type 9"),
        (HEAD + struct.pack("<I", 1) + struct.pack("<H", 0), "no name ends"),
        (HEAD + struct.pack("<I", 1) + struct.pack("<H", 2) + b"ab", "no name ends"),
        (HEAD + struct.pack("<I", 1) + struct.pack("<H", 2) + b"\xff\0", "no UTF-8"),
        (HEAD + struct.pack("<I", 2) + writer.variable("a", np.zeros(1, np.float32)) * 2, "twice"),
    ],
)
def test_claims_beyond_all_sense_are_refused_at_once(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "model.bin").write_bytes(data + bytes(20))
    with pytest.raises(ModelUnavailable, match=told):
        read_container(JoinedFile(tmp_path / "model.bin"))


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04pickle", b"\x06\0\0\0", writer.container({}, {}, kind="TransformerSpec")]
)
def test_other_files_are_no_container(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.bin").write_bytes(data)
    assert not is_ctranslate2(JoinedFile(tmp_path / "model.bin"))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelUnavailable):
        load_whisper(tmp_path)


@pytest.mark.parametrize(
    "own",
    [
        {"lang_ids": 5},
        {"lang_ids": [[]]},
        {"suppress_ids": "x"},
        {"suppress_ids_begin": [None]},
        {"suppress_ids": [1e999]},
        {"alignment_heads": [[0]]},
        {"alignment_heads": [[0, -1]]},
    ],
)
def test_a_garbled_config_is_refused(published: Path, tmp_path: Path, own: dict[str, Any]) -> None:
    folder = writer.write_folder(published, tmp_path)
    (folder / "config.json").write_text(json.dumps(writer.config(published) | own), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="garbled"):
        read_generation_config(folder)
