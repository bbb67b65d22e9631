"""Commands that pass their work on to the engines' own programs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from tests.support.waiting import LIMIT


class Programs:
    """Stands in for the engines' processes: notes the calls, answers as told."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.stdin: list[bytes] = []
        self.answer = subprocess.CompletedProcess([], 0, b"", b"")

    def run(self, command: list[str], *, env: dict[str, str], **options: object) -> subprocess.CompletedProcess[bytes]:
        assert command[1] == "-P", "or a file of the working folder is run"
        assert env["ORT_DISABLE_TELEMETRY"] == "1"
        self.calls.append(command[2:])
        self.stdin.append(bytes(options.get("input", b"")))  # type: ignore[call-overload]
        return self.answer


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Programs:
    """In a folder that holds all weights."""
    for name in ("models/HKUSTAudio--xcodec2", "models/HKUSTAudio--Llasa-1B", "models/sony--silentcipher", "weights"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    stand_in = Programs()
    monkeypatch.setattr(subprocess, "run", stand_in.run)
    return stand_in


def invoke(*arguments: str):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(cli, list(arguments))


def test_dataset_gets_the_configured_codec(programs: Programs) -> None:
    assert invoke("dataset", "create", "clips", "texts.csv", "-o", "d.jsonl", "--trim-db", "40").exit_code == 0
    codec = str(Path("models") / "HKUSTAudio--xcodec2")
    expected = ["clips", "texts.csv", "-o", "d.jsonl", "--trim-db", "40", "--codec", codec]
    assert programs.calls == [["-m", "backends.llasa.training.dataset", *expected]]


@pytest.mark.parametrize(
    ("command", "option"), [(["finetune", "d.jsonl"], "--model"), (["dataset", "create", "c"], "--codec")]
)
def test_a_named_configuration_is_read(programs: Programs, tmp_path: Path, command: list[str], option: str) -> None:
    table = '[deployments.mine]\nbackend = "llasa"\nmodel = "./weights"\ncodec_model = "./weights"\n'
    (tmp_path / "mine.toml").write_text(table, encoding="utf-8")
    invoke(*command, "--config", "mine.toml", "--batch", "2")
    assert programs.calls[0][2:] == [command[-1], "--batch", "2", option, "weights"]


@pytest.mark.parametrize("given", [["--model", "mine"], ["--model=mine"]])
def test_what_is_given_is_left_alone(programs: Programs, given: list[str]) -> None:
    invoke("finetune", "d.jsonl", *given)
    assert programs.calls == [["-m", "backends.llasa.training.finetune", "d.jsonl", *given]]


def test_the_programs_status_is_the_commands_status(programs: Programs) -> None:
    programs.answer = subprocess.CompletedProcess([], 5, b"", b"")
    assert invoke("finetune", "d.jsonl").exit_code == 5


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"status": "found", "message": [1, 2], "confidence": 0.98, "ours": True}, "this installation's"),
        ({"status": "found", "message": [1, 2], "confidence": 0.98, "ours": False}, "not this installation's"),
        ({"status": "not found", "message": None, "confidence": 0.1, "ours": None}, "No mark was found"),
        ({"status": "too short", "message": None, "confidence": 0.0, "ours": None}, "Too short"),
    ],
)
def test_a_detection_in_words_and_as_json(
    programs: Programs, recording: str, found: dict[str, object], says: str
) -> None:
    programs.answer = subprocess.CompletedProcess([], 0, json.dumps(found).encode(), b"")
    assert says in invoke("watermark", "detect", recording).stdout
    assert json.loads(invoke("watermark", "detect", recording, "--json").stdout) == found
    assert programs.calls[0][:3] == ["-m", "backends.csm.watermark_model.detect", recording]
    assert "sony/silentcipher" in programs.calls[0]


def test_the_key_stands_on_no_command_line(programs: Programs, tmp_path: Path, recording: str) -> None:
    table = '[deployments.mine]\nbackend = "csm"\nmodel = "./weights"\nwatermark_key = "0011223344"\n'
    (tmp_path / "gateway.toml").write_text(table, encoding="utf-8")
    programs.answer = subprocess.CompletedProcess([], 0, b'{"status": "too short"}', b"")
    assert invoke("watermark", "detect", recording).exit_code == 0
    assert not [part for part in programs.calls[0] if "0011223344" in part]
    assert programs.stdin == [b"0011223344"]


@pytest.mark.parametrize(
    ("stdout", "stderr", "says"),
    [
        (b'{"error": "no weights here", "kind": "model_unavailable"}', b"", "no weights here"),
        (b"", b"Traceback\nImportError: no torch", "no torch"),
        (b"", b"", "without a word"),
    ],
)
def test_a_detector_that_fails_is_told(
    programs: Programs, recording: str, stdout: bytes, stderr: bytes, says: str
) -> None:
    programs.answer = subprocess.CompletedProcess([], 1, stdout, stderr)
    result = invoke("watermark", "detect", recording)
    assert result.exit_code == 1
    assert says in result.stderr


def test_the_users_own_deployment_comes_first(programs: Programs, tmp_path: Path) -> None:
    table = '[deployments."my voice"]\nbackend = "llasa"\nmodel = "./weights"\n'
    (tmp_path / "gateway.toml").write_text(table, encoding="utf-8")
    invoke("finetune", "d.jsonl")
    assert programs.calls[0][-2:] == ["--model", "weights"]


@pytest.mark.parametrize(
    ("arguments", "folder", "pull"),
    [
        (["dataset", "create", "clips", "texts.csv", "-o", "d.jsonl"], "HKUSTAudio--xcodec2", "llasa-1b"),
        (["finetune", "d.jsonl"], "HKUSTAudio--Llasa-1B", "llasa-1b"),
        (["watermark", "detect"], "sony--silentcipher", "csm-1b"),
    ],
)
def test_missing_weights_name_the_command_that_fetches_them(
    programs: Programs, recording: str, arguments: list[str], folder: str, pull: str
) -> None:
    (Path("models") / folder / "config.json").unlink()
    result = invoke(*arguments, *([recording] if arguments[0] == "watermark" else []))
    assert result.exit_code == 1
    assert result.stderr.strip().endswith(f"are missing; fetch them with: speech-gateway pull {pull}")
    assert folder in result.stderr
    assert not programs.calls


@pytest.mark.parametrize(("command", "module"), [(("dataset", "create"), "dataset"), (("finetune",), "finetune")])
def test_help_is_the_programs_own(command: tuple[str, ...], module: str) -> None:
    """The real program; it prints to the terminal itself."""
    import sys

    done = subprocess.run([sys.executable, "-P", "-m", "app.cli", *command, "--help"], capture_output=True, text=True,
    timeout=LIMIT,
                          cwd=Path(__file__).resolve().parents[3])  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "usage: speech-gateway" in done.stdout
