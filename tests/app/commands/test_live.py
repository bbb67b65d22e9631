"""`listen` and `talk` against a server with live jobs: what they print, how they end, and what was heard."""

from __future__ import annotations

import io
import itertools
import json
import signal
import sys
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.cli import cli
from app.commands import connection, live, sources
from app.commands.live import Owed
from app.commands.playback import Cut, FileSpeaker, Playlist
from app.commands.sources import RATE, FileSource, PipeSource
from app.errors import Overloaded
from app.http import certificates
from tests.support.live_pool import LivePool, realtime_server, silence, tone
from tests.support.server import Running
from tests.support.waiting import LIMIT

SPEECH = silence(0.2) + tone(1.0) + silence(0.7)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with realtime_server() as one:
        yield one


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files at once instead of at their own pace."""
    monkeypatch.setattr(sources, "monotonic", itertools.count(0, 1000).__next__)


def run(server: Running, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--server", server.url])


@pytest.fixture
def recording(tmp_path: Path) -> str:
    return write_wav(tmp_path / "two turns.wav", SPEECH + SPEECH)


def write_wav(file: Path, samples: bytes) -> str:
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(samples)
    return str(file)


def test_the_turns_of_a_file_are_written_down(server: Running, recording: str) -> None:
    done = run(server, "listen", recording, "--language", "en")
    assert done.exit_code == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("one two three")
    assert second.startswith("one two")
    assert "one two three" in done.stderr, "the words, as they come"


def test_what_is_open_at_the_end_is_committed(server: Running, tmp_path: Path) -> None:
    done = run(server, "listen", write_wav(tmp_path / "cut off.wav", tone(1.2)))
    assert (done.exit_code, done.stdout) == (0, "one two\n")


def test_silence_is_nothing_and_no_failure(server: Running, tmp_path: Path) -> None:
    done = run(server, "listen", write_wav(tmp_path / "silence.wav", silence(1.0)))
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Error" not in done.stderr


def test_events_as_json(server: Running, recording: str) -> None:
    done = run(server, "listen", recording, "--json")
    kinds = [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert kinds[:2] == ["session.created", "session.updated"]
    assert kinds.count("conversation.item.input_audio_transcription.completed") == 2
    assert "error" not in kinds, "the end's own commit is no error of the user's"


def test_a_pipe_brings_raw_samples_at_its_rate(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO(silence(0.3, 16_000) + tone(1.0, 16_000) + silence(1.0, 16_000))
    monkeypatch.setattr("app.commands.listen.standard_input", lambda: stream)
    done = run(server, "listen", "-", "--rate", "16000")
    assert done.exit_code == 0
    assert done.stdout.startswith("one two")
    assert run(server, "listen", "-", "--rate", "12345").exit_code == 2


def test_a_turn_that_fails_is_told_and_the_others_are_written(recording: str) -> None:
    with realtime_server() as server:
        pool = server.pool
        assert isinstance(pool, LivePool)
        pool.fail_turn = 1
        done = run(server, "listen", recording)
    assert done.exit_code == 1
    assert "not transcribed: " in done.stderr
    assert done.stdout.startswith("one two")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nowhere.wav"], 2, "there is no file nowhere.wav"),
        (["RECORDING", "--language", "xx"], 1, "language"),
        (["RECORDING", "--model", "fake-tts"], 1, "realtime operation does not work"),
        (["RECORDING", "--model", "nobody"], 1, "speech-gateway models"),
        (["TEXT"], 2, "not audio in a supported format"),
    ],
)
def test_what_cannot_be_done_is_told(
    server: Running, recording: str, tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    (tmp_path / "text.txt").write_text("no sound " * 200, encoding="utf-8")
    names = {"RECORDING": recording, "TEXT": str(tmp_path / "text.txt")}
    done = run(server, "listen", *[names.get(one, one) for one in arguments])
    assert done.exit_code == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_without_room_says_so(recording: str) -> None:
    with realtime_server() as server:
        pool = server.pool
        assert isinstance(pool, LivePool)
        pool.refuse_live = Overloaded("No more live sessions.", retry_after=1)
        done = run(server, "listen", recording)
    assert done.exit_code == 1
    assert "No more live sessions. (429" in done.stderr


def test_a_server_that_goes_away_is_told(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with realtime_server() as leaving:
        gateway = leaving.gateway

        def pieces(self: FileSource, stop: threading.Event) -> Iterator[bytes]:
            yield tone(0.5)
            leaving.do(lambda: [session.leave() for session in gateway.realtime.sessions])
            stop.wait(LIMIT)

        monkeypatch.setattr(FileSource, "pieces", pieces)
        done = run(leaving, "listen", write_wav(tmp_path / "a.wav", tone(1.0)))
    assert done.exit_code == 1
    assert "the server is shutting down" in done.stderr


def test_https_with_the_certificate_of_this_machine(
    tmp_path: Path, recording: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "tls_folder", lambda: tmp_path / "tls")
    with realtime_server(server={"tls": "auto"}) as server:
        done = run(server, "listen", recording)
    assert server.url.startswith("https")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("one two three")


def test_a_key_is_sent_and_asked_for(recording: str) -> None:
    keys = [{"name": "me", "key": "ein Schlüssel"}]
    with realtime_server(server={"api_keys": keys}) as server:
        assert "--key" in run(server, "listen", recording).stderr
        done = run(server, "listen", recording, "--key", "ein Schlüssel")
    assert done.exit_code == 0, done.stderr


def test_ctrl_c_commits_what_was_said(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda number, handle: handlers.append(handle))
    handlers: list[Any] = []

    def pieces(self: FileSource, stop: threading.Event) -> Iterator[bytes]:
        yield tone(1.2)
        handlers[0](signal.SIGINT, None)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            handlers[0](signal.SIGINT, None)

    monkeypatch.setattr(FileSource, "pieces", pieces)
    done = run(server, "listen", write_wav(tmp_path / "a.wav", tone(1.0)))
    assert (done.exit_code, done.stdout) == (0, "one two\n")


def test_a_source_that_waits_does_not_hold_up_the_end(server: Running) -> None:
    """A thread that reads a pipe nobody writes to."""
    waits = threading.Event()

    class Silent(PipeSource):
        def pieces(self, stop: threading.Event) -> Iterator[bytes]:
            yield tone(1.2)
            stop.set()
            waits.wait(LIMIT)

    with connection.connected(server.url, "") as client, live.live_session(client, intent="transcription") as one:
        list(one.configure({"type": "transcription"}))
        one.feed(Silent(io.FileIO(0, closefd=False)))
        kinds = [event["type"] for event in one.events()]
    waits.set()
    assert kinds[-1] == "input_audio_buffer.cleared" or kinds[-1].endswith(".completed")
    assert "conversation.item.input_audio_transcription.completed" in kinds


def test_a_conversation_is_written_and_its_answers_saved(server: Running, recording: str, tmp_path: Path) -> None:
    out = tmp_path / "answers.wav"
    done = run(server, "talk", recording, "--output", str(out), "--instructions", "Be short.", "--voice", "alloy")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("you: one two three")
    assert any(line.startswith("answer: ") for line in lines)
    with wave.open(str(out)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, RATE)
        assert sound.getnframes() > RATE // 10


def test_answers_in_writing_only(server: Running, recording: str) -> None:
    done = run(server, "talk", recording, "--text")
    assert done.exit_code == 0, done.stderr
    assert "answer: " in done.stdout
    events = [json.loads(line) for line in run(server, "talk", recording, "--text", "--json").stdout.splitlines()]
    assert not any(event["type"].startswith("response.output_audio") for event in events)


def test_who_speaks_interrupts_the_answer(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer has been sent whole, but was hardly heard when the second turn begins."""
    audible = threading.Event()
    play = FileSpeaker.play

    def tell(self: FileSpeaker, item_id: str, data: bytes) -> None:
        play(self, item_id, data)
        audible.set()

    def pieces(self: FileSource, stop: threading.Event) -> Iterator[bytes]:
        yield SPEECH
        assert audible.wait(LIMIT)
        yield SPEECH

    monkeypatch.setattr(FileSpeaker, "play", tell)
    monkeypatch.setattr(FileSource, "pieces", pieces)
    done = run(server, "talk", write_wav(tmp_path / "a.wav", tone(1.0)), "-o", str(tmp_path / "b.wav"), "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (cut,) = [event for event in events if event["type"] == "conversation.item.truncated"]
    first = next(event for event in events if event["type"] == "response.output_audio.delta")
    assert cut["item_id"] == first["item_id"]
    assert done.exit_code == 0, done.stderr


def test_without_the_library_the_microphone_names_it(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    done = run(server, "listen")
    assert done.exit_code == 1
    assert "EXTRAS=microphone" in done.stderr


def test_what_is_owed_until_the_end() -> None:
    owed = Owed()
    begun = [
        {"type": "input_audio_buffer.committed", "item_id": "a"},
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "input_audio_buffer.cleared"},
        {"type": "conversation.item.input_audio_transcription.failed", "item_id": "a"},
    ]
    for event in begun:
        owed.take(event)
        assert not owed.is_nothing()
    owed.take({"type": "response.done", "response": {"id": "r"}})
    assert owed.is_nothing()


def test_a_file_comes_at_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    monkeypatch.setattr(sources, "monotonic", lambda: 5.0)
    pieces = list(FileSource(tone(0.25)).pieces(Stop()))
    assert waits == pytest.approx([0.1, 0.2, 0.25])
    assert b"".join(pieces) == tone(0.25)


def test_a_playlist_knows_what_was_played() -> None:
    playlist = Playlist()
    playlist.play("a", tone(0.2))
    assert playlist.take(4800) == tone(0.2)[:4800]
    assert playlist.stop() == Cut("a", 100)
    assert playlist.is_silent()
    assert playlist.stop() is None
    playlist.play("b", b"\1\0")
    assert playlist.take(4) == b"\1\0\0\0"
    assert playlist.stop() is None, "heard to its end"


def test_a_file_plays_as_the_clock_goes(tmp_path: Path) -> None:
    now = [10.0]
    speaker = FileSpeaker(lambda: now[0])
    speaker.play("a", tone(1.0))
    now[0] = 12.0
    assert speaker.stop() is None
    speaker.play("b", tone(1.0))
    now[0] = 12.25
    assert speaker.stop() == Cut("b", 250)
    speaker.save(tmp_path / "out.wav")
    with wave.open(str(tmp_path / "out.wav")) as sound:
        assert sound.getnframes() == round(1.25 * RATE)


class FakeDevices:
    """sounddevice with one microphone. rates: that it can record at."""

    class PortAudioError(Exception):
        pass

    def __init__(self, samples: bytes, rates: tuple[int, ...] = (RATE,), own: float = 44_100.0) -> None:
        self.samples, self.rates, self.own = samples, rates, own
        self.opened: dict[str, Any] = {}

    def check_input_settings(self, **wanted: Any) -> None:
        if wanted["samplerate"] not in self.rates:
            raise self.PortAudioError("Invalid sample rate")

    def query_devices(self, device: object, kind: str) -> dict[str, float]:
        return {"default_samplerate": self.own}

    @contextmanager
    def RawInputStream(self, **options: Any) -> Iterator[None]:  # noqa: N802
        self.opened = options
        options["callback"](self.samples, len(self.samples) // 2, None, None)
        yield

    @contextmanager
    def RawOutputStream(self, **options: Any) -> Iterator[None]:  # noqa: N802
        data = bytearray(4)
        options["callback"](data, 2, None, None)
        self.samples = bytes(data)
        yield


def test_the_microphone_gives_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.commands.sound_devices import loudspeaker, microphone

    devices = FakeDevices(tone(0.1))
    monkeypatch.setitem(sys.modules, "sounddevice", devices)
    with microphone("3") as found:
        assert next(found.pieces(threading.Event())) == tone(0.1)
    assert (found.rate, devices.opened["device"], devices.opened["samplerate"]) == (RATE, 3, RATE)
    playlist = Playlist()
    playlist.play("a", b"\1\2\3\4\5\6")
    with loudspeaker(playlist):
        assert devices.samples == b"\1\2\3\4"


@pytest.mark.parametrize(("own", "rate"), [(44_100.0, 44_100), (11_025.0, 0)])
def test_a_microphone_of_another_rate(monkeypatch: pytest.MonkeyPatch, own: float, rate: int) -> None:
    from app.commands.sound_devices import microphone

    monkeypatch.setitem(sys.modules, "sounddevice", FakeDevices(b"", (), own))
    if not rate:
        with pytest.raises(sources.NoSource, match="Invalid sample rate"), microphone():
            pass
        return
    with microphone("built in") as found:
        assert found.rate == rate
