"""`speech-gateway listen`: writes down what is being said, while it is said."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.commands.captions import Captions, print_event
from app.commands.connection import Config, Key, Server, session
from app.commands.console import FAILED, WRONG_USE, fail, messages
from app.commands.sources import (
    MICROPHONE,
    RATE,
    STANDARD_INPUT,
    NoSource,
    OpenSource,
    PipeSource,
    Source,
    read_file,
    standard_input,
)
from app.realtime.formats import PCM_RATES

if TYPE_CHECKING:
    from app.commands.live import LiveSession

SourceName = Annotated[
    str,
    typer.Argument(
        metavar="[FILE|-|microphone]",
        help='Audio file, played at its own pace; "-": raw 16-bit mono pcm from standard input; or the microphone.',
    ),
]
Rate = Annotated[int, typer.Option(help="Sample rate of raw pcm from standard input, Hz.")]
Device = Annotated[str, typer.Option(help="Number or part of the name of a sound device.", show_default=False)]
Language = Annotated[str, typer.Option(help="ISO 639-1 code; empty: detect.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's events, one JSON object a line.")]
Opened = TypeVar("Opened")
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


def listen(
    source: SourceName = MICROPHONE,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Deployment or alias; empty: the configured one.", show_default=False)
    ] = "",
    language: Language = "",
    prompt: Annotated[str, typer.Option(help="Text that leads the model: names, spellings.", show_default=False)] = "",
    silence_ms: Annotated[int, typer.Option(min=0, max=10_000, help="Silence that ends a turn, ms.")] = 500,
    rate: Rate = RATE,
    device: Device = "",
    as_json: AsJson = False,
    server: Server = "",
    key: Key = "",
    config: Config = None,
) -> None:
    """Write down what is said, while it is said.

    Ctrl+C ends it, once the last words are written.
    """
    from app.commands.live import live_session  # imports websockets, which no other command needs

    opened = chosen_source(source, rate, device)
    fields = {"model": model, "language": language, "prompt": prompt}
    query = {"intent": "transcription"} | ({"model": model} if model else {})
    with (
        session(server, key, config) as client,
        live_session(client, **query) as live,
        ending_if_it_fails(opened()) as audio,
    ):
        settings = {
            "format": {"type": "audio/pcm", "rate": audio.rate},
            "transcription": {name: value for name, value in fields.items() if value},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": silence_ms},
        }
        failed = _follow(live, audio, {"type": "transcription", "audio": {"input": settings}}, as_json=as_json)
    if failed:
        raise typer.Exit(FAILED)


def _follow(live: LiveSession, audio: Source, settings: Mapping[str, Any], *, as_json: bool) -> bool:
    """Whether anything was not written down."""
    captions, failed = Captions(), False
    with contextlib.closing(captions):
        for event in live.configure(settings):
            if as_json:
                print_event(event)
        say_that_it_listens(audio)
        live.feed(audio)
        for event in live.events():
            failed = failed or event["type"] in ("error", f"{_TRANSCRIPTION}.failed")
            print_event(event) if as_json else _show(event, captions)
    return failed


def _show(event: Mapping[str, Any], captions: Captions) -> None:
    match event["type"]:
        case "conversation.item.input_audio_transcription.delta":
            captions.words("", event["delta"])
        case "conversation.item.input_audio_transcription.completed":
            captions.text("", event["transcript"])
        case "conversation.item.input_audio_transcription.failed":
            captions.remark(f"not transcribed: {event['error'].get('message')}")
        case "error":
            captions.remark(f"speech-gateway: {event['error'].get('message')}")


def chosen_source(source: str, rate: int, device: str) -> OpenSource:
    """How the audio is to be opened; ends the program where there is none."""
    if source == MICROPHONE and not Path(source).is_file():
        from app.commands.sound_devices import microphone

        return lambda: microphone(device)
    if source == STANDARD_INPUT:
        if rate not in PCM_RATES:
            fail(f"--rate must be one of {', '.join(map(str, PCM_RATES))}", WRONG_USE)
        return lambda: contextlib.nullcontext(PipeSource(standard_input(), rate))
    if not Path(source).is_file():
        fail(f"there is no file {source}", WRONG_USE)
    try:
        found, note = read_file(Path(source))
    except NoSource as error:
        fail(str(error), WRONG_USE)
    if note:
        messages().print(note)
    return lambda: contextlib.nullcontext(found)


@contextlib.contextmanager
def ending_if_it_fails(opening: AbstractContextManager[Opened]) -> Iterator[Opened]:
    """Open a source or a speaker; ends the program where that fails."""
    try:
        with opening as opened:
            yield opened
    except NoSource as error:
        fail(str(error))


def say_that_it_listens(audio: Source) -> None:
    if not isinstance(audio, PipeSource):
        messages().print("Listening. Ctrl+C ends it.")
