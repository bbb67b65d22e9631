"""Dataset creation: every way to write texts down, what is left out and why, resume, and the other output forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from backends.interface import InvalidInput
from backends.llasa.codec import Codec, load_codec
from backends.llasa.training import dataset
from backends.llasa.training.dataset import Recipe, create
from backends.llasa.training.dataset_export import export_memmap, export_npy
from backends.llasa.training.dataset_file import Clip, read_clips
from backends.llasa.training.dataset_text import DatasetSource, Entry, Skipped, read_entries
from backends.llasa.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def codec(codec_folder: Path) -> Codec:
    return load_codec(codec_folder)


def tone(seconds: float, rate: int = 16_000, hertz: float = 200.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """a: plain; b: 44.1 kHz stereo flac; c: silence around speech; the rest is unusable."""
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    soundfile.write(folder / "a.wav", tone(1.0), 16_000)
    soundfile.write(folder / "b.flac", np.stack([tone(1.0, 44_100), tone(1.0, 44_100, 300)], 1), 44_100)
    quiet = np.zeros(8000, np.float32)
    soundfile.write(folder / "more" / "c.wav", np.concatenate([quiet, tone(1.0, hertz=250), quiet]), 16_000)
    soundfile.write(folder / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    soundfile.write(folder / "short.wav", tone(0.2), 16_000)
    soundfile.write(folder / "long.wav", tone(3.0), 16_000)
    (folder / "broken.wav").write_bytes(b"RIFF not really")
    soundfile.write(folder / "copy.wav", tone(1.0), 16_000)
    return folder


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_create_writes_what_can_be_used_and_reports_the_rest(clips: Path, tmp_path: Path, codec: Codec) -> None:
    names = [
        "a:one: two",
        "b:Größe",
        "c:three",
        "silent:x",
        "short:x",
        "long:x",
        "broken:x",
        "gone:x",
        "a:again",
        "copy:one: two",
    ]
    text = write(tmp_path, "texts.txt", "\n".join([*names, "nothing", "a2:", ""]))
    seen: list[tuple[int, int]] = []
    report = create(
        DatasetSource(clips, text),
        tmp_path / "out" / "data.jsonl",
        codec,
        Recipe(longest=2.0, batch=2),
        progress=lambda *a: seen.append(a),
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["text"], row["source"]) for row in rows] == [("one: two", "a"), ("Größe", "b"), ("three", "c")]
    assert len(rows[0]["code"]) == 51
    assert len(rows[2]["code"]) < 62  # the silence is gone
    reasons = {item.id: item.reason for item in report.skipped}
    expected = {
        "silent": "silent",
        "short": "shorter",
        "long": "longer",
        "broken": "cannot be read",
        "gone": "no clip",
        "copy": "same sound",
        "nothing": "column",
        "a2": "empty",
        "a": "same clip as line 1",
    }
    assert set(reasons) == set(expected)
    assert all(part in reasons[name] for name, part in expected.items()), reasons
    assert "Größe" in (tmp_path / "out" / "data.jsonl").read_text(encoding="utf-8")
    assert report.written == 3
    assert seen
    assert seen[-1][0] <= seen[-1][1] == 12
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data.jsonl"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.txt", "a:one: two\n", "one: two"),
        ("metadata.csv", "a|One 1|One one\n", "One one"),
        ("metadata.csv", 'a|She said "no", twice\n', 'She said "no", twice'),
        ("t.csv", 'a.wav,"one, ""two"""\n', 'one, "two"'),
        ("metadata.csv", '"a"|"one | ""two"""\n', 'one | "two"'),
        ("t.tsv", "a\tone\n", "one"),
        ("t.csv", "a,one,anna,1.2,en\n", "one"),
        ("t.csv", 'a,"one\ntwo"\n', "one\ntwo"),
        ("t.txt", "a:one\u2028two\n", "one\u2028two"),
        ("t.txt", "﻿a:one\r\n", "one"),
    ],
)
def test_every_way_to_write_texts_down(clips: Path, tmp_path: Path, name: str, content: str, expected: str) -> None:
    (entry,) = read_entries(DatasetSource(clips, write(tmp_path, name, content)))
    assert isinstance(entry, Entry)
    assert (entry.text, entry.audio.name) == (expected, "a.wav")


def test_a_text_that_holds_the_separator_is_not_cut_in_silence(clips: Path, tmp_path: Path) -> None:
    text = write(tmp_path, "metadata.csv", "a|Say <|s_5|> and <|s_6|> now.\n")
    (found,) = read_entries(DatasetSource(clips, text))
    assert isinstance(found, Skipped)
    assert "say which one is the text" in found.reason
    (chosen,) = read_entries(DatasetSource(clips, text, text_column=1))
    assert isinstance(chosen, Entry)
    assert chosen.text == "Say <|s_5|> and <|s_6|> now."


