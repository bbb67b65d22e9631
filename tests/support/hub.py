"""A model hub on loopback that speaks what huggingface_hub needs: repository info and files with resume."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


class Hub:
    """Repositories: id -> {path: bytes}. break_after: the next transfers stop after so many bytes of a file."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, str] = {}
        self.gated: set[str] = set()
        self.break_after: int | None = None
        self.broken = 0
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.sends: dict[str, bytes] = {}  # path -> other content than is stated
        self.knows_ranges = True
        self.status = 0  # answer everything with this
        self.url = ""

    def commit(self, repository: str) -> str:
        return self.commits.get(repository, COMMIT)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if hub.status:
            self._json(hub.status, {"error": "told to fail"}, {})
            return
        parts = path.strip("/").split("/")
        api = parts[0] == "api"
        name = "/".join(parts[2:4] if api else parts[0:2])
        files = hub.repositories.get(name)
        if files is None:
            self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif name in hub.gated:
            self._json(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif api and "revision" in parts[4:5] and parts[5] not in ("main", hub.commit(name)):
            self._json(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
        elif api:
            self._api(name, files)
        else:
            self._file(name, files, "/".join(parts[4:]), body)

    def _api(self, name: str, files: dict[str, bytes]) -> None:
        siblings = [
            {"rfilename": path, "size": len(data), "blobId": _git_id(data), **_lfs(path, data)}
            for path, data in files.items()
        ]
        self._json(200, {"id": name, "modelId": name, "sha": self.hub.commit(name), "siblings": siblings}, {})

    def _file(self, name: str, files: dict[str, bytes], path: str, body: bool) -> None:
        if path not in files:
            self._json(
                404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.commit(name)}
            )
            return
        data, first = self.hub.sends.get(path, files[path]), 0
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and self.hub.knows_ranges:
            self.hub.ranges.append(wanted)
            first = int(wanted[6:].split("-")[0] or 0)
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{_git_id(data)}"')
        self.send_header("X-Repo-Commit", self.hub.commit(name))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if body:
            self._send(data[first:])

    def _send(self, data: bytes) -> None:
        limit = self.hub.break_after
        if limit is not None and len(data) > limit:
            self.hub.broken += 1
            self.wfile.write(data[:limit])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(data)

    def _json(self, status: int, value: Any, headers: dict[str, str]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in headers.items():
            self.send_header(key, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _lfs(path: str, data: bytes) -> dict[str, Any]:
    """Large files are told by their SHA-256."""
    if not path.endswith((".safetensors", ".bin")):
        return {}
    return {"lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # broken transfers are the point
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tensors(size: int = 1000, seed: int = 0) -> bytes:
    """A valid safetensors file with `size` bytes of one tensor."""
    head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(head).to_bytes(8, "little") + head + bytes((i * 7 + seed) % 251 for i in range(size))
