"""The command line's own HTTP client, on the standard library alone.

Owns requests, multipart bodies, server-sent events and what an error answer means. Knows no command and no terminal.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

from app.commands.files import write_whole
from app.http.certificates import certificate_files

API_VERSION = "2024-10-21"
_CONNECT_SECONDS = 3.0
_PROGRESS = b": progress "
_NONE: Mapping[str, str] = MappingProxyType({})
# What a person at the command line can do about an error of the server, by its code.
_HINTS: Mapping[str, str] = MappingProxyType(
    {
        "DeploymentNotFound": "Names that this server knows: speech-gateway models",
        "model_not_found": "Names that this server knows: speech-gateway models",
        "401": "Give the server's key with --key, or in the variable SPEECH_GATEWAY_KEY.",
    }
)
_PIECE = 64 * 1024  # bytes read at a time


class CallFailed(Exception):
    """The server cannot be reached or answered with an error; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer; header names are lower case."""

    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Calls one server. key: any text where the server has no configured keys."""

    def __init__(self, url: str, key: str) -> None:
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise CallFailed(f"{url!r} is no address of a server: {error}; write http://HOST:PORT") from error
        if parts.scheme not in ("http", "https") or not host:
            raise CallFailed(f"{url!r} is no address of a server; write http://HOST:PORT")
        if not key.isprintable():
            raise CallFailed("the key holds a line break or another character that no header can carry")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._secure, self._host, self._port = parts.scheme == "https", host, port
        self._prefix, self.key = parts.path.rstrip("/"), key

    def get(self, path: str) -> Answer:
        with self._exchange("GET", path) as answer:
            return Answer(answer.read(), _headers(answer))

    def post_json(self, path: str, document: Mapping[str, Any]) -> Answer:
        with self._exchange("POST", path, json.dumps(document).encode(), "application/json") as answer:
            return Answer(answer.read(), _headers(answer))

    def post_file(self, path: str, file: Path, fields: Mapping[str, str]) -> Answer:
        body, content_type = multipart(file.name, file.read_bytes(), fields)
        with self._exchange("POST", path, body, content_type) as answer:
            return Answer(answer.read(), _headers(answer))

    def stream_to(self, path: str, document: Mapping[str, Any], file: Path) -> Answer:
        """Write the answer's body to `file` as it comes; a broken-off answer leaves no file. Raises NotWritten, too."""
        with self._exchange("POST", path, json.dumps(document).encode(), "application/json") as answer:
            write_whole(iter(lambda: answer.read1(_PIECE), b""), file)
            return Answer(b"", _headers(answer))

    def events(
        self, path: str, document: Mapping[str, Any], on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects of a server-sent event stream; the server's progress comments go to `on_progress`.

        Raises CallFailed for an error event.
        """
        progress_header = {"x-gateway-progress": "1"}
        with self._exchange("POST", path, json.dumps(document).encode(), "application/json", progress_header) as answer:
            for line in answer:
                if line.startswith(_PROGRESS):
                    done, _, total = line.removeprefix(_PROGRESS).partition(b"/")
                    on_progress(int(done), int(total))
                data = line.decode("utf-8").removeprefix("data:").strip()
                if not line.startswith(b"data:") or data == "[DONE]":
                    continue
                event: dict[str, Any] = json.loads(data)
                if event.get("error"):
                    raise CallFailed(str(event["error"].get("message", event["error"])))
                yield event

    def socket_url(self, path: str) -> str:
        """The address of a WebSocket of this server."""
        return f"ws{self.url.removeprefix('http')}{self._prefix}{path}"

    def trust(self) -> ssl.SSLContext | None:
        """Whom to believe under TLS: this machine's own certificate beside the system's. None without TLS."""
        if not self._secure:
            return None
        trust = ssl.create_default_context()
        if (authority := certificate_files().authority).is_file():
            trust.load_verify_locations(authority)
        return trust

    def unreachable(self, error: Exception) -> CallFailed:
        """What a failed connection is for the user."""
        hint = ""
        if isinstance(error, ConnectionRefusedError):
            hint = " Is it running? Start it with: speech-gateway serve"
        elif isinstance(error, ssl.SSLCertVerificationError):
            hint = " On the server's machine, speech-gateway certificate tells how to trust it."
        return CallFailed(f"no answer from {self.url}: {error or type(error).__name__}.{hint}")

    def _connection(self) -> http.client.HTTPConnection:
        """Not yet connected."""
        if (trust := self.trust()) is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=_CONNECT_SECONDS)
        return http.client.HTTPSConnection(self._host, self._port, timeout=_CONNECT_SECONDS, context=trust)

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "", more: Mapping[str, str] = _NONE
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection()
        headers: dict[str, str | bytes] = {"api-key": self.key.encode("utf-8"), "accept": "*/*"}  # as curl sends it
        headers |= ({"content-type": content_type} if content_type else {}) | dict(more)
        try:
            connection.connect()
            connection.sock.settimeout(None)  # a long recording may take long; the server has its own limits
            connection.request(method, self._prefix + path, body, headers)
            answer = connection.getresponse()
            if answer.status >= 400:
                raise CallFailed(error_text(answer.status, answer.read()))
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise self.unreachable(error) from error
        finally:
            connection.close()


def deployment_path(deployment: str, operation: str) -> str:
    """Return Azure's path of an operation of a deployment."""
    return f"/openai/deployments/{quote(deployment, safe='')}/{operation}?api-version={API_VERSION}"


def multipart(name: str, data: bytes, fields: Mapping[str, str]) -> tuple[bytes, str]:
    """Build a form with `fields` and the file `name`. Returns it with its content type."""
    boundary = secrets.token_hex(16)
    field = '--{}\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    parts = [field.format(boundary, key, value).encode() for key, value in fields.items()]
    shown = name.replace('"', "_").replace("\r", "_").replace("\n", "_")
    disposition = f'Content-Disposition: form-data; name="file"; filename="{shown}"'
    head = f"--{boundary}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n"
    body = b"".join([*parts, head.encode(), data, f"\r\n--{boundary}--\r\n".encode()])
    return body, f"multipart/form-data; boundary={boundary}"


def _headers(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}


def error_text(status: int, body: bytes) -> str:
    """What an error answer says, and what to do about it."""
    try:
        error = json.loads(body)["error"]
        code, message = error.get("code"), error.get("message")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the server answered with status {status}"
    hint = next((_HINTS[key] for key in (str(code), str(status)) if key in _HINTS), "")
    text = f"{message} ({status}{f' {code}' if code and str(code) != str(status) else ''})"
    return f"{text}\n{hint}" if hint else text