def test_separator_and_columns_can_be_said(clips: Path, tmp_path: Path) -> None:
    text = write(tmp_path, "t.txt", "x;1;a;hello; you\n")
    (entry,) = read_entries(DatasetSource(clips, text, ";", 2, 3))
    assert isinstance(entry, Entry)
    assert (entry.id, entry.text) == ("a", "hello; you")


def test_sidecars(clips: Path) -> None:
    write(clips, "a.txt", "hello\n")
    write(clips, "b.txt", "\n")
    found = list(read_entries(DatasetSource(clips, None)))
    assert [item.text for item in found if isinstance(item, Entry)] == ["hello"]
    assert {item.id: item.reason for item in found if isinstance(item, Skipped)}["b.flac"] == "its text is empty"


def test_clips_outside_the_folder_are_not_taken(clips: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "outside.wav", tone(1.0), 16_000)
    (found,) = read_entries(DatasetSource(clips, write(tmp_path, "t.txt", "../outside.wav:hello\n")))
    assert isinstance(found, Skipped)


def test_an_interrupted_run_is_continued(
    clips: Path, tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, output = write(tmp_path, "t.txt", "a:one\u2028\nb:two\nc:three\n"), tmp_path / "data.jsonl"
    encoded: list[int] = []
    whole = codec.encode_batch

    def failing(waves: list[np.ndarray]) -> list[torch.Tensor]:
        encoded.append(len(waves))
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return whole(waves)

    monkeypatch.setattr(codec, "encode_batch", failing)
    with pytest.raises(KeyboardInterrupt):
        create(DatasetSource(clips, text), output, codec, Recipe(batch=1))
    assert not output.exists()
    with (tmp_path / "data.jsonl.part").open("a", encoding="utf-8") as file:
        file.write('{"text": "tor')  # a torn line
    report = create(DatasetSource(clips, text), output, codec, Recipe(batch=1))
    assert (report.continued, report.written, len(encoded)) == (1, 3, 4)
    assert [clip.text.strip() for clip in read_clips(output)] == ["one", "two", "three"]
    with pytest.raises(InvalidInput, match="exists already"):
        create(DatasetSource(clips, text), output, codec)


def test_only_what_is_still_wanted_is_continued(
    clips: Path, tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corrected text, a line that is gone and a copy of a finished clip, all since the interruption."""
    output, whole, calls = tmp_path / "data.jsonl", codec.encode_batch, 0

    def failing(waves: list[np.ndarray]) -> list[torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return whole(waves)

    monkeypatch.setattr(codec, "encode_batch", failing)
    with pytest.raises(KeyboardInterrupt):
        create(
            DatasetSource(clips, write(tmp_path, "t.txt", "a:one\nb:too\nc:three\nlong:4\n")),
            output,
            codec,
            Recipe(batch=1),
        )
    report = create(
        DatasetSource(clips, write(tmp_path, "t.txt", "a:one\nb:two\ncopy:one\n")), output, codec, Recipe(batch=1)
    )
    assert sorted((clip.source, clip.text) for clip in read_clips(output)) == [("a", "one"), ("b", "two")]
    assert list(report.lines()) == ["line 3: copy: the same sound and text as line 1"]
    assert report.continued == 1
    assert report.seconds == pytest.approx(sum(clip.duration for clip in read_clips(output)), abs=0.01)


def test_an_unclosed_quote_is_an_error(clips: Path, tmp_path: Path) -> None:
    text = write(tmp_path, "t.csv", 'a,one\nb,"two\nc,three\n')
    with pytest.raises(InvalidInput, match="line 2 is not valid csv"):
        list(read_entries(DatasetSource(clips, text)))


def test_only_ljspeech_has_its_text_in_the_third_column(clips: Path, tmp_path: Path) -> None:
    for name, line in (("t.csv", "a,one,Ann"), ("t.tsv", "a\tone\tAnn")):
        assert [entry.text for entry in read_entries(DatasetSource(clips, write(tmp_path, name, line + "\n")))] == [
            "one"
        ]
    assert [
        entry.text for entry in read_entries(DatasetSource(clips, write(tmp_path, "metadata.csv", "a|1|one\n")))
    ] == ["one"]


def test_other_settings_start_anew(clips: Path, tmp_path: Path, codec: Codec) -> None:
    text, output = write(tmp_path, "t.txt", "a:one\n"), tmp_path / "data.jsonl"
    (tmp_path / "data.jsonl.part").write_text(Clip("old", (1,), "a").line(), encoding="utf-8")
    (tmp_path / "data.jsonl.part.settings").write_text("{}", encoding="utf-8")
    assert create(DatasetSource(clips, text), output, codec).continued == 0
    assert [clip.text for clip in read_clips(output)] == ["one"]


def test_nothing_usable_is_an_error(clips: Path, tmp_path: Path, codec: Codec) -> None:
    for content in ("gone:x\n", "silent:x\n"):
        with pytest.raises(InvalidInput):
            create(DatasetSource(clips, write(tmp_path, "t.txt", content)), tmp_path / "d.jsonl", codec)
        assert not list(tmp_path.glob("d.jsonl*"))
    with pytest.raises(InvalidInput, match="no folder"):
        create(DatasetSource(tmp_path / "none", None), tmp_path / "d.jsonl", codec)
    (tmp_path / "latin.txt").write_bytes("a:Größe".encode("latin-1"))
    with pytest.raises(InvalidInput, match="UTF-8"):
        create(DatasetSource(clips, tmp_path / "latin.txt"), tmp_path / "d.jsonl", codec)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        ('{"code": [1]}', "line 2 has no text"),
        ('{"text": " ", "code": [1]}', "line 2 has no text"),
        ('{"text": "x", "code": []}', "line 2 has no codes"),
        ('{"text": "x", "code": [1.5]}', "whole numbers"),
        ("[]", "no text"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, "data.jsonl", '{"text": "fine", "code": [1, 2], "else": 0}\n' + line + "\n")
    with pytest.raises(InvalidInput, match=message):
        list(read_clips(path))


def test_code_files_for_the_original_trainer(tmp_path: Path) -> None:
    export_npy([Clip("a | b", (5, 6, 7), "sub/x.wav"), Clip("c", (1, 2), "../../y")], tmp_path)
    codes = np.load(tmp_path / "vq_codes" / "sub" / "x.wav.npy")
    assert (codes.dtype, codes.tolist()) == (np.int32, [5, 6])
    assert (tmp_path / "vq_codes" / "y.wav.npy").is_file()
    assert (tmp_path / "metadata.csv").read_text(encoding="utf-8") == "sub/x|a b|\n".replace("a b|", "a   b") + "y|c\n"


def test_token_rows_for_the_original_trainer(tmp_path: Path, lm_folder: Path) -> None:
    clips = [Clip("hi", tuple(range(i + 1)), str(i)) for i in range(25)] + [Clip("long", (1,) * 60, "long")]
    assert list(export_memmap(clips, lm_folder, tmp_path, row=48)) == ["long: 68 tokens are more than 48"]
    shape = np.load(tmp_path / "train_input_ids_shape.npy")
    assert shape.tolist() == [24, 48]
    assert np.load(tmp_path / "val_input_ids_shape.npy").tolist() == [1, 48]
    rows = np.memmap(tmp_path / "train_input_ids.memmap", np.int32, "r", shape=tuple(shape))
    vocabulary = Vocabulary.from_folder(lm_folder)
    row = next(row.tolist() for row in rows if row.tolist().count(vocabulary.stop))
    start = row.index(vocabulary.start)
    assert row[0] == vocabulary.text_start
    stop = row.index(vocabulary.stop)
    assert row[start + 1 : stop] == [vocabulary.speech_start + i for i in range(stop - start - 1)]
    assert set(row[stop + 1 :]) <= {vocabulary.pad}


def test_the_command_line(
    clips: Path, tmp_path: Path, codec_folder: Path, lm_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write(tmp_path, "metadata.csv", "a|one|one\ngone|x|x\n")
    output = tmp_path / "data.jsonl"
    command = [
        str(clips),
        str(text),
        "-o",
        str(output),
        "--codec",
        str(codec_folder),
        "--npy",
        str(tmp_path / "npy"),
        "--bf16",
    ]
    assert dataset.main(command) == 0
    printed = capsys.readouterr().out
    assert "left out: line 2: gone" in printed
    assert "1 clips" in printed
    assert (tmp_path / "npy" / "metadata.csv").is_file()
    assert dataset.main(command) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "gpu"], "--device gpu cannot be used"),
        (["-o", "FILE/data.jsonl"], "Not a directory"),
        (["--npy", "FILE"], "Not a directory"),
        (["--memmap", "FILE/rows", "--tokenizer", "x"], "Not a directory"),
    ],
)
def test_what_the_command_line_cannot_do_is_told_before_the_work(
    options: list[str], says: str, clips: Path, tmp_path: Path, codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write(tmp_path, "metadata.csv", "a|one|one\n")
    given = [option.replace("FILE", str(text)) for option in options]
    output = [] if "-o" in given else ["-o", str(tmp_path / "data.jsonl")]
    assert dataset.main([str(clips), str(text), "--codec", str(codec_folder), *output, *given]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "data.jsonl").exists()
