"""whisper.cpp's files: the same tokens as the published layout, every number format, and refusals of whatever is
damaged."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from backends import weights
from backends.interface import ModelUnavailable
from backends.model_files import ModelSpec
from backends.model_sets import MODEL_SETS, locate, problems
from backends.whisper.checkpoint import Checkpoint, check, expected_shapes
from backends.whisper.config import read_dims, read_generation_config
from backends.whisper.engine import Whisper, load_whisper
from backends.whisper.formats.ggml import ggml_of
from backends.whisper.formats.ggml_blocks import dequantised
from backends.whisper.formats.ggml_vocabulary import added_tokens, rules
from backends.whisper.tokenizer import WhisperTokenizer
from tests.backends.whisper.spoken import greedy_tokens
from tests.support import ggml as writer

BASE = MODEL_SETS["whisper-base"]
# Of the largest weight of a block; the miniature is float16 itself.
ERROR = {"f32": 0.0, "f16": 0.0, "q8_0": 0.006, "q5_0": 0.07, "q5_1": 0.04, "q4_0": 0.13, "q4_1": 0.07}


# --- The same model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", writer.KINDS)
def test_every_number_format_holds_the_published_weights(published: Path, tmp_path: Path, kind: str) -> None:
    folder = writer.write_folder(published, tmp_path, kind)
    ours, theirs, dims = Checkpoint(folder), Checkpoint(published), read_dims(folder)
    assert dims == read_dims(published)
    check(ours, dims)
    for name in [*expected_shapes(dims), "encoder.embed_positions.weight"]:
        assert ours[name].shape == theirs.shape(name)
        assert np.abs(ours[name] - theirs[name]).max() <= ERROR[kind] * np.abs(theirs[name]).max(), name
    rows, name = np.array([[3, 1], [2, 2]]), "decoder.embed_tokens.weight"
    assert np.array_equal(ours.rows(name, rows), ours[name][rows])
    assert not ours.has_own_head()


@pytest.mark.parametrize(
    ("kind", "block", "expected"),
    [
        ("Q8_0", struct.pack("<e32b", 0.5, *range(-16, 16)), [n / 2 for n in range(-16, 16)]),
        (
            "Q4_0",
            struct.pack("<e16B", 2, *(n + 16 * (15 - n) for n in range(16))),
            [*range(-16, 16, 2), *range(14, -18, -2)],
        ),
        ("Q4_1", struct.pack("<2e16B", 1, 100, *range(16)), [*range(100, 116), *[100] * 16]),
        (
            "Q5_0",
            struct.pack("<eI16B", 1, 1 << 2 | 1 << 17, *[1] * 16),
            [*[-15] * 2, 1, *[-15] * 13, -16, 0, *[-16] * 14],
        ),
        ("Q5_1", struct.pack("<2eI16B", 1, -3, 1 << 31, *[0x20] * 16), [*[-3] * 16, *[-1] * 15, 15]),
    ],
)
def test_blocks_are_read_bit_for_bit(kind: str, block: bytes, expected: list[float]) -> None:
    raw = np.frombuffer(block * 2, np.uint8).reshape(2, -1)
    assert dequantised(raw, kind).tolist() == [expected, expected]


def test_ids_rules_and_words_are_those_of_the_published_files(published: Path, tmp_path: Path) -> None:
    folder = writer.write_folder(published, tmp_path)
    ours, theirs = read_generation_config(folder), read_generation_config(published)
    for name in ("start", "end", "languages", "tasks", "no_timestamps", "previous", "suppressed_first", "multilingual"):
        assert getattr(ours, name) == getattr(theirs, name), name
    one, other = WhisperTokenizer(folder), WhisperTokenizer(published)
    text = " The green book, (nine) Anna's <|en|> fünf日本!"
    assert one.encode(text) == other.encode(text)
    assert one.decode(one.encode(text)) == text
    assert one.token_id("<|nospeech|>") == other.token_id("<|nospeech|>")


@pytest.mark.parametrize(("engine", "kind"), [("onnx", "f32"), ("onnx", "f16"), ("torch", "f16")])
def test_tokens_are_those_of_the_published_layout(
    plain: Whisper, published: Path, tmp_path: Path, engine: str, kind: str
) -> None:
    model = load_whisper(writer.write_folder(published, tmp_path, kind), engine=engine)
    assert greedy_tokens(model) == greedy_tokens(plain)
    assert all(greedy_tokens(model))


def test_nothing_is_copied_on_the_disk_but_graphs(published: Path, tmp_path: Path) -> None:
    folder = writer.write_folder(published, tmp_path)
    load_whisper(folder)
    assert {path.name for path in folder.iterdir()} == {"ggml-f16.bin", ".onnx", ".content-hash.json"}


WANTED = ModelSpec("org/mini", ("config.json", "*.safetensors|model.bin"), ("config.json", "model.bin"))


def test_a_file_is_a_whole_model_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    file = tmp_path / "one" / "ggml-base.bin"
    file.write_bytes(b"lmgg and more")
    assert weights.problems(file.parent, WANTED) == []
    assert (weights.weights_format(file.parent), weights.weights_bytes(file.parent)) == ("GGML", 13)
    target = weights.import_folder(file.parent, WANTED, tmp_path / "models")
    assert (target / file.name).read_bytes() == b"lmgg and more"
    assert weights.weights_format(target) == "GGML"
    assert weights.problems(file.parent, ModelSpec("a", ("*.safetensors",), ()))
    (file.parent / "ggml-tiny.bin").write_bytes(b"lmgg")
    assert "several models: ggml-base.bin, ggml-tiny.bin" in weights.problems(file.parent, WANTED)[0]
    file.write_bytes(b"PK")
    (file.parent / "ggml-tiny.bin").unlink()
    assert "config.json is missing" in weights.problems(file.parent, WANTED)[0]


def test_a_converter_may_write_the_end_token_among_the_words(published: Path, tmp_path: Path) -> None:
    words = [*writer.words_of(published), b"<|endoftext|>"]
    data = writer.head(published, words) + b"".join(
        writer.tensor(name, value, "f16") for name, value in writer.tensors(published).items()
    )
    (tmp_path / "ggml-x.bin").write_bytes(data)
    assert read_generation_config(tmp_path).end == read_generation_config(published).end
    assert load_whisper(tmp_path).special.end == len(words) - 1


# --- Published weights ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    if wrong := problems(BASE, folder):
        pytest.skip(wrong[0])
    return locate(BASE, folder).folder


@pytest.mark.real_weights
def test_suppressed_tokens_and_merges_follow_from_the_published_words(base: Path, tmp_path: Path) -> None:
    words = writer.words_of(base)
    theirs = read_generation_config(base)
    own, _ = rules(words, 51_865)
    assert own["suppress_ids"] == sorted(theirs.suppressed)
    assert set(own["suppress_ids_begin"]) == set(theirs.suppressed_first)
    assert own["lang_ids"] == sorted(theirs.languages.values())
    (tmp_path / "ggml-words.bin").write_bytes(writer.head(base, words))
    one, other = WhisperTokenizer(tmp_path), WhisperTokenizer(base)
    for text in (
        " Unbelievably, 12,345 co-operations cost $9.99!",
        "昨日は友達と映画を見に行きました。",
        " Größe naïve",
    ):
        assert one.encode(text) == other.encode(text)


@pytest.mark.real_weights
@pytest.mark.slow
def test_a_published_model_says_the_same_in_either_format(base: Path, tmp_path: Path) -> None:
    voice = pytest.importorskip("pyopenjtalk", reason="the Japanese voice is part of pyopenjtalk-plus")
    soxr = pytest.importorskip("soxr")
    samples, rate = voice.tts("昨日は友達と映画を見に行きました。")
    sound = soxr.resample((samples / 32_768).astype(np.float32), rate, 16_000)
    ours = load_whisper(writer.write_folder(base, tmp_path, "f16")).transcribe(sound)
    theirs = load_whisper(base).transcribe(sound)
    assert ours.language == theirs.language == "ja"
    assert [segment.tokens for segment in ours.segments] == [segment.tokens for segment in theirs.segments]


# --- Refusals ---------------------------------------------------------------------------------------------------------

ODD = {"decoder.blocks.0.mlp.0.weight": np.zeros((384, 80), np.float32)}


@pytest.mark.parametrize(
    ("extra", "changes", "told"),
    [
        ({}, {"width": 95}, "widths 95 and 96"),
        ({}, {"text_layers": 4}, r"lacks \d+ tensors: decoder\.layers\.2"),
        ({}, {"mels": 79}, "mel filters are 80 x 201"),
        ({}, {"heads": 0}, "below 1"),
        ({}, {"vocabulary": 3}, "claims 494 words of 3"),
        ({}, {"vocabulary": 2500}, "does not fit"),
        ({"encoder.strange": np.zeros(3, np.float32)}, {}, "none of a Whisper"),
        ({"decoder.blocks.0.attn.bias": np.zeros(3, np.float32)}, {}, "none of a Whisper"),
        (ODD, {}, "does not fit"),
    ],
)
def test_what_is_no_whisper_is_refused_by_name(
    published: Path, tmp_path: Path, extra: dict[str, np.ndarray], changes: dict[str, int], told: str
) -> None:
    (tmp_path / "ggml-x.bin").write_bytes(writer.file(published, "f16", extra, **changes))
    with pytest.raises(ModelUnavailable, match=told):
        load_whisper(tmp_path)


def test_a_file_that_ends_anywhere_else_is_refused(published: Path, tmp_path: Path) -> None:
    data, file = writer.file(published), tmp_path / "ggml-x.bin"
    for length in [*range(4, 60), 5000, 70_000, len(data) // 2, len(data) - 1]:
        file.write_bytes(data[:length])
        with pytest.raises(ModelUnavailable, match=r"truncated or damaged|lacks"):
            check(Checkpoint(tmp_path), read_dims(tmp_path))
    file.write_bytes(data + b"x")
    with pytest.raises(ModelUnavailable, match="truncated or damaged"):
        ggml_of(tmp_path)


HEAD_BYTES = 4 + 44 + 8 + 80 * 201 * 4


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        (struct.pack("<i", -1), "claims -1 words"),
        (struct.pack("<i", 2_000_000_000), "claims 2000000000 words"),
        (struct.pack("<iI", 1, 4_000_000_000), "claims 4000000000 bytes"),
        (struct.pack("<iI", 0, 0)[:4] + b"", "claims 0 words"),
        (struct.pack("<iIc3i", 1, 1, b"a", 99, 4, 0), "no tensor begins"),
        (struct.pack("<iIc3i", 1, 1, b"a", 1, -4, 0), "no tensor begins"),
        (struct.pack("<iIc3ii4s", 1, 1, b"a", 1, 4, 0, 1, b"\xff\xff\xff\xff"), "truncated or damaged"),
        (struct.pack("<iIc3ii14s", 1, 1, b"a", 1, 14, 77, 1, b"decoder.ln.bias"), r"of type 77"),
        (struct.pack("<iIc3ii15s", 1, 1, b"a", 1, 15, 8, 5, b"decoder.ln.bias"), "no row of whole blocks"),
        (struct.pack("<iIc3ii15s", 1, 1, b"a", 1, 15, 0, 2**31 - 1, b"decoder.ln.bias"), "the file has"),
        (struct.pack("<iIc3ii15s", 1, 1, b"a", 1, 15, 0, -5, b"decoder.ln.bias"), "none of a Whisper"),
    ],
)
def test_claims_beyond_all_sense_are_refused_at_once(published: Path, tmp_path: Path, behind: bytes, told: str) -> None:
    (tmp_path / "ggml-x.bin").write_bytes(writer.head(published, [])[:HEAD_BYTES] + behind)
    with pytest.raises(ModelUnavailable, match=told):
        ggml_of(tmp_path)


def test_a_tensor_that_is_there_twice_is_refused(published: Path, tmp_path: Path) -> None:
    twice = writer.tensor("decoder.ln.bias", np.zeros(96, np.float32), "f32")
    (tmp_path / "ggml-x.bin").write_bytes(writer.file(published) + twice)
    with pytest.raises(ModelUnavailable, match="twice"):
        ggml_of(tmp_path)


def test_a_vocabulary_that_leaves_no_room_for_timestamps_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match="is no Whisper's"):
        added_tokens([b"a"] * 500, 1000)
    with pytest.raises(ModelUnavailable, match="is no Whisper's"):
        added_tokens([b"a"] * 500, 5000)


def test_of_several_models_none_is_guessed(published: Path, tmp_path: Path) -> None:
    for name in ("ggml-a.bin", "ggml-b.bin"):
        (tmp_path / name).write_bytes(b"lmgg")
    with pytest.raises(ModelUnavailable, match=r"ggml-a\.bin, ggml-b\.bin"):
        ggml_of(tmp_path)


def test_safetensors_beside_the_file_win(published: Path, tmp_path: Path) -> None:
    folder = writer.write_folder(published, tmp_path)
    assert ggml_of(folder) is not None
    shutil.copy(published / "model.safetensors", folder)
    assert ggml_of(folder) is None
