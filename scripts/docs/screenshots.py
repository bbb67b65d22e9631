"""Pictures of the web page for README and docs: `python scripts/docs/screenshots.py [--address http://127.0.0.1:8000]`.

Starts a server with examples/all-tiny.toml (or uses a running one), and one for the tab Live, works with their pages in
a headless Chromium as a person would, and writes docs/images/*.png. Needs Playwright and a Chromium; takes two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from socket import create_server

import httpx
import numpy as np
import soundfile
import soxr
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backends import children  # noqa: E402
from scripts.bootstrap import wait_until_ready  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SENTENCE = "Please open the front door before you leave."
LONG_SENTENCE = (
    "Please open the front door before you leave, and take the letters from the table in the hall, because nobody else "
    "will be here tomorrow morning."
)
SAID = ("Do you remember how the novel begins?", "And how does it go on from there?")
READ = ((1.0, 4.7), (4.9, 8.5))  # seconds of the recording, a sentence each
WIDTHS = ((1160, ""), (390, "-phone"))  # pixels, and what the picture's name ends in
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
LIVE = """
offline = true
[deployments."whisper-1"]
backend = "whisper"
model = "whisper-base"
device = "cpu"
preload = true
"""


@contextlib.contextmanager
def server(config: Path = ROOT / "examples" / "all-tiny.toml") -> Iterator[str]:
    """The address of a server; usually with all four families from the tests' checkpoints."""
    with create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    command = children.command("app", "serve", "--port", port, "--config", str(config))
    with subprocess.Popen(
        command, env=children.environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            if not wait_until_ready(process, address):
                raise SystemExit("the server did not start")
            yield address
        finally:
            process.terminate()
            process.wait(60)


def spoken(address: str, folder: Path, sentence: str) -> Path:
    """A recording of a sentence, in the place of the one before."""
    body = {"model": "embedded-tts", "input": sentence, "voice": "alloy", "response_format": "wav"}
    answer = httpx.post(f"{address}/v1/audio/speech", json=body, headers={"api-key": "local"}, timeout=60)
    file = folder / "sentence.wav"
    file.write_bytes(answer.raise_for_status().content)
    return file


def transcribe(page: Page, recording: Path) -> None:
    """The tab after a transcription with the times of words, by the recogniser that comes with the server."""
    page.get_by_role("tab", name="Transcribe").click()
    _choose(page, "embedded-asr")
    page.locator("input[type=file]").first.set_input_files(recording)
    page.get_by_label("Show when each word is said").check()
    _press(page, "Transcribe")


def speak(page: Page) -> None:
    """The tab after the built-in voice has spoken."""
    page.get_by_role("tab", name="Speak", exact=True).click()
    _choose(page, "embedded-tts")
    page.get_by_role("textbox", name="Text", exact=True).fill(SENTENCE)
    _press(page, "Speak")


def conversation(address: str, folder: Path) -> Path:
    """The built-in voice and the reader of a recording that comes with the packages `speakers`, in turn."""
    package = metadata.distribution("moonshine-voice")
    novel, rate = soundfile.read(str(package.locate_file("moonshine_voice/assets/two_cities.wav")), dtype="float32")
    parts = []
    for sentence, (start, end) in zip(SAID, READ, strict=True):
        voice, own = soundfile.read(spoken(address, folder, sentence), dtype="float32")
        pause = np.zeros(rate // 2, np.float32)
        parts += [soxr.resample(voice, own, rate), pause, novel[int(start * rate) : int(end * rate)], pause]
    file = folder / "conversation.wav"
    soundfile.write(file, np.concatenate(parts), rate)
    return file


def speakers(page: Page, recording: Path) -> None:
    """The tab after two voices were told apart and named."""
    page.get_by_role("tab", name="Speakers").click()
    page.locator("#conversation input[type=file]").set_input_files(recording)
    page.get_by_role("button", name="Remove audio").or_(page.get_by_label("Clear")).filter(
        visible=True
    ).first.wait_for()
    page.get_by_role("button", name="Who says what").click()
    page.locator("#turns .sg-turn").first.wait_for()
    for letter, name in (("A", "Joe"), ("B", "Reader")):
        page.get_by_label(f"Name of {letter}").fill(name)
    page.wait_for_timeout(1500)


def live(folder: Path) -> None:
    """The tab Live on a desk and on a phone, in the middle of a turn behind a whole one, written down by a published
    Whisper. The browser's microphone is a recording of the built-in voice, over and over."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        config = Path(temporary) / "live.toml"
        config.write_text(LIVE, encoding="utf-8")
        with server(config) as address:
            recording = with_pause(spoken(address, Path(temporary), LONG_SENTENCE))
            arguments = [*_MICROPHONE, f"--use-file-for-fake-audio-capture={recording}"]
            with launched(playwright, *arguments) as browser:
                for width, suffix in WIDTHS:
                    page = opened(browser, address, width)
                    page.get_by_role("tab", name="Live").click()
                    page.get_by_role("button", name="Start", exact=True).filter(visible=True).click()
                    later = page.locator("#sg-live-turns .sg-turn:not(:first-child) .sg-unsure")
                    later.filter(has_text=" ").first.wait_for()
                    save(page, f"live{suffix}", folder)
                    page.close()


def with_pause(recording: Path) -> Path:
    """The recording with a second of silence behind it, in which a turn ends."""
    samples, rate = soundfile.read(recording)
    soundfile.write(recording, np.concatenate([samples, np.zeros(rate)]), rate)
    return recording


def health(page: Page) -> None:
    page.get_by_role("tab", name="Health").click()
    page.get_by_role("button", name="Refresh").click()
    page.wait_for_timeout(1000)


def _choose(page: Page, deployment: str) -> None:
    page.get_by_role("tabpanel").filter(visible=True).get_by_label("Deployment").first.click()
    page.get_by_role("option", name=deployment).filter(visible=True).click()


def _press(page: Page, button: str) -> None:
    """Press it and wait for the note and the picture of the answer."""
    page.get_by_role("button", name=button, exact=True).filter(visible=True).click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.locator(".sg-note").first.wait_for()
    panel.locator("img").first.wait_for()
    page.wait_for_timeout(1500)  # the player draws its waveform, and the strip learns what is loaded


def save(page: Page, name: str, folder: Path) -> None:
    """The whole page as a PNG without transparency."""
    file = folder / f"{name}.png"
    page.mouse.move(0, 0)
    page.screenshot(path=file, full_page=True)
    Image.open(file).convert("RGB").save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def launched(playwright: Playwright, *arguments: str) -> Browser:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    return playwright.chromium.launch(executable_path=chromium, args=[*_ARGUMENTS, *arguments])


def opened(browser: Browser, address: str, width: int) -> Page:
    """The server's page in a window of this width."""
    page = browser.new_page(viewport={"width": width, "height": 800}, locale="en-US")
    page.set_default_timeout(180_000)
    page.goto(f"{address}/ui/")
    return page


def shoot(address: str, folder: Path) -> None:
    """Four tabs on a desk, and transcription on a phone."""
    with (
        tempfile.TemporaryDirectory() as temporary,
        sync_playwright() as playwright,
        launched(playwright) as browser,
    ):
        talk = conversation(address, Path(temporary))
        recording = spoken(address, Path(temporary), SENTENCE)
        for width, suffix in WIDTHS:
            page = opened(browser, address, width)
            page.get_by_text("models loaded").or_(page.get_by_text("model loaded")).wait_for()
            transcribe(page, recording)
            save(page, f"transcribe{suffix}", folder)
            if suffix:
                continue
            speakers(page, talk)
            save(page, "speakers", folder)
            speak(page)
            save(page, "speak", folder)
            health(page)
            save(page, "health", folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="", help="of a running server; one is started without it")
    parser.add_argument("--folder", type=Path, default=IMAGES)
    parser.add_argument("--live", action="store_true", help="only the tab Live, whose server is its own")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if not given.live:
        with contextlib.nullcontext(given.address) if given.address else server() as address:
            shoot(address, given.folder)
    live(given.folder)


if __name__ == "__main__":
    main()
