"""A page of another site, in a real browser, that tries everything a page can: it reads nothing, and makes nothing
work."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from app import main
from tests.support.server import Running, running
from tests.support.waiting import LIMIT

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SITE = "evil.example"  # the browser is told that it lies on this machine, as a rebinding page's name does
ARGUMENTS = ["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP *.{SITE} 127.0.0.1, MAP {SITE} 127.0.0.1"]

# Each returns what the page could read: the text of an answer, or "" where it got an opaque one.
ATTEMPTS = {
    "a question": "fetch(at + '/v1/models').then(a => a.text())",
    "with a key": "fetch(at + '/v1/models', {headers: {'api-key': 'k'}}).then(a => a.text())",
    "with a bearer": "fetch(at + '/v1/models', {headers: {authorization: 'Bearer k'}}).then(a => a.text())",
    "with cookies": "fetch(at + '/v1/models', {credentials: 'include'}).then(a => a.text())",
    "without CORS": "fetch(at + '/v1/models?api-key=k', {mode: 'no-cors'}).then(a => a.text())",
    "deep health": "fetch(at + '/health?deep=1', {mode: 'no-cors'}).then(a => a.text())",
    "deep health with CORS": "fetch(at + '/health?deep=1').then(a => a.text())",
    "metrics": "fetch(at + '/metrics').then(a => a.text())",
    "speech as text": "fetch(at + '/v1/audio/speech?api-key=k', {method: 'POST', mode: 'no-cors', body: speech})"
    ".then(a => a.text())",
    "speech as JSON": "fetch(at + '/v1/audio/speech', {method: 'POST', body: speech, headers: {'api-key': 'k', "
    "'content-type': 'application/json'}}).then(a => a.text())",
    "an upload": "fetch(at + '/v1/audio/transcriptions?api-key=k', {method: 'POST', mode: 'no-cors', body: form()})"
    ".then(a => a.text())",
    "a beacon": "Promise.resolve(navigator.sendBeacon(at + '/v1/audio/transcriptions?api-key=k', form()))"
    ".then(a => '')",
    "unload": "fetch(at + '/admin/unload/fake-asr?api-key=k', {method: 'POST', mode: 'no-cors'}).then(a => a.text())",
    "delete": "fetch(at + '/v1/models/fake-asr?api-key=k', {method: 'DELETE'}).then(a => a.text())",
    "the page's upload": "fetch(at + '/ui/gradio_api/upload', {method: 'POST', mode: 'no-cors', body: form()})"
    ".then(a => a.text())",
    "the page's call": "fetch(at + '/ui/gradio_api/call/transcribe', {method: 'POST', mode: 'no-cors', body: '{}'})"
    ".then(a => a.text())",
    "an image": "loaded(new Image(), at + '/health?deep=1')",
    "a script": "added('script', {src: at + '/health?deep=1'})",
    "a style": "added('link', {rel: 'stylesheet', href: at + '/v1/models?api-key=k'})",
    "a sound": "loaded(new Audio(), at + '/v1/audio/voices?api-key=k')",
    "a frame": "added('iframe', {src: at + '/ui'}).then(frame => frame.contentDocument.body.innerText)",
    "events": "opened(new EventSource(at + '/ui/gradio_api/queue/data?session_hash=x'))",
    "a socket": "opened(new WebSocket(at.replace('http', 'ws') + '/v1/realtime?intent=transcription&api-key=k', "
    "['realtime']))",
    "a socket with its key": "opened(new WebSocket(at.replace('http', 'ws') + '/openai/v1/realtime?model=fake-chat', "
    "['realtime', 'openai-insecure-api-key.k']))",
}
HELPERS = """
const speech = JSON.stringify({model: 'fake-tts', input: 'Hello.', voice: 'fake-low'});
const form = () => { const f = new FormData(); f.append('model', 'fake-asr');
  f.append('file', new Blob([new Uint8Array(400)]), 'a.wav'); return f; };
const refused = (target, done) => { target.onerror = () => done(new Error('refused')); };
const loaded = (media, address) => new Promise((ok, no) => {
  media.onload = media.oncanplaythrough = () => ok('loaded'); refused(media, no); media.src = address; });
const added = (tag, values) => new Promise((ok, no) => { const one = Object.assign(document.createElement(tag), values);
  one.onload = () => ok(one); refused(one, no); document.body.append(one); });
const opened = source => new Promise((ok, no) => { source.onopen = source.onmessage = () => ok('opened');
  source.onclose = () => no(new Error('closed')); refused(source, no); });
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """With an empty application in the place of Gradio's: what keeps foreign pages out stands in front of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "_page_builder", lambda app, gateway: FastAPI)
        with running() as one:
            yield one


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Prizes</title><body>")

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def foreign_page() -> Iterator[Page]:
    """A page of another site that has been opened."""
    from playwright.sync_api import sync_playwright

    site = ThreadingHTTPServer(("127.0.0.1", 0), _Empty)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS) as browser,
    ):
        page = browser.new_page()
        page.set_default_timeout(LIMIT * 1000)
        page.goto(f"http://{SITE}:{site.server_port}/")
        yield page
    site.shutdown()
    site.server_close()


def _tried(page: Page, address: str, attempt: str) -> str:
    """What the page read, "" for an opaque answer, or "refused"."""
    told = page.evaluate(f"(at) => {{ {HELPERS} return ({attempt}).catch(error => 'refused'); }}", address)
    return str(told)


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", f"rebound.{SITE}"])
def test_a_page_of_another_site_gets_nothing(server: Running, foreign_page: Page, attempt: str, host: str) -> None:
    """By address, by name, and by a name of its own that points at this machine."""
    with server.fresh_pool() as pool:
        assert _tried(foreign_page, f"http://{host}:{server.port}", ATTEMPTS[attempt]) in ("", "refused")
        assert not pool.requests
        assert not pool.canaries
