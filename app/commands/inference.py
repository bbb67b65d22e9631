"""`speech-gateway transcribe`, `speak` and `ask`: one request each to a running or a temporary server."""

from __future__ import annotations

import base64
import json
import locale
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from app.commands.client import Answer, deployment_path
from app.commands.connection import Config, Key, Server, session
from app.commands.console import WRONG_USE, check_result, fail, messages, write_result
from app.commands.files import STANDARD_OUTPUT
from backends.openai_voices import PLAIN_VOICE

Model = Annotated[str, typer.Option("--model", "-m", help="Deployment or alias.")]
OUTPUT = typer.Option("--output", "-o", help='File to write to; "-": standard output.', dir_okay=False)
Output = Annotated[Path | None, OUTPUT]
_STEPS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn())
_ENDINGS = {"": "wav", ".wav": "wav", ".wave": "wav", ".mp3": "mp3", ".opus": "opus", ".ogg": "opus", ".oga": "opus"}
_ENDINGS |= {".aac": "aac", ".flac": "flac", ".pcm": "pcm", ".raw": "pcm"}
_REMARKS = {
    "fallback": "answered instead: ",
    "ignored": "ignored here: ",
    "note": "",
}  # header -> what is put before its text
Sound = Annotated[Path, typer.Argument(help="Audio file.", exists=True, dir_okay=False)]


def transcribe(
    file: Sound,
    model: Model = "whisper-1",
    language: Annotated[str, typer.Option(help="ISO 639-1 code; empty: detect.", show_default=False)] = "",
    format: Annotated[  # noqa: A002
        str, typer.Option(help="text, json, verbose_json, srt, vtt, diarized_json or rttm.")
    ] = "text",
    prompt: Annotated[str, typer.Option(help="Text that leads the model: names, spellings.", show_default=False)] = "",
    translate: Annotated[bool, typer.Option("--translate", help="Translate into English.")] = False,
    words: Annotated[bool, typer.Option("--words", help="Add the time of each word (verbose_json).")] = False,
    speakers: Annotated[bool, typer.Option("--speakers", help="Say who speaks: one line per turn, or as --format.")] = (
        False
    ),
    num_speakers: Annotated[int, typer.Option(min=0, help="How many speak; 0: not known.")] = 0,
    out: Output = None,
    server: Server = "",
    key: Key = "",
    config: Config = None,
) -> None:
    """Write down what is said in FILE."""
    check_result(out)
    if words and translate:
        fail("a translation has no word times; leave out --words or --translate", WRONG_USE)
    if speakers and translate:
        fail("a translation has no speakers; leave out --speakers or --translate", WRONG_USE)
    fields = {"response_format": "verbose_json" if words else format, "language": language, "prompt": prompt}
    fields |= _speaker_fields(fields["response_format"], num_speakers) if speakers else {}
    if words:
        fields["timestamp_granularities[]"] = "word"
    operation = "audio/translations" if translate else "audio/transcriptions"
    form = {name: value for name, value in fields.items() if value}
    with session(server, key, config) as client:
        answer = client.post_file(deployment_path(model, operation), file, form)
    _tell(answer)
    said = answer.body.decode("utf-8")
    write_result(_by_turns(said) if speakers and format == "text" and not words else said, out)


def _speaker_fields(kind: str, count: int) -> dict[str, str]:
    """What asks for speakers; plain text is made here of the segments."""
    server_format = "diarized_json" if kind in ("text", "json") else kind
    fields = {"response_format": server_format, "diarize": "true", "chunking_strategy": "auto"}
    return fields | ({"num_speakers": str(count)} if count else {})


def _by_turns(document: str) -> str:
    """diarized_json as text: a line for each turn."""
    segments = json.loads(document)["segments"]
    turns = [(name, [one["text"] for one in group]) for name, group in groupby(segments, lambda one: one["speaker"])]
    return "".join(f"{name}: {' '.join(texts)}\n" for name, texts in turns)


