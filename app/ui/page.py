"""What the web page shows: transcribe, ask, speak, and the state of the server.

Owns layout and the small handlers behind its buttons. Every answer comes from the public API (client.py).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.deployments import Deployment
from app.serving.media import MediaPool
from app.ui.client import Answer, Api, CallFailed
from app.ui.mount import PATH
from app.ui.pictures import waveform_and_mel
from backends.interface import LISTENING_RATE

if TYPE_CHECKING:
    from fastapi import FastAPI

_FORMATS = ["text", "json", "verbose_json", "srt", "vtt"]
_SYSTEM_FONTS = ["system-ui", "sans-serif"]  # the default theme would fetch fonts from the network
_MONO_FONTS = ["ui-monospace", "monospace"]


class Handlers:
    """What the buttons do. Every method takes the values of its inputs and gives those of its outputs."""

    def __init__(self, api: Api, media: MediaPool) -> None:
        self._api, self._media = api, media

    async def transcribe(
        self, key: str, deployment: str, path: str | None, language: str, response_format: str, words: bool
    ) -> tuple[str, str, Any]:
        """-> transcript in the wanted format, inference line, picture."""
        audio = _read(path)
        fields = {"response_format": response_format, "language": language.strip()}
        if words and response_format == "verbose_json":
            fields["timestamp_granularities[]"] = "word"
        answer = await _shown(self._api.transcribe(key, deployment, audio, fields))
        return _readable(answer.body.decode("utf-8"), response_format), answer.inference, await self._picture(audio)

    async def ask(self, key: str, deployment: str, path: str | None, question: str, max_tokens: float) -> tuple[str, str, Any]:
        """-> answer text, inference line, picture."""
        audio = _read(path)
        if not question.strip():
            raise _complaint("Write a question first.")
        answer = await _shown(self._api.ask(key, deployment, audio, question, int(max_tokens)))
        text = json.loads(answer.body)["choices"][0]["message"]["content"]
        return text, answer.inference, await self._picture(audio)

    async def speak(
        self, key: str, deployment: str, voice: str, text: str, speed: float, clip: str | None, clip_text: str
    ) -> tuple[str, str, Any]:
        """-> path of the spoken wav, inference line, picture."""
        body: dict[str, Any] = {"input": text, "voice": voice or "alloy", "response_format": "wav", "speed": speed}
        if clip:
            body |= {"reference_audio": base64.b64encode(_read(clip)).decode("ascii"), "reference_text": clip_text}
        answer = await _shown(self._api.speak(key, deployment, body))
        return _keep(answer), answer.inference, await self._picture(answer.body)

    async def voices(self, key: str, deployment: str) -> Any:
        """-> the voice drop-down for a deployment."""
        import gradio as gr

        names = await _shown(self._api.voices(key, deployment))
        return gr.Dropdown(choices=names, value=names[0] if names else None)

    async def health(self) -> tuple[str, list[list[str]], list[list[str]]]:
        """-> status line, device rows, deployment rows."""
        document = await _shown(self._api.health())
        status = f"**{document['status']}**, version {document['version']}, up {document['uptime_seconds']:.0f} s"
        devices = [[d["id"], d["name"], _gib(d["memory_used_bytes"]), _gib(d["budget_bytes"])] for d in document["devices"]]
        rows = [
            [name, d["state"], d["model"] or d["backend"], d["engine"], d["device"], d["dtype"], d["error"] or d["reason"]]
            for name, d in document["deployments"].items()
        ]
        return status, devices, rows

    async def _picture(self, audio: bytes) -> Any:
        with await self._media.decode(audio, rate=LISTENING_RATE) as decoded:
            return await asyncio.to_thread(waveform_and_mel, decoded.samples, LISTENING_RATE)


def build_page(app: FastAPI, deployments: Mapping[str, Deployment], media: MediaPool, *, needs_key: bool) -> FastAPI:
    """A FastAPI app that serves the page at PATH. Slow (imports Gradio): call it in a thread."""
    import gradio as gr
    from fastapi import FastAPI as Host

    theme = gr.themes.Default(font=_SYSTEM_FONTS, font_mono=_MONO_FONTS)
    blocks = _layout(Handlers(Api(app), media), deployments, needs_key)
    host = Host(openapi_url=None, docs_url=None, redoc_url=None)
    gr.mount_gradio_app(host, blocks, path=PATH, theme=theme, footer_links=[], run_history=False, ssr_mode=False)
    return host


def _layout(handlers: Handlers, deployments: Mapping[str, Deployment], needs_key: bool) -> Any:
    import gradio as gr

    with gr.Blocks(title="Speech gateway", analytics_enabled=False) as blocks:
        gr.Markdown("# Speech gateway")
        key = gr.Textbox("" if needs_key else "local", label="API key", type="password", visible=needs_key)
        _transcribe_tab(handlers, key, _serving(deployments, "transcription"))
        _ask_tab(handlers, key, _serving(deployments, "chat"))
        _speak_tab(handlers, key, _serving(deployments, "speech"))
        _health_tab(handlers, blocks)
    return blocks


def _transcribe_tab(handlers: Handlers, key: Any, names: list[str]) -> None:
    import gradio as gr

    with gr.Tab("Transcribe"):
        with gr.Row():
            with gr.Column():
                audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Recording")
                deployment = gr.Dropdown(names, value=_first(names), label="Deployment")
                language = gr.Textbox("", label="Language (empty: detect)", max_lines=1)
                form = gr.Dropdown(_FORMATS, value="text", label="Format")
                words = gr.Checkbox(label="Word times (verbose_json)")
                button = gr.Button("Transcribe", variant="primary")
            with gr.Column():
                text = gr.Textbox(label="Transcript", lines=8, buttons=["copy"], elem_id="transcript")
                timing = gr.Markdown()
                picture = gr.Plot(label="Waveform and mel spectrogram")
        inputs = [key, deployment, audio, language, form, words]
        button.click(handlers.transcribe, inputs, [text, timing, picture])


def _ask_tab(handlers: Handlers, key: Any, names: list[str]) -> None:
    import gradio as gr

    with gr.Tab("Ask"):
        with gr.Row():
            with gr.Column():
                audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Audio to ask about")
                deployment = gr.Dropdown(names, value=_first(names), label="Deployment")
                question = gr.Textbox(label="Question", placeholder="What is said here?")
                length = gr.Slider(16, 512, value=128, step=16, label="Longest answer, tokens")
                button = gr.Button("Ask", variant="primary")
            with gr.Column():
                text = gr.Textbox(label="Answer", lines=8, buttons=["copy"], elem_id="answer")
                timing = gr.Markdown()
                picture = gr.Plot(label="Waveform and mel spectrogram")
        button.click(handlers.ask, [key, deployment, audio, question, length], [text, timing, picture])


def _speak_tab(handlers: Handlers, key: Any, names: list[str]) -> None:
    import gradio as gr

    with gr.Tab("Speak"):
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(label="Text", lines=4)
                deployment = gr.Dropdown(names, value=_first(names), label="Deployment")
                voice = gr.Dropdown([], label="Voice or LoRA adapter", allow_custom_value=True)
                speed = gr.Slider(0.25, 4.0, value=1.0, step=0.05, label="Speed")
                with gr.Accordion("Clone a voice from a clip", open=False):
                    clip = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Clip, 5 to 15 s")
                    clip_text = gr.Textbox(label="What the clip says")
                button = gr.Button("Speak", variant="primary")
            with gr.Column():
                spoken = gr.Audio(label="Speech", type="filepath", interactive=False, elem_id="spoken")
                timing = gr.Markdown()
                picture = gr.Plot(label="Waveform and mel spectrogram")
        button.click(handlers.speak, [key, deployment, voice, text, speed, clip, clip_text], [spoken, timing, picture])
        deployment.change(handlers.voices, [key, deployment], voice)


def _health_tab(handlers: Handlers, blocks: Any) -> None:
    import gradio as gr

    with gr.Tab("Health"):
        status = gr.Markdown()
        devices = gr.Dataframe(headers=["device", "name", "used", "budget"], label="Devices", interactive=False)
        table = gr.Dataframe(
            headers=["deployment", "state", "model", "engine", "device", "dtype", "why"],
            label="Deployments",
            interactive=False,
            wrap=True,
        )
        refresh = gr.Button("Refresh")
        for event in (refresh.click, blocks.load):
            event(handlers.health, [], [status, devices, table])


def _serving(deployments: Mapping[str, Deployment], task: str) -> list[str]:
    """Names of the deployments for a task, the neural ones first."""
    names = [name for name, deployment in deployments.items() if task in deployment.info.tasks]
    return sorted(names, key=lambda name: deployments[name].info.degraded)


def _first(names: list[str]) -> str | None:
    return names[0] if names else None


def _read(path: str | None) -> bytes:
    if not path:
        raise _complaint("Choose a recording first.")
    return Path(path).read_bytes()


def _keep(answer: Answer) -> str:
    """The answer as a file in Gradio's cache, which it serves and cleans."""
    import gradio as gr

    folder = Path(gr.utils.get_upload_folder()) / answer.headers["x-request-id"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "speech.wav"
    path.write_bytes(answer.body)
    return str(path)


def _readable(text: str, response_format: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, indent=2) if response_format.endswith("json") else text


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _complaint(message: str) -> Exception:
    """An error that Gradio shows to the person."""
    import gradio as gr

    error: Exception = gr.Error(message)
    return error


async def _shown(call: Any) -> Any:
    """Await an API call; what it complains of is shown on the page."""
    try:
        return await call
    except CallFailed as error:
        raise _complaint(str(error)) from error
