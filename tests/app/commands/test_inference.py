"""transcribe, speak and ask, against a real server."""

from __future__ import annotations

import json
import socket
import wave
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.commands.client import Answer
from app.errors import Overloaded
from backends.interface import (
    AudioChunk,
    ChatRequest,
    DiarizationRequest,
    Done,
    Failed,
    Progress,
    SpeechRequest,
    TextDelta,
    TranscriptionRequest,
)
from tests.app.commands.conftest import Run
from tests.support.server import Running


def test_transcribe_prints_the_text_alone(run: Run, recording: str) -> None:
    result = run("transcribe", recording, "--model", "fake-asr")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "Good morning to you.\n"
    assert "fake cpu float32" in result.stderr


def test_transcribe_passes_its_options_on(run: Run, recording: str, served: Running) -> None:
    result = run("transcribe", recording, "-m", "fake-asr", "--language", "pt", "--prompt", "Olá, João")
    assert result.exit_code == 0, result.stderr
    request = served.pool.requests[-1]
    assert isinstance(request, TranscriptionRequest)
    assert (request.language, request.prompt, request.task) == ("pt", "Olá, João", "transcribe")


def test_transcribe_with_word_times(run: Run, recording: str) -> None:
    document = json.loads(run("transcribe", recording, "-m", "fake-asr", "--words").stdout)
    assert [word["word"] for word in document["words"]] == ["good", "morning", "to", "you"]


def test_transcribe_with_speakers(run: Run, recording: str, served: Running) -> None:
    told = run("transcribe", recording, "-m", "embedded-asr", "--speakers", "--num-speakers", "2")
    assert told.exit_code == 0, told.stderr
    assert told.stdout == "A: Good morning\nB: to you.\n"
    (asked,) = (one for one in served.pool.requests if isinstance(one, DiarizationRequest))
    assert asked.max_speakers == 2
    assert (
        "A: Good morning" in run("transcribe", recording, "-m", "embedded-asr", "--speakers", "--format", "srt").stdout
    )
    assert run("transcribe", recording, "--speakers", "--translate").exit_code == 2


def test_translate(run: Run, recording: str, served: Running) -> None:
    result = run("transcribe", recording, "-m", "fake-asr", "--translate", "--language", "de")
    assert result.exit_code == 0, result.stderr
    assert served.pool.requests[-1].task == "translate"


def test_transcribe_into_a_file(run: Run, recording: str, tmp_path: Path) -> None:
    result = run("transcribe", recording, "-m", "fake-asr", "--format", "srt", "-o", "talk.srt")
    assert result.stdout == ""
    assert (tmp_path / "talk.srt").read_text(encoding="utf-8").startswith("1\n00:00:00,000 --> ")


def test_a_deployment_with_a_slash_in_its_name(run: Run, recording: str) -> None:
    assert run("transcribe", recording, "-m", "team/asr model").exit_code == 0


def test_speak_writes_a_file(run: Run, served: Running) -> None:
    result = run("speak", "Grüß Gott", "-m", "fake-tts", "--voice", "fake", "--speed", "1.5", "--output", "hello.wav")
    assert result.exit_code == 0, result.stderr
    request = served.pool.requests[-1]
    assert isinstance(request, SpeechRequest)
    assert (request.text, request.voice, request.speed) == ("Grüß Gott", "fake", 1.5)
    with wave.open("hello.wav") as sound:
        assert sound.getnframes() > 1000


@pytest.mark.parametrize(
    ("name", "starts"), [("a.mp3", (b"ID3", b"\xff\xfb", b"\xff\xf3")), ("a.flac", (b"fLaC",)), ("a.ogg", (b"OggS",))]
)
def test_the_name_of_the_output_chooses_the_format(run: Run, name: str, starts: tuple[bytes, ...]) -> None:
    assert run("speak", "hello", "-m", "fake-tts", "-o", name).exit_code == 0
    assert Path(name).read_bytes().startswith(starts)


