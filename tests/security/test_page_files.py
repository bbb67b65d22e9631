"""The page opens no file but its own, asks for the key first, and takes no more than there is room for."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from app.ui import temp_files as temp_files_module
from app.ui.handlers import Handlers
from app.ui.temp_files import PageFull, TempFiles
from app.ui.uploads import UploadRoom
from backends import children
from scripts.stress.gateway_process import unexpected
from tests.support.audio import wav_of
from tests.support.server import server_process

pytest.importorskip("gradio")

KEY = "the-right-key"
API = "/ui/gradio_api"
CONFIG = """
offline = true
[deployments.fake-asr]
backend = "fake"
task = "transcription"
[deployments.fake-chat]
backend = "fake"
task = "chat"
"""
LOCKED = f'{CONFIG}\n[server]\napi_keys = [{{ name = "anna", key = "{KEY}" }}]\n'


@dataclass(frozen=True)
class Server:
    """A server process. temporary: its folder for temporary files."""

    url: str
    temporary: Path

    def page_files(self) -> list[Path]:
        return [path for path in self.temporary.glob("speech-gateway-page-*/**/*") if path.is_file()]


@contextmanager
def _serving(folder: Path, config: str) -> Iterator[Server]:
    """Not in this process: Gradio leaves sockets and loops behind, which are errors here."""
    file, temporary = folder / "gateway.toml", folder / "temporary"
    temporary.mkdir()
    file.write_text(config, encoding="utf-8")
    environment = children.environment(extra=dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary)))
    with server_process(folder / "log", "--config", str(file), environment=environment) as url:
        yield Server(url, temporary)


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _serving(tmp_path_factory.mktemp("open"), CONFIG) as server:
        httpx.get(f"{server.url}{API}/info", timeout=120)  # the page is built
        yield server


@pytest.fixture(scope="module")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _serving(tmp_path_factory.mktemp("locked"), LOCKED) as server:
        yield server


def _data(handler: str, file: dict[str, Any] | None) -> list[Any]:
    """What the page sends for a handler; the key is that of the login or, without api_keys, any."""
    if handler == "transcribe":
        return ["any", "fake-asr", file, "As spoken", "", "", "text", False]
    if handler == "ask":
        return ["any", "fake-chat", file, "What is said?", 64]
    return ["any", "llasa-1b", "alloy", "text", "", 1.0, "wav", file, ""]


def _call(server: Server, handler: str, file: dict[str, Any] | None, headers: dict[str, str] | None = None) -> str:
    """The whole stream of events of a call, as text."""
    data = _data(handler, file)
    if headers:
        data[0] = ""
    answer = httpx.post(f"{server.url}{API}/call/{handler}", json={"data": data}, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    events = httpx.get(f"{server.url}{API}/call/{handler}/{answer.json()['event_id']}", headers=headers, timeout=60)
    return events.text


def _upload(server: Server, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.post(f"{server.url}{API}/upload", files={"files": ("a.wav", content)}, headers=headers, timeout=60)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "private.wav"
    path.write_bytes(wav_of(1.0))
    return path


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("handler", ["transcribe", "ask", "speak"])
@pytest.mark.parametrize("what", ["file", "folder", "device", "nothing", "address", "temp_files"])
def test_no_handler_opens_what_was_not_uploaded(
    open_server: Server, outside: Path, what: str, handler: str, streamed: bool
) -> None:
    paths = {"file": outside, "folder": outside.parent, "nothing": outside.parent / "none", "device": Path("/dev/zero")}
    temp_files = next(open_server.temporary.glob("speech-gateway-page-*"))
    path = {"address": f"{open_server.url}/health", "temp_files": str(temp_files)}.get(what) or str(paths[what])
    told = _call(open_server, handler, {"path": path, "is_stream": streamed, "meta": {"_type": "gradio.FileData"}})
    assert "event: error" in told or "not on the server" in told, told
    assert httpx.get(f"{open_server.url}/health/live").status_code == 200


@pytest.mark.parametrize("handler", ["transcribe", "ask", "speak"])
async def test_the_wall_of_our_own_stands_alone(outside: Path, handler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Gradio lets through: a link in the folder to a file outside, for one."""
    monkeypatch.setattr(Handlers, "clones", lambda self, deployment: True)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    temp_files = TempFiles()
    link = temp_files.folder / "link.wav"
    try:
        link.symlink_to(outside)
    except OSError:
        link.mkdir()  # links are not allowed here
    handlers = Handlers(None, {}, None, temp_files)  # type: ignore[arg-type]
    for path in (link, outside, temp_files.folder, temp_files.folder / ".." / outside.name, Path("\0")):
        answer = await getattr(handlers, handler)(*_data(handler, str(path)))  # type: ignore[arg-type]
        assert "Upload it again" in answer[1]
        assert str(path) not in answer[1]
    shutil.rmtree(temp_files.folder)


