"""What the web page shows: transcribe, who says what, ask, speak, live speech, and the state of the server.

Owns layout and what is wired to what. The work behind the buttons is in handlers.py, the words of its fragments in
fragments.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.config.deployments import Deployment
from app.media.pool import MediaPool
from app.ui.calls import check_calls, refuse_unknown
from app.ui.client import Api
from app.ui.handlers import SPEECH_FORMATS, TASKS, TRANSCRIBE, TRANSCRIPT_FORMATS, TRANSLATE, WITH_WORDS, Handlers
from app.ui.live import live_script, live_tab
from app.ui.mount import PATH
from app.ui.speakers import speakers_script, speakers_tab
from app.ui.temp_files import TempFiles
from app.ui.uploads import UploadRoom, keep_to_own_files
from backends.languages import LANGUAGES

if TYPE_CHECKING:
    from fastapi import FastAPI

_SYSTEM_FONTS = ["system-ui", "sans-serif"]  # the default theme would fetch fonts from the network
_MONO_FONTS = ["ui-monospace", "monospace"]
_LOOK_SECONDS = 15  # between two looks at the server's state
_HEAD = '<link rel="icon" href="data:image/svg+xml,{}">'.format(
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath d='M2 6v4M5 3v10M8 1v14M11 4v8M14 6v4' stroke='%232563eb' stroke-width='2'/%3E%3C/svg%3E"
)
_TITLE = "# Speech gateway\nEverything on this page is computed by this server. Nothing is sent elsewhere."
_SOON = "It appears here."
# In the browser, which alone knows what is chosen at this moment.
_UNLESS_CHOSEN = "(better, ...chosen) => chosen.map((name, i) => name === better[i][0] ? better[i][1] : name)"
_PLAYER = {"buttons": [], "waveform_options": {"waveform_color": "#93c5fd", "waveform_progress_color": "#2563eb"}}


@dataclass(frozen=True)
class _Tab:
    """What the rest of the page needs of a tab: its drop-down, and the events after which the server's state has
    changed."""

    deployment: Any
    finished: Any


def build_page(
    app: FastAPI, deployments: Mapping[str, Deployment], media: MediaPool, *, needs_key: bool, body_bytes: int
) -> FastAPI:
    """Build the FastAPI app of the page at PATH. Slow (imports Gradio): call it in a thread. body_bytes: largest
    upload."""
    import gradio as gr
    from fastapi import FastAPI as Host

    look = {
        "theme": gr.themes.Default(primary_hue="blue", font=_SYSTEM_FONTS, font_mono=_MONO_FONTS),
        "css_paths": [Path(__file__).with_name("page.css")],
        "head": _HEAD + live_script() + speakers_script(),
        "footer_links": [],
    }
    temp_files = TempFiles(upload_bytes=body_bytes)
    blocks = _layout(Handlers(Api(app), deployments, media, temp_files), needs_key)
    host = Host(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lambda _: temp_files.tended())
    gr.mount_gradio_app(host, blocks, path=PATH, run_history=False, ssr_mode=False, max_file_size=body_bytes, **look)
    keep_to_own_files(blocks, temp_files)
    refuse_unknown(host, PATH)
    check_calls(blocks)
    host.add_middleware(UploadRoom, path=PATH, temp_files=temp_files, body_bytes=body_bytes)
    return host


def _layout(handlers: Handlers, needs_key: bool) -> Any:
    import gradio as gr

    with gr.Blocks(title="Speech gateway", analytics_enabled=False) as blocks:
        gr.Markdown(_TITLE, elem_id="title")
        strip = gr.HTML()
        key = gr.Textbox("" if needs_key else "local", label="API key", visible=False)  # "": that of the login
        tabs = [_transcribe_tab(handlers, key)]
        told_apart = speakers_tab(handlers, key, with_key, _recording, languages())
        live_tab(handlers, key, with_key, languages())
        tabs += [_ask_tab(handlers, key), _speak_tab(handlers, key)]
        health = _health_tab(handlers, strip)
        quiet = {"show_progress": "hidden"}
        boxes = [tab.deployment for tab in tabs]
        better = gr.JSON(visible="hidden")
        loaded = blocks.load(handlers.choices, [], [*boxes, better], **quiet)
        loaded.then(None, [better, *boxes], boxes, js=_UNLESS_CHOSEN)
        for happening in (blocks.load, gr.Timer(_LOOK_SECONDS).tick, told_apart, *(tab.finished for tab in tabs)):
            happening(handlers.state, [], [strip, health], **quiet)
    # The server itself decides how much runs at once. Gradio's way around the queue would call a request without values
    # an internal error.
    return blocks.queue(default_concurrency_limit=None, api_open=False)


def _transcribe_tab(handlers: Handlers, key: Any) -> _Tab:
    import gradio as gr

    with gr.Tab("Transcribe"), gr.Row():
        with gr.Column():
            audio = _recording("Recording")
            deployment = _deployments(handlers, "transcription")
            task = gr.Radio([TRANSCRIBE, TRANSLATE], value=TRANSCRIBE, label="Write it down")
            language = gr.Dropdown(languages(), value="", label="Spoken language")
            form = gr.Dropdown(list(TRANSCRIPT_FORMATS), value="text", label="Format")
            words = gr.Checkbox(label="Show when each word is said")
            with gr.Accordion("Names and spellings", open=False):
                prompt = gr.Textbox(
                    show_label=False, placeholder="Text that leads the model, such as names that will be said"
                )
            button = gr.Button("Transcribe", variant="primary")
        with gr.Column():
            text = gr.Textbox(label="Transcript", lines=6, buttons=["copy"], elem_id="transcript", placeholder=_SOON)
            note = gr.HTML()
            times = gr.HTML(elem_id="times")
            save = gr.DownloadButton("Save", visible=False, size="sm")
            picture = _picture()
    inputs = [key, deployment, audio, task, language, prompt, form, words]
    ran = button.click(
        with_key(handlers.transcribe), inputs, [text, note, times, picture, save], show_progress_on=[text]
    )
    form.change(lambda form: gr.Checkbox(interactive=form in WITH_WORDS), form, words, show_progress="hidden")
    return _Tab(deployment, ran.then)


def _ask_tab(handlers: Handlers, key: Any) -> _Tab:
    import gradio as gr

    with gr.Tab("Ask"), gr.Row():
        with gr.Column():
            audio = _recording("Audio to ask about")
            deployment = _deployments(handlers, "chat")
            question = gr.Textbox("What is said here?", label="Question", lines=2, max_lines=4)
            length = gr.Slider(16, 512, value=128, step=16, label="Longest answer, tokens")
            button = gr.Button("Ask", variant="primary")
        with gr.Column():
            text = gr.Textbox(label="Answer", lines=6, buttons=["copy"], elem_id="answer", placeholder=_SOON)
            note = gr.HTML()
            picture = _picture()
    inputs = [key, deployment, audio, question, length]
    ran = button.click(with_key(handlers.ask), inputs, [text, note, picture], show_progress_on=[text])
    return _Tab(deployment, ran.then)


def _speak_tab(handlers: Handlers, key: Any) -> _Tab:
    import gradio as gr

    with gr.Tab("Speak"), gr.Row():
        with gr.Column():
            text = gr.Textbox(label="Text", lines=4, max_length=4096, placeholder="What is to be said")
            deployment = _deployments(handlers, "speech")
            voice = gr.Dropdown([], label="Voice or LoRA adapter", allow_custom_value=True)
            with gr.Accordion("Clone a voice from a clip", open=False) as cloning:
                clip = _recording("Clip, 5 to 15 s", elem_id="clip")
                clip_text = gr.Textbox(label="What the clip says")
            form = gr.Dropdown(list(SPEECH_FORMATS), value="wav", label="Format")
            speed = gr.Slider(0.25, 4.0, value=1.0, step=0.05, label="Speed")
            with gr.Accordion("How to say it", open=False):
                instructions = gr.Textbox(
                    show_label=False, placeholder="Instructions, for deployments that follow them"
                )
            button = gr.Button("Speak", variant="primary")
        with gr.Column():
            spoken = gr.Audio(label="Speech", type="filepath", interactive=False, elem_id="spoken", **_PLAYER)
            note = gr.HTML()
            save = gr.DownloadButton("Save", visible=False, size="sm")
            picture = _picture()
    inputs = [key, deployment, voice, text, instructions, speed, form, clip, clip_text]
    ran = button.click(with_key(handlers.speak), inputs, [spoken, note, picture, save], show_progress_on=[spoken])
    for happening in (deployment.change, ran.then):
        happening(with_key(handlers.voices), [key, deployment, voice], [voice, cloning], show_progress="hidden")
    return _Tab(deployment, ran.then)


def with_key(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap a handler with the key that the visitor logged in with, unless the request names another one."""
    import gradio as gr

    async def called(request: Any, key: str, *values: Any) -> Any:
        login = request.headers.get("api-key", "") if request is not None else ""
        return await handler(key or login.encode("latin-1").decode("utf-8", "replace"), *values)

    called.__name__ = handler.__name__  # Gradio calls the route after it
    called.__annotations__ = {"request": gr.Request}  # by which Gradio knows what to pass
    return called


def _health_tab(handlers: Handlers, strip: Any) -> Any:
    import gradio as gr

    with gr.Tab("Health"):
        health = gr.HTML()
        refresh = gr.Button("Refresh", size="sm")
        refresh.click(handlers.state, [], [strip, health])
    return health


def _recording(label: str, **more: Any) -> Any:
    import gradio as gr

    return gr.Audio(sources=["upload", "microphone"], type="filepath", label=label, **_PLAYER, **more)


def _picture() -> Any:
    import gradio as gr

    return gr.Plot(label="Waveform and mel spectrogram", show_label=False, elem_classes="sg-picture")


def _deployments(handlers: Handlers, task: str) -> Any:
    """Complete from the start; which of them can answer is known once the page has loaded."""
    import gradio as gr

    names = handlers.serving(task, {})
    return gr.Dropdown(
        names, value=next(iter(names), None), label="Deployment", elem_id=f"deployment-{TASKS.index(task)}"
    )


def languages() -> list[tuple[str, str]]:
    return [("Detect", ""), *sorted((name.title(), code) for code, name in LANGUAGES.items())]
