"""`speech-gateway talk`: a spoken conversation with the server, in which one may interrupt."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.captions import Captions, print_event
from app.commands.connection import Config, Key, Server, session
from app.commands.console import FAILED, check_result, messages
from app.commands.listen import (
    AsJson,
    Device,
    Language,
    Rate,
    SourceName,
    chosen_source,
    ending_if_it_fails,
    say_that_it_listens,
)
from app.commands.playback import FileSpeaker, Playlist, Speaker
from app.commands.sources import MICROPHONE, RATE, Source

if TYPE_CHECKING:
    from app.commands.live import LiveSession

YOU, ANSWER = "you: ", "answer: "
_LOOK_SECONDS = 0.2
_TAIL_SECONDS = 2.0  # of silence after a file, more than ends a turn


def talk(
    source: SourceName = MICROPHONE,
    model: Annotated[str, typer.Option("--model", "-m", help="gpt-realtime or a chat deployment.")] = "gpt-realtime",
    transcription: Annotated[
        str,
        typer.Option(help="Deployment that transcribes you; empty: the configured one.", show_default=False),
    ] = "",
    language: Language = "",
    voice: Annotated[str, typer.Option(help="Voice name; empty: the configured one.", show_default=False)] = "",
    instructions: Annotated[str, typer.Option(help="How to answer.", show_default=False)] = "",
    text_only: Annotated[bool, typer.Option("--text", help="Answer in writing only.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the answers to this WAV file, not to the speaker.", dir_okay=False),
    ] = None,
    rate: Rate = RATE,
    device: Device = "",
    speaker: Annotated[str, typer.Option(help="Number or part of the name of a loudspeaker.", show_default=False)] = "",
    as_json: AsJson = False,
    server: Server = "",
    key: Key = "",
    config: Config = None,
) -> None:
    """Hold a spoken conversation.

    The answer stops when you speak. Use headphones, or it hears itself. Ctrl+C ends it.
    """
    from app.commands.live import live_session  # imports websockets, which no other command needs

    check_result(out)
    opened = chosen_source(source, rate, device)
    settings: dict[str, Any] = {"type": "realtime", "output_modalities": ["text" if text_only else "audio"]}
    if instructions:
        settings["instructions"] = instructions
    fields = {name: value for name, value in (("model", transcription), ("language", language)) if value}
    with (
        session(server, key, config) as client,
        live_session(client, model=model) as live,
        ending_if_it_fails(_speaker(speaker, to_file=text_only or out is not None)) as player,
        ending_if_it_fails(opened()) as audio,
    ):
        settings["audio"] = {
            "input": {"format": {"type": "audio/pcm", "rate": audio.rate}, "transcription": fields},
            "output": {"format": {"type": "audio/pcm", "rate": RATE}} | ({"voice": voice} if voice else {}),
        }
        failed = _converse(live, audio, player, settings, as_json=as_json)
        if out is not None and isinstance(player, FileSpeaker):
            player.save(out)
            messages().print(f"Written to {out}.")
    if failed:
        raise typer.Exit(FAILED)


@contextlib.contextmanager
def _speaker(device: str, *, to_file: bool) -> Iterator[Speaker]:
    if to_file:
        yield FileSpeaker()
        return
    from app.commands.sound_devices import loudspeaker

    playlist = Playlist()
    with loudspeaker(playlist, device):
        yield playlist


def _converse(live: LiveSession, audio: Source, player: Speaker, settings: Mapping[str, Any], *, as_json: bool) -> bool:
    """Whether anything failed."""
    captions = Captions()
    listener = Listener(live, player, captions, quiet=as_json)
    with contextlib.closing(captions):
        for event in live.configure(settings):
            if as_json:
                print_event(event)
        say_that_it_listens(audio)
        live.feed(audio, tail_seconds=_TAIL_SECONDS, commits=False)
        for event in live.events():
            if as_json:
                print_event(event)
            listener.take(event)
        while not player.is_silent() and not live.stop.wait(_LOOK_SECONDS):
            pass
    return listener.failed


@dataclass
class Listener:
    """Who hears the answers and interrupts them. quiet: shows nothing."""

    live: LiveSession
    player: Speaker
    captions: Captions
    quiet: bool = False
    failed: bool = False
    _cut: set[str] = field(default_factory=set)  # items of which nothing more is to be heard

    def take(self, event: Mapping[str, Any]) -> None:
        match event["type"]:
            case "response.output_audio.delta":
                if event["item_id"] not in self._cut:
                    self.player.play(event["item_id"], base64.b64decode(event["delta"]))
            case "input_audio_buffer.speech_started":
                self._fall_silent()
            case "error":
                self.failed = True
            case "response.done":
                self.failed = self.failed or event["response"]["status"] == "failed"
        if not self.quiet:
            _show(event, self.captions)

    def _fall_silent(self) -> None:
        """The server has ended the answer by itself; what it had sent already was not heard to its end."""
        if (cut := self.player.stop()) is not None:
            self._cut.add(cut.item_id)
            self.live.send(
                "conversation.item.truncate",
                item_id=cut.item_id,
                content_index=0,
                audio_end_ms=cut.milliseconds,
            )


def _show(event: Mapping[str, Any], captions: Captions) -> None:
    match event["type"]:
        case "conversation.item.input_audio_transcription.delta":
            captions.words(YOU, event["delta"])
        case "conversation.item.input_audio_transcription.completed":
            captions.text(YOU, event["transcript"])
        case "response.output_audio_transcript.delta" | "response.output_text.delta":
            captions.words(ANSWER, event["delta"])
        case "response.output_audio_transcript.done":
            captions.text(ANSWER, event["transcript"])
        case "response.output_text.done":
            captions.text(ANSWER, event["text"])
        case _:
            if remark := _remark(event):
                captions.remark(remark)


def _remark(event: Mapping[str, Any]) -> str:
    """What went otherwise than it should, "" for nothing."""
    match event["type"]:
        case "conversation.item.input_audio_transcription.failed":
            return f"not transcribed: {event['error'].get('message')}"
        case "error":
            return f"speech-gateway: {event['error'].get('message')}"
        case "response.done":
            details = event["response"]["status_details"] or {}
            if details.get("reason") == "turn_detected":
                return "(interrupted)"
            return f"no answer: {(details.get('error') or {}).get('message')}" if details.get("error") else ""
    return ""