def test_an_upload_is_used(open_server: Server) -> None:
    path = _upload(open_server, wav_of(1.0)).json()[0]
    told = _call(open_server, "transcribe", {"path": path, "meta": {"_type": "gradio.FileData"}})
    assert "event: complete" in told, told
    assert "not on the server" not in told


def test_an_upload_that_has_gone_tells_no_path(open_server: Server) -> None:
    path = _upload(open_server, wav_of(1.1)).json()[0]
    Path(path).unlink()
    told = _call(open_server, "transcribe", {"path": path, "is_stream": True, "meta": {"_type": "gradio.FileData"}})
    assert "Upload it again" in told
    assert path not in told


def test_calls_that_the_page_cannot_understand_are_no_failures(open_server: Server) -> None:
    log = open_server.temporary.parent / "log"
    before = len(log.read_text(encoding="utf-8"))  # other tests let Gradio say more
    with httpx.Client(base_url=open_server.url, timeout=120) as visitor:
        few = visitor.post(f"{API}/call/transcribe", json={"data": ["any"]})
        assert (few.status_code, "needs 8 values" in few.text) == (422, True)
        unnamed = visitor.post(f"{API}/call/state", json={"data": [], "session_hash": ""})
        assert unnamed.status_code == 200
        assert "event: complete" in visitor.get(f"{API}/call/state/{unnamed.json()['event_id']}").text
        with (
            pytest.raises(httpx.RemoteProtocolError),
            visitor.stream("GET", f"{API}/queue/data?session_hash=no") as gone,
        ):
            gone.read()  # what Gradio finds wrong with a stream it finds once that has begun
    assert unexpected(log.read_text(encoding="utf-8")[before:]) == []


@pytest.mark.parametrize("headers", [{}, {"api-key": "wrong"}, {"cookie": "speech-gateway-page=wrong"}])
def test_without_a_key_nothing_is_stored_or_called(locked_server: Server, headers: dict[str, str]) -> None:
    answers = [_upload(locked_server, wav_of(0.9), headers)]
    for route in ("call/transcribe", "run/transcribe", "queue/join", "stream/x"):
        body = {"data": _data("transcribe", None), "session_hash": "s", "fn_index": 0}
        answers.append(httpx.post(f"{locked_server.url}{API}/{route}", json=body, headers=headers))
    answers += [
        httpx.get(f"{locked_server.url}{path}", headers=headers)
        for path in ("/ui/config", f"{API}/info", "/ui/assets/x")
    ]
    assert [answer.status_code for answer in answers] == [401] * len(answers)
    assert answers[0].json()["error"]["code"] == "invalid_api_key"
    stored = [path for path in locked_server.page_files() if path.read_bytes() == wav_of(0.9)]
    assert not stored


def test_a_browser_logs_in_with_the_form(locked_server: Server) -> None:
    with httpx.Client(base_url=locked_server.url, timeout=120) as browser:
        form = browser.get("/ui/")
        assert "name=key" in form.text
        assert form.headers["cache-control"] == "no-store"
        wrong = browser.post("/ui/login", data={"key": "wrong"})
        assert (wrong.status_code, browser.cookies.get("speech-gateway-page")) == (401, None)
        assert "not one of the server" in wrong.text
        right = browser.post("/ui/login", data={"key": KEY})
        assert (right.status_code, right.headers["location"]) == (303, "./")
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert KEY not in cookie
        assert browser.get(f"{API}/info").status_code == 200
        page = browser.get("/ui/")
        assert "gradio" in page.text
        path = browser.post(f"{API}/upload", files={"files": ("a.wav", wav_of(1.0))}).json()[0]
        session = {"cookie": f"speech-gateway-page={browser.cookies['speech-gateway-page']}"}
    told = _call(locked_server, "transcribe", {"path": path, "meta": {"_type": "gradio.FileData"}}, session)
    assert "That did not work" not in told, told
    assert "event: complete" in told


