"""What the page's buttons do: values of inputs in, values of outputs out.

Every answer comes from the public API (client.py); what it refuses is shown in words where the answer would have been.
Knows nothing of layout.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog

from app.config.deployments import Deployment
from app.media.pool import MediaPool
from app.ui import html
from app.ui.client import Answer, Api, CallFailed
from app.ui.mount import PATH
from app.ui.pictures import waveform_and_mel
from app.ui.speaker_files import speaker_file, turns_in
from app.ui.temp_files import NotOwnFile, PageFull, TempFiles
from app.writers.formats import MEDIA_TYPES
from backends.interface import ASR_SAMPLE_RATE
from backends.openai_voices import PLAIN_VOICE

TRANSCRIPT_FORMATS = ("text", "json", "verbose_json", "srt", "vtt")
WITH_WORDS = ("text", "verbose_json")  # formats that can be shown together with the times of words
SPEECH_FORMATS = ("wav", *(name for name in MEDIA_TYPES if name != "wav"))
TRANSCRIBE, TRANSLATE = "As spoken", "Into English"
WRITE_DOWN, CONVERSE = "Write down", "Converse"
_SUFFIX: Mapping[str, str] = {"text": "txt", "verbose_json": "json"}
_log = structlog.get_logger("page")
_PCM_RATE, _PCM_BYTES = 24_000, 2  # of the API's pcm answers, which say neither


class Handlers:
    """Every method takes the values of its inputs and gives those of its outputs; None for a field that was never
    opened."""

    def __init__(
        self, api: Api, deployments: Mapping[str, Deployment], media: MediaPool, temp_files: TempFiles
    ) -> None:
        """temp_files: where uploads lie, and answers that can be played and saved."""
        self._api, self._deployments, self._media, self._temp_files = api, deployments, media, temp_files

    async def transcribe(
        self,
        key: str,
        deployment: str,
        path: str | None,
        task: str,
        language: str,
        prompt: str | None,
        form: str,
        words: bool,
    ) -> tuple[str, str, str, Any, Any]:
        """Transcribe. -> transcript in the format asked for, note, times, picture, file to save."""
        words = words and form in WITH_WORDS
        fields = {"response_format": "verbose_json" if words else form, "prompt": (prompt or "").strip()}
        if task == TRANSCRIBE:
            fields |= {"language": language} | ({"timestamp_granularities[]": "word"} if words else {})
        try:
            audio = await self._read(path)
            answer = await self._api.transcribe(key, deployment, audio, fields, translate=task == TRANSLATE)
            document = json.loads(answer.body) if fields["response_format"] == "verbose_json" else {}
            text = document["text"] if form == "text" and document else _readable(answer.body.decode("utf-8"), form)
            saved = await self._keep(answer, f"transcript.{_SUFFIX.get(form, form)}", text.encode("utf-8"))
        except CallFailed as error:
            return "", html.problem(str(error)), "", None, _nothing_to_save()
        picture = await self._picture(audio, document.get("words"))
        return text, html.note(answer.headers), html.times(document), picture, _to_save(saved)

    async def tell_apart(
        self, key: str, deployment: str, path: str | None, count: float, language: str
    ) -> tuple[str, str, Any, Any]:
        """Tell who says what. -> turns, note, diarized_json document, whether a file can be saved."""
        import gradio as gr

        fields = {"response_format": "diarized_json", "chunking_strategy": "auto", "language": language}
        fields["num_speakers"] = str(int(count)) if count else ""
        try:
            answer = await self._api.transcribe(key, deployment, await self._read(path), fields)
        except CallFailed as error:
            return "", html.problem(str(error)), None, gr.Row(visible=False)
        document = json.loads(answer.body)
        turns = turns_in(document)
        source = f"{PATH}/gradio_api/file={quote(str(path))}"
        return html.turns(turns, source), html.note(answer.headers), document, gr.Row(visible=bool(turns))

    async def speaker_file(self, document: Any, names: Any, form: str) -> tuple[Any, str]:
        """Make a file of what `tell_apart` found. names: by the speakers' labels. -> name and text of the file,
        problem."""
        try:
            text = speaker_file(document, names, form)
        except ValueError:
            return None, html.problem("There is no conversation to save, or a name has more than 64 characters.")
        return {"name": f"conversation.{form}", "text": text}, ""

    async def ask(
        self, key: str, deployment: str, path: str | None, question: str, tokens: float
    ) -> tuple[str, str, Any]:
        """Ask a question. -> answer text, note, picture."""
        try:
            audio = await self._read(path)
            if not question.strip():
                raise CallFailed("Write a question first.")
            answer = await self._api.ask(key, deployment, audio, question, int(tokens))
        except CallFailed as error:
            return "", html.problem(str(error)), None
        text = json.loads(answer.body)["choices"][0]["message"]["content"]
        return text, html.note(answer.headers), await self._picture(audio)

    async def speak(
        self,
        key: str,
        deployment: str,
        voice: str,
        text: str,
        instructions: str | None,
        speed: float,
        form: str,
        *cloning: str | None,
    ) -> tuple[str | None, str, Any, Any]:
        """Speak. cloning: clip and its transcript. -> path of what the page plays, note, picture, file to save."""
        body: dict[str, Any] = {"input": text, "voice": voice or PLAIN_VOICE, "response_format": form, "speed": speed}
        clip, clip_text = cloning
        try:
            if not text.strip():
                raise CallFailed("Write what is to be said first.")
            if clip and self.clones(deployment):
                body |= {"reference_audio": base64.b64encode(await self._read(clip)).decode("ascii")}
                body |= {"reference_text": clip_text} if clip_text else {}
            if instructions and instructions.strip():
                body["instructions"] = instructions
            answer = await self._api.speak(key, deployment, body)
            saved = await self._keep(answer, f"speech.{form}", answer.body)
            playable = _pcm_as_wav(answer.body) if form == "pcm" else answer.body
            played = await self._keep(answer, "speech.wav", playable) if form == "pcm" else saved
        except CallFailed as error:
            return None, html.problem(str(error)), None, _nothing_to_save()
        return played, html.note(answer.headers), await self._picture(playable), _to_save(saved)

    async def live(self, key: str, mode: str, deployment: str, language: str) -> tuple[dict[str, Any], str]:
        """Prepare a live session. -> what the browser's part needs, problem."""
        fields = {"model": deployment, "language": language}
        transcription = {name: value for name, value in fields.items() if value}
        kind = "realtime" if mode == CONVERSE else "transcription"
        session = {"type": kind, "audio": {"input": {"transcription": transcription}}}
        try:
            secret = await self._api.live_secret(key, session)
        except CallFailed as error:
            return {"secret": ""}, html.problem(str(error))
        return {"secret": secret, "converses": mode == CONVERSE}, ""

    async def voices(self, key: str, deployment: str, chosen: str | None = None) -> tuple[Any, Any]:
        """List voices. -> the voice drop-down of a deployment, and whether cloning is offered."""
        import gradio as gr

        adapters = self._deployments[deployment].options.get("adapters", {}) if deployment in self._deployments else {}
        try:
            known = await self._api.voices(key, deployment)
        except CallFailed:
            known = []  # without a key yet: any name can still be typed
        # A folder of several checkpoints gives several voices, which are known once the model was loaded.
        trained = dict.fromkeys(
            [*adapters, *(name for name in known if name.startswith(tuple(f"{one}-" for one in adapters)))]
        )
        names = [(f"{name} (LoRA adapter)", name) for name in trained]
        names += [(name, name) for name in known if name not in trained]
        values = [value for _, value in names]
        chosen = chosen if chosen in values else next(iter(values), None)
        return gr.Dropdown(choices=names, value=chosen), gr.Accordion(visible=self.clones(deployment))

    async def state(self) -> tuple[str, str]:
        """Read /health. -> strip at the top, health tab."""
        try:
            document = await self._api.health()
        except CallFailed as error:
            return html.unreachable(str(error)), html.problem(str(error))
        return html.strip(document), html.health(document)

    async def choices(self) -> tuple[Any, ...]:
        """-> one drop-down of deployments per task, in the order of TASKS: those that can answer now first; and
        `better`.

        The drop-downs leave out what is chosen: who opened the page may choose while this is on its way. better: per
        task the deployment that is chosen at first and the one to choose instead, the same where that can answer.
        """
        import gradio as gr

        states = {name: one["state"] for name, one in (await self._api.health())["deployments"].items()}
        found, better = [], []
        for task in TASKS:
            names = self.serving(task, states)
            found.append(gr.Dropdown(choices=[(_label(name, states.get(name, "")), name) for name in names]))
            better.append([next(iter(self.serving(task, {})), None), next(iter(names), None)])
        return *found, better

    def serving(self, task: str, states: Mapping[str, str]) -> list[str]:
        """Sort the deployments for a task: those that can answer now first, those that answer for others last, then
        those with a model, the user's own first."""
        names = [name for name, deployment in self._deployments.items() if task in deployment.tasks]
        usable = {name: states.get(name) not in html.UNUSABLE for name in names}
        stand_ins = {deployment.fallback for deployment in self._deployments.values()}

        def rank(name: str) -> tuple[bool, ...]:
            one = self._deployments[name]
            return not usable[name], name in stand_ins, not one.model, one.builtin

        return sorted(names, key=rank)

    def clones(self, deployment: str | None) -> bool:
        """Whether a deployment clones voices: those do that may have a clip transcribed."""
        known = self._deployments.get(deployment or "")
        return known is not None and "transcription_deployment" in known.options

    async def _read(self, path: str | None) -> bytes:
        """Read what a visitor uploaded. Raises CallFailed, with the same words for any other path."""
        if not path:
            raise CallFailed("Choose or record some audio first.")
        try:
            return await asyncio.to_thread(lambda: self._temp_files.own_file(path).read_bytes())
        except (NotOwnFile, OSError):
            raise CallFailed("This recording is not on the server, or no longer. Upload it again.") from None

    async def _keep(self, answer: Answer, name: str, content: bytes) -> str:
        """Write a file that the page may serve. Raises CallFailed where there is no room for it."""
        path = self._temp_files.folder / answer.headers["x-request-id"] / name
        try:
            async with self._temp_files.room_for(len(content)):
                await asyncio.to_thread(_write, path, content)
        except PageFull as error:
            raise CallFailed(error.message) from None
        except OSError as error:
            _log.error("page.cannot_keep", error=str(error))
            raise CallFailed("The server could not keep the answer on its disk. Its log has the details.") from None
        return str(path)

    async def _picture(self, audio: bytes, words: list[dict[str, Any]] | None = None) -> Any:
        with await self._media.decode(audio, rate=ASR_SAMPLE_RATE) as decoded:
            return await asyncio.to_thread(waveform_and_mel, decoded.samples, ASR_SAMPLE_RATE, words or ())


TASKS = ("transcription", "chat", "speech")


def _label(name: str, state: str) -> str:
    return f"{name} ({html.state_text(state)})" if state in html.UNUSABLE else name


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _to_save(path: str) -> Any:
    import gradio as gr

    return gr.DownloadButton(value=path, label=f"Save {Path(path).name}", visible=True)


def _nothing_to_save() -> Any:
    import gradio as gr

    return gr.DownloadButton(value=None, visible=False)


def _readable(text: str, form: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, indent=2) if form.endswith("json") else text


def _pcm_as_wav(samples: bytes) -> bytes:
    """Add a WAV header to raw pcm, which no browser plays."""
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(_PCM_BYTES)
        sound.setframerate(_PCM_RATE)
        sound.writeframes(samples)
    return out.getvalue()