def speak(
    text: Annotated[str, typer.Argument(help='What to say; "-" reads it from standard input.')],
    model: Model = "embedded-tts",
    voice: Annotated[str, typer.Option(help="Voice name.")] = PLAIN_VOICE,
    format: Annotated[  # noqa: A002
        str, typer.Option(help="mp3, opus, aac, flac, wav or pcm; empty: as OUTPUT is named.")
    ] = "",
    speed: Annotated[float, typer.Option(min=0.25, max=4.0, help="Factor on the speed of speech.")] = 1.0,
    instructions: Annotated[str, typer.Option(help="How to say it.", show_default=False)] = "",
    out: Annotated[
        Path, typer.Option("--output", "-o", help='File to write to; "-": standard output.', dir_okay=False)
    ] = Path("speech.wav"),
    server: Server = "",
    key: Key = "",
    config: Config = None,
) -> None:
    """Say TEXT and write it to a file."""
    check_result(out)
    kind = format or _format_of(out)
    said = _standard_input() if text == "-" else text
    document: dict[str, Any] = {"input": said, "voice": voice, "speed": speed, "response_format": kind}
    if instructions:
        document["instructions"] = instructions
    with session(server, key, config) as client:
        answer = client.stream_to(deployment_path(model, "audio/speech"), document, out)
    _tell(answer)
    if out != STANDARD_OUTPUT:
        messages().print(f"Written to {out}.")


def ask(
    file: Sound,
    question: Annotated[str, typer.Argument(help="What you want to know about it.")],
    model: Model = "gpt-4o-audio-preview",
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps; more is slower and better.")] = None,
    block_length: Annotated[int | None, typer.Option(min=1, help="Tokens denoised together.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, tokens.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=2.0, help="Randomness of the answer; 0: the likeliest tokens.")
    ] = None,
    system: Annotated[str, typer.Option(help="System message.", show_default=False)] = "",
    out: Output = None,
    server: Server = "",
    key: Key = "",
    config: Config = None,
) -> None:
    """Ask QUESTION about what is heard in FILE."""
    check_result(out)
    options = {"steps": steps, "block_length": block_length, "max_tokens": max_new_tokens, "temperature": temperature}
    document = _chat_request(file, question, system) | {
        name: value for name, value in options.items() if value is not None
    }
    with (
        session(server, key, config) as client,
        ProgressBar(*_STEPS, console=messages(), transient=messages().is_terminal) as bar,
    ):
        thinking = bar.add_task("Listening and thinking", total=None)

        def show(done: int, total: int) -> None:
            bar.update(thinking, completed=done, total=total or None)

        pieces = list(_deltas(client.events(deployment_path(model, "chat/completions"), document, show)))
    write_result("".join(pieces) + "\n", out)


def _chat_request(file: Path, question: str, system: str) -> dict[str, Any]:
    sound = base64.b64encode(file.read_bytes()).decode("ascii")
    kind = "mp3" if file.suffix.lower() == ".mp3" else "wav"  # the server decides by content
    parts = [
        {"type": "input_audio", "input_audio": {"data": sound, "format": kind}},
        {"type": "text", "text": question},
    ]
    messages_sent: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    return {"messages": [*messages_sent, {"role": "user", "content": parts}], "stream": True}


def _deltas(events: Iterator[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        for choice in event.get("choices", []):
            if text := choice.get("delta", {}).get("content"):
                yield text


def _standard_input() -> str:
    """Decode text as UTF-8 if possible, whatever the console's code page is; else by that code page."""
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode(locale.getencoding(), "replace")


def _format_of(file: Path) -> str:
    """The format that the file's ending stands for, wav without one; ends the program where it stands for none of
    ours."""
    ending = file.suffix.lower()
    if ending not in _ENDINGS:
        fail(f"no format is called {ending}; name the file {file.stem}.mp3, or choose with --format", WRONG_USE)
    return _ENDINGS[ending]


def _tell(answer: Answer) -> None:
    """Print the x-gateway-* headers to stderr: which engine answered, and its remarks."""
    parts = [answer.headers.get(f"x-gateway-{name}", "") for name in ("engine", "device", "dtype")]
    spent = answer.headers.get("x-gateway-model-ms")
    line = " ".join(part for part in parts if part) + (f", {float(spent) / 1000:.2f} s of model time" if spent else "")
    remarks = [f"{said}{text}" for name, said in _REMARKS.items() if (text := answer.headers.get(f"x-gateway-{name}"))]
    for text in (line, *remarks):
        if text:
            messages().print(text)