@pytest.mark.parametrize("headers", [{"api-key": KEY}, {"authorization": f"Bearer {KEY}"}])
def test_a_program_sends_its_key(locked_server: Server, headers: dict[str, str]) -> None:
    path = _upload(locked_server, wav_of(1.2), headers).json()[0]
    told = _call(locked_server, "transcribe", {"path": path, "meta": {"_type": "gradio.FileData"}}, headers)
    assert "event: complete" in told, told
    assert "That did not work" not in told, told


def test_a_foreign_page_cannot_log_in(locked_server: Server) -> None:
    answer = httpx.post(f"{locked_server.url}/ui/login", data={"key": KEY}, headers={"origin": "https://evil.example"})
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


@pytest.mark.parametrize("path", ["/ui/", "/docs"])
def test_no_other_site_may_frame_our_pages(locked_server: Server, path: str) -> None:
    answer = httpx.get(f"{locked_server.url}{path}", timeout=120)
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]


@pytest.fixture
def temp_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[TempFiles]:
    """On a disk with 60 MB free; 25 MB are the largest upload."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    temp_files, real = TempFiles(upload_bytes=25 << 20), shutil.disk_usage

    def sixty(path: Path) -> Any:
        used = sum(file.stat().st_size for file in temp_files.folder.rglob("*"))
        return real(path)._replace(free=(60 << 20) - used)

    monkeypatch.setattr(temp_files_module.shutil, "disk_usage", sixty)
    yield temp_files
    shutil.rmtree(temp_files.folder)


async def test_uploads_stop_while_half_of_the_disk_is_left(temp_files: TempFiles) -> None:
    async with temp_files.room_for(20 << 20, "anna"):
        with pytest.raises(PageFull, match="is full"):  # the first one counts before it has arrived
            async with temp_files.room_for(20 << 20, "ben"):
                pass
    (temp_files.folder / "anna.wav").write_bytes(bytes(20 << 20))
    with pytest.raises(PageFull, match=r"is full \(30 MB\)"):
        async with temp_files.room_for(20 << 20, "ben"):
            pass
    (temp_files.folder / "anna.wav").unlink()
    async with temp_files.room_for(20 << 20, "ben"):
        pass


async def test_one_visitor_leaves_room_for_another(temp_files: TempFiles) -> None:
    for _ in range(2):
        async with temp_files.room_for(10 << 20, "anna"):
            pass
    with pytest.raises(PageFull, match="Your uploads"):
        async with temp_files.room_for(10 << 20, "anna"):
            pass
    async with temp_files.room_for(10 << 20, "ben"):
        pass


@pytest.mark.parametrize("told", [True, False])
async def test_an_upload_without_room_is_answered_and_not_read(temp_files: TempFiles, told: bool) -> None:
    page = UploadRoom(PlainTextResponse("taken"), "/ui", temp_files, 50 << 20)

    async def pieces() -> Any:
        raise AssertionError("read")
        yield b""

    content: Any = bytes(50 << 20) if told else pieces()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=page), base_url="http://127.0.0.1") as client:
        answer = await client.post("/ui/gradio_api/upload", content=content)
        other = await client.post("/ui/gradio_api/queue/join", content=b"{}")
    assert (answer.status_code, answer.headers["connection"]) == (507, "close")
    assert json.loads(answer.text)["error"]["code"] == "insufficient_storage"
    assert other.text == "taken"


async def test_a_disk_that_others_fill_during_an_upload_is_told(temp_files: TempFiles) -> None:
    """As Gradio does: it answers 500, and raises what happened."""

    async def gradio(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
        raise OSError(errno.ENOSPC, "No space left on device")

    page = UploadRoom(gradio, "/ui", temp_files, 50 << 20)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=page), base_url="http://127.0.0.1") as client:
        answer = await client.post("/ui/gradio_api/upload", content=b"sound")
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")


async def test_another_error_of_the_page_stays_what_it_is(temp_files: TempFiles) -> None:
    page = UploadRoom(PlainTextResponse("broken", 500), "/ui", temp_files, 50 << 20)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=page), base_url="http://127.0.0.1") as client:
        answer = await client.post("/ui/gradio_api/upload", content=b"sound")
    assert (answer.status_code, answer.text) == (500, "broken")
