"""Fine-tuning on tiny models: what is learnt, that it learns, checkpoints, resume, and that the adapter can be
served."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backends.interface import InvalidInput, ModelUnavailable
from backends.llasa.adapters import adapter_folders
from backends.llasa.model import load_llasa
from backends.llasa.training import finetune as module
from backends.llasa.training.dataset_file import Clip
from backends.llasa.training.finetune import Training, collated, finetune, training_rows
from backends.llasa.training.loss_curve import drawn_in_text, running_mean
from backends.llasa.vocabulary import Vocabulary
from tests.backends.llasa.folders import quiet

CODES = (7, 300, 12, 1000, 5)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(Clip(text, CODES, text).line() for text in ("one", "two", "three")), encoding="utf-8")
    return path


def small(**changes: object) -> Training:
    settings = {"epochs": 1, "accumulation": 2, "learning_rate": 3e-2, "warmup_steps": 0, "dropout": 0.0}
    return Training(**{**settings, **changes})  # type: ignore[arg-type]


def test_rows_are_what_will_be_served(lm_folder: Path) -> None:
    vocabulary = Vocabulary.from_folder(lm_folder)
    (row,) = training_rows(iter([Clip("hello", CODES)]), vocabulary, Training())
    prompt = load_llasa(lm_folder).prompt_ids("hello")
    assert list(row.ids) == [*prompt, *vocabulary.speech_ids(CODES), vocabulary.stop]
    batch = collated([row, type(row)(row.ids[:-2], 1)], pad=9)
    assert batch["labels"][0].tolist() == [-100] * len(prompt) + list(row.ids[len(prompt) :])
    assert batch["labels"][1].tolist()[-2:] == [-100, -100]
    assert batch["attention_mask"][1].tolist()[-3:] == [1, 0, 0]
    assert batch["input_ids"][1].tolist()[-2:] == [9, 9]


def test_clips_that_are_too_long_are_left_out(lm_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    vocabulary = Vocabulary.from_folder(lm_folder)
    assert not list(training_rows(iter([Clip("hello", (1,) * 50, "x")]), vocabulary, Training(max_length=100)))
    assert "left out" in caplog.text


@quiet
def _train(data: Path, lm: Path, output: Path, training: Training, resume: bool = False) -> list[float]:
    return finetune(data, lm, output, training, resume=resume)


def test_training_learns_and_its_adapter_speaks(
    data: Path, lm_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "lora_checkpoints"
    losses = _train(data, lm_folder, output, small(steps=40, save_every=20))
    assert losses[-1] < losses[0] / 4
    assert "step 40/40" in capsys.readouterr().out
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len((output / "loss.csv").read_text(encoding="utf-8").splitlines()) == 41
    assert list(adapter_folders("me", output)) == ["me", "me-checkpoint-20", "me-checkpoint-40"]
    model = load_llasa(lm_folder, output)
    prompt = model.prompt_ids("two")
    assert model.extract_codes(model.generate(prompt, len(prompt) + 20)) == list(CODES)
    config = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (
        16,
        32,
        ["k_proj", "o_proj", "q_proj", "v_proj"],
    )


def test_a_resumed_run_is_like_an_uninterrupted_one(
    data: Path, lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = small(steps=6, save_every=2, dropout=0.1)
    whole = _train(data, lm_folder, tmp_path / "whole", training)
    step, calls = module._Trainer._step, []

    def interrupted(self: object, rows: object) -> float:
        calls.append(0)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(self, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(module._Trainer, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _train(data, lm_folder, tmp_path / "parts", training)
    with pytest.raises(InvalidInput, match="holds checkpoints already"):
        _train(data, lm_folder, tmp_path / "parts", training)
    with pytest.raises(InvalidInput, match="was trained with rank = 16"):
        _train(data, lm_folder, tmp_path / "parts", replace(training, rank=training.rank + 1), resume=True)
    assert _train(data, lm_folder, tmp_path / "parts", training, resume=True) == pytest.approx(whole)
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "parts"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor)


def test_what_cannot_be_trained_is_refused(data: Path, lm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no checkpoint"):
        _train(data, lm_folder, tmp_path / "none", small(), resume=True)
    with pytest.raises(InvalidInput, match="no clip that fits"):
        _train(data, lm_folder, tmp_path / "out", small(max_length=20))
    with pytest.raises(ModelUnavailable):
        _train(data, tmp_path, tmp_path / "out", small())
    data.write_text(Clip("x", (128_264,)).line(), encoding="utf-8")
    with pytest.raises(InvalidInput, match="codes lie in"):
        _train(data, lm_folder, tmp_path / "out", small())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rank", "-3"], "rank must be at least 1"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--save-every", "-1"], "save_every must be at least 0"),
        (["--dropout", "1.5"], "dropout must be"),
        (["--learning-rate", "nan"], "learning_rate must be"),
        (["--targets", "nose_proj"], "the adapter cannot be made"),
        (["--output", "DATA"], "cannot be written into"),
        (["--output", "DATA/lora"], "cannot be written into"),
    ],
)
def test_wrong_options_are_told_before_the_training(
    options: list[str], says: str, data: Path, lm_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that cannot be written into came out after the first epoch, an untrained adapter was left behind as
    trained."""
    given = [option.replace("DATA", str(data)) for option in options]
    out = ["--output", str(tmp_path / "out")] if "--output" not in given else []
    assert module.main([str(data), "--model", str(lm_folder), "--device", "cpu", "--steps", "1", *out, *given]) == 1
    assert f"error: {says}" in capsys.readouterr().err.replace(f"{data}/lora ", "").replace(f"{data} ", "")


@quiet
def test_ctrl_c_says_how_to_go_on(
    data: Path, lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module._Trainer, "_step", interrupted)
    given = [str(data), "--model", str(lm_folder), "--device", "cpu", "--steps", "1", "--output", str(tmp_path / "out")]
    assert module.main(given) == 130
    assert "--resume continues" in capsys.readouterr().err


def test_a_base_with_missing_tensors_is_not_trained(data: Path, lm_folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(lm_folder, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(ModelUnavailable, match=r"layers\.1\.mlp\.up_proj"):
        _train(data, base, tmp_path / "out", small())


def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, lm_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert module.main([str(tmp_path / "none.jsonl"), "--model", str(lm_folder)]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_device_that_would_be_another_is_wrong_use(lm_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        module.main(["data.jsonl", "--model", str(lm_folder), "--device", "gpu"])
    assert "invalid choice: 'gpu'" in capsys.readouterr().err


def test_the_curve_in_text() -> None:
    lines = drawn_in_text([3.0, 2.0, 1.0]).splitlines()
    assert lines[0].endswith("|*")
    assert lines[-2].endswith("|  *")
    assert running_mean([2.0, 4.0]) == pytest.approx([2.0, 2.2])
