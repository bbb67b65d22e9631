"""The page's tab for who said what: its fields, and the script that names speakers and plays turns in the browser.

Owns what is wired to what. The turns are drawn by html.py, files are made by speaker_files.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.ui.handlers import Handlers
from app.ui.live import Wrap
from app.ui.speaker_files import SPEAKER_FORMATS

_FOLDER = Path(__file__).parent
_COLLECT = "(document, names, form) => [document, window.speechGatewaySpeakers.names(), form]"
_SAVE = "(file) => { window.speechGatewaySpeakers.save(file); }"
_COUNT = "0: the server finds out"


def speakers_script() -> str:
    """For the head of the page."""
    return f"<script>{(_FOLDER / 'speakers.js').read_text(encoding='utf-8')}</script>"


def speakers_tab(
    handlers: Handlers, key: Any, with_key: Wrap, recording: Any, languages: Sequence[tuple[str, str]]
) -> Any:
    """Lay out the tab; returns the event after which the server's state has changed. with_key: gives a handler the
    visitor's key; recording: makes the field for one."""
    import gradio as gr

    names = handlers.serving("diarization", {})
    with gr.Tab("Speakers"), gr.Row():
        with gr.Column():
            audio = recording("Conversation", elem_id="conversation")
            deployment = gr.Dropdown(names, value=next(iter(names), None), label="Deployment")
            count = gr.Slider(0, 10, value=0, step=1, label="How many speak", info=_COUNT)
            language = gr.Dropdown(list(languages), value="", label="Spoken language")
            button = gr.Button("Who says what", variant="primary")
        with gr.Column():
            turns = gr.HTML(elem_id="turns")
            note = gr.HTML()
            with gr.Row(visible=False) as saving:
                form = gr.Dropdown(list(SPEAKER_FORMATS), value="txt", label="Format", min_width=100)
                save = gr.Button("Save with these names", min_width=100)
            document, renamed, file = (gr.JSON(visible="hidden") for _ in range(3))
    inputs = [key, deployment, audio, count, language]
    ran = button.click(with_key(handlers.tell_apart), inputs, [turns, note, document, saving], show_progress_on=[turns])
    made = save.click(handlers.speaker_file, [document, renamed, form], [file, note], js=_COLLECT)
    made.then(None, [file], [], js=_SAVE)
    return ran.then