def test_speak_reads_standard_input(served: Running) -> None:
    served.pool.requests.clear()
    result = CliRunner().invoke(
        cli, ["speak", "-", "-m", "fake-tts", "-o", "a.wav", "--server", served.url], input="from a pipe"
    )
    assert result.exit_code == 0, result.stderr
    assert served.pool.requests[-1].text == "from a pipe"


def test_a_broken_answer_leaves_no_file(run: Run, served: Running, tmp_path: Path) -> None:
    def breaks(request: object):  # type: ignore[no-untyped-def]
        for _ in range(40):
            yield AudioChunk(np.zeros(24_000, np.float32), 24_000)
        yield Failed("worker_lost", "the worker ended")

    served.pool.script = breaks
    result = run("speak", "a long text " * 100, "-m", "fake-tts", "-o", "broken.mp3")
    assert result.exit_code == 1
    assert "speech-gateway:" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_ask_sends_sound_question_and_steps(run: Run, recording: str, served: Running) -> None:
    result = run(
        "ask", recording, "Who speaks?", "-m", "fake-chat", "--steps", "64", "--block-length", "16",
        "--max-new-tokens", "50", "--system", "Be short.",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "I heard you.\n"
    request = served.pool.requests[-1]
    assert isinstance(request, ChatRequest)
    assert [message.role for message in request.messages] == ["system", "user"]
    assert (request.options["steps"], request.options["block_length"], request.max_tokens) == (64, 16, 50)


def test_ask_shows_the_steps(run: Run, recording: str, served: Running) -> None:
    def thinks(request: object):  # type: ignore[no-untyped-def]
        yield from (Progress(step, 8) for step in range(1, 9))
        yield TextDelta("It is a tone.")
        yield Done("It is a tone.")

    served.pool.script = thinks
    result = run("ask", recording, "What?", "-m", "fake-chat")
    assert result.stdout == "It is a tone.\n"
    assert "8/8 steps" in result.stderr


def test_an_error_in_the_stream_is_told(run: Run, recording: str, served: Running) -> None:
    def breaks(request: object):  # type: ignore[no-untyped-def]
        yield TextDelta("I ")
        yield Failed("worker_lost", "the worker ended")

    served.pool.script = breaks
    result = run("ask", recording, "Who?", "-m", "fake-chat")
    assert result.exit_code == 1
    assert "worker" in result.stderr


def test_an_error_answer_is_one_line_with_its_code(run: Run, recording: str, served: Running) -> None:
    served.pool.refuse = Overloaded("Too many requests wait.", retry_after=3)
    result = run("transcribe", recording, "-m", "fake-asr")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Too many requests wait. (429)" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_deployment_is_named(run: Run, recording: str) -> None:
    result = run("transcribe", recording, "-m", "nobody")
    assert result.exit_code == 1
    assert "nobody" in result.stderr
    assert "DeploymentNotFound" in result.stderr


def test_a_named_server_that_is_not_there_is_an_error(recording: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    result = CliRunner().invoke(cli, ["transcribe", recording, "--server", f"http://127.0.0.1:{port}"])
    assert result.exit_code == 1
    assert f"no answer from http://127.0.0.1:{port}" in result.stderr


@pytest.mark.parametrize("address", ["ftp://a", "http://", "::"])
def test_a_wrong_address_is_an_error(recording: str, address: str) -> None:
    result = CliRunner().invoke(cli, ["transcribe", recording, "--server", address])
    assert result.exit_code == 1
    assert "no address of a server" in result.stderr


def test_a_file_that_is_not_there_is_wrong_use(run: Run) -> None:
    assert run("transcribe", "nothing.wav").exit_code == 2


def test_the_key_is_sent(served: Running, recording: str) -> None:
    served.pool.owners.clear()
    for key in ("first", "second"):
        command = ["transcribe", recording, "-m", "fake-asr", "--server", served.url, "--key", key]
        assert CliRunner().invoke(cli, command).exit_code == 0
    assert len(set(served.pool.owners)) == 2


@pytest.mark.parametrize("arguments", [["speak", "Hello."], ["transcribe", "RECORDING"], ["ask", "RECORDING", "Who?"]])
def test_a_folder_that_is_not_there_is_told_before_the_work(
    arguments: list[str], recording: str, tmp_path: Path
) -> None:
    out = tmp_path / "nowhere" / "result"
    given = [recording if part == "RECORDING" else part for part in arguments]
    result = CliRunner().invoke(cli, [*given, "--output", str(out), "--server", "http://127.0.0.1:1"])
    assert result.exit_code == 2
    assert f"there is no folder {out.parent}" in result.stderr


def test_a_file_that_cannot_be_written_is_not_the_servers_fault(served: Running, tmp_path: Path) -> None:
    (tmp_path / "speech.wav.part").mkdir()
    result = CliRunner().invoke(cli, ["speak", "Hello.", "-o", str(tmp_path / "speech.wav"), "--server", served.url])
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert "no answer" not in result.stderr


def test_errors_say_what_to_do_next(served: Running) -> None:
    unknown = CliRunner().invoke(cli, ["speak", "Hello.", "-m", "nobody", "--server", served.url])
    assert "speech-gateway models" in unknown.stderr
    gone = CliRunner().invoke(cli, ["speak", "Hello.", "--server", "http://127.0.0.1:1"])
    assert "Start it with: speech-gateway serve" in gone.stderr


def test_the_sound_on_standard_output(served: Running, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["speak", "Hello.", "-m", "fake-tts", "-o", "-", "--server", served.url])
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes.startswith(b"RIFF")
    assert not list(tmp_path.iterdir())


def test_an_ending_that_names_no_format_is_refused(run: Run, tmp_path: Path) -> None:
    """Sound of another format under that name would be no help."""
    result = run("speak", "Hello.", "-m", "fake-tts", "-o", "hello.m4a")
    assert result.exit_code == 2
    assert ".m4a" in result.stderr
    assert run("speak", "Hello.", "-m", "fake-tts", "-o", "hello.m4a", "--format", "aac").exit_code == 0


@pytest.mark.parametrize("said", ["\ufeffGrüß Gott, 東京".encode(), "Grüß Gott, 東京".encode()])
def test_standard_input_is_utf8_whatever_the_console_thinks(served: Running, said: bytes) -> None:
    served.pool.requests.clear()
    runner = CliRunner(charset="latin-1")
    result = runner.invoke(cli, ["speak", "-", "-m", "fake-tts", "-o", "a.wav", "--server", served.url], input=said)
    assert result.exit_code == 0, result.stderr
    assert served.pool.requests[-1].text == "Grüß Gott, 東京"


def test_a_translation_takes_a_prompt_and_has_no_word_times(run: Run, recording: str, served: Running) -> None:
    assert run("transcribe", recording, "-m", "fake-asr", "--translate", "--prompt", "Zoë").exit_code == 0
    assert served.pool.requests[-1].prompt == "Zoë"
    assert run("transcribe", recording, "-m", "fake-asr", "--translate", "--words").exit_code == 2


def test_who_answered_instead_and_what_was_ignored_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"x-gateway-engine": "fake", "x-gateway-fallback": "embedded-tts", "x-gateway-ignored": "instructions"}
    monkeypatch.setattr("app.commands.client.Client.stream_to", lambda *_: Answer(b"", headers))
    told = run("speak", "Hello.").stderr
    assert "answered instead: embedded-tts" in told
    assert "ignored here: instructions" in told


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999", "http://[::1", "127.0.0.1:port"])
def test_an_address_that_is_none_is_told_without_a_traceback(address: str) -> None:
    result = CliRunner().invoke(cli, ["speak", "Hello.", "--server", address])
    assert result.exit_code == 1
    assert f"{address!r} is no address of a server" in result.stderr


def test_a_key_in_any_script_is_sent_and_a_line_break_refused(served: Running) -> None:
    command = ["speak", "Hello.", "-m", "fake-tts", "--server", served.url, "--key"]
    assert CliRunner().invoke(cli, [*command, "鍵"]).exit_code == 0
    result = CliRunner().invoke(cli, [*command, "a\nb"])
    assert result.exit_code == 1
    assert "the key holds" in result.stderr
