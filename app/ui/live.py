"""The page's tab for live speech: its fields, and the script that works in the browser.

Owns what is wired to what. The browser opens the session itself (live.js), by a key that the server makes for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from app.ui.handlers import CONVERSE, WRITE_DOWN, Handlers

_FOLDER = Path(__file__).parent
_PREPARE = "(...values) => { window.speechGatewayLive.prepare(); return values; }"
_START = "(session) => { window.speechGatewayLive.start(session); }"
_STOP = "() => { window.speechGatewayLive.stop(); }"
_HINT = "In a conversation, use headphones: the answer stops when you speak."

Wrap = Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]


def live_script() -> str:
    """For the head of the page."""
    return f"<script>{(_FOLDER / 'live.js').read_text(encoding='utf-8')}</script>"


def live_tab(handlers: Handlers, key: Any, with_key: Wrap, languages: Sequence[tuple[str, str]]) -> None:
    """Lay out the tab. with_key: gives a handler the visitor's key."""
    import gradio as gr

    with gr.Tab("Live"), gr.Row():
        with gr.Column():
            mode = gr.Radio([WRITE_DOWN, CONVERSE], value=WRITE_DOWN, label="What to do", info=_HINT)
            deployment = gr.Dropdown(
                [("As configured", ""), *handlers.serving("transcription", {})], value="", label="Who writes down"
            )
            language = gr.Dropdown(list(languages), value="", label="Spoken language")
            with gr.Row():
                begin = gr.Button("Start", variant="primary", min_width=100)
                end = gr.Button("Stop", min_width=100)
        with gr.Column():
            gr.HTML((_FOLDER / "live.html").read_text(encoding="utf-8"))
            problem = gr.HTML()
            session = gr.JSON(visible="hidden")
    inputs = [key, mode, deployment, language]
    asked = begin.click(with_key(handlers.live), inputs, [session, problem], js=_PREPARE, show_progress="hidden")
    asked.then(None, [session], [], js=_START)
    end.click(None, [], [], js=_STOP)
