"""Hostile request heads: api-version strings, names in paths, methods, and headers of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from urllib.parse import quote_from_bytes

from scripts.stress.fuzzing.exchange import KEY, Case, damaged, forever

OPERATIONS = (
    "audio/transcriptions", "audio/translations", "audio/speech", "audio/models", "audio/voices",
    "audio/watermark/detect",
    "models", "chat/completions", "models/hear", "deployments", "deployments/hear", "realtime", "", "health", "metrics",
    "admin/unload/none", "admin/load/", "admin", "openapi.json", "docs", "favicon.ico", "health/live/", "../health",
    "embeddings",
)  # fmt: skip
PREFIXES = (
    "/openai/deployments/{}/",
    "/openai/",
    "/openai/v1/",
    "/openai/v1/deployments/{}/",
    "/v1/",
    "/",
    "//openai//",
    "/openai/deployments/",
)
NAMES: tuple[bytes, ...] = (
    b"hear", b"team/asr model", b".", b"..", b"../..", b"\x00", b"hear\x00", b"\r\n", b"a\r\nx: y", b"%", b"%00",
    b"%2e%2e",
    b"%25", b"\xff", "日本".encode(), b"a" * 8000, b" ", b"", b"?", b"#", b";", b"a;b=c", b"&", b"=", b"\\", b"C:\\x",
    b"|",
    b"<script>", b"'", b'"', b"{}", b"hear/", "\ud800".encode("utf-8", "surrogatepass"), "\u202e".encode(), b"hear.",
    b"HEAR",
    b"/", b"//", b"audio/speech", b"deployments",
)  # fmt: skip
VERSIONS: tuple[bytes, ...] = (
    b"2024-10-21", b"2025-04-01-preview", b"v1", b"preview", b"latest", b"", b"1", b"2024-10-21-preview", b"2024-02-30",
    b"9999-99-99", b"%00", b"%ff", b"2024-10-21%20", b"+2024-10-21", b"2024%2D10%2D21", "٢٠٢٤-10-21".encode(),
    b"x" * 9000,
    b"v1&api-version=2", b"'", b"%F0%9F%98%80", b"2024-10-21%0d%0ax: y", b"null", b"2024-10-21;v1", b"[]", b"V1",
    b"%ED%A0%80",
)  # fmt: skip
METHODS = (b"GET", b"POST", b"POST", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"PROPFIND")
HEADERS: tuple[bytes, ...] = (
    b"Host: evil.example", b"Host:", b"Host: [::1]:80", b"Host: 127.0.0.1:99999", b"Host: a b", b"Origin: null",
    b"Origin: http://evil.example", b"Origin: http://localhost", b"Origin: \xff",
    b"Access-Control-Request-Method: POST",
    b"Content-Type:", b"Content-Type: \xff\xfe", b"api-key:", b"Content-Type: application/json",
    b"Content-Type: multipart/form-data", b"Content-Type: multipart/form-data; boundary=x", b"api-key: \xff",
    b"Authorization: Bearer", b"Authorization: Basic cm9vdA==", b"Authorization: Bearer \xe9 \x09",
    b"x-ms-client-request-id: \xff\x09" + b"y" * 999, b"x-ms-client-request-id: a", b"Expect: 100-continue",
    b"Expect: 200-ok",
    b"Upgrade: websocket", b"Connection: upgrade", b"Connection: close, x", b"Range: bytes=0-", b"If-None-Match: *",
    b"Cookie: " + b"c" * 4000, b"x-gateway-progress: \xff", b"Accept: */*;q=\xff", b"Content-Encoding: gzip",
    b"Transfer-Encoding: identity", b"Forwarded: for=x", b"X-Forwarded-For: 1.1.1.1", b"Content-Length: 0",
    b"Content-Length: 00000", b"Keep-Alive: x", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__",
    b"User-Agent: \xf0\x9f",
    b"Accept-Language: ja",
)  # fmt: skip
MALFORMED: tuple[bytes, ...] = (
    b"\x00" * 20, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\nHost: x\n\n", b"get / http/1.1\r\n\r\n",
    b"GET  /  HTTP/1.1\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://x/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n", b"GET ? HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%zz%% HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost x\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nA : b\r\n\r\n", b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n", b"GET /v1/models HTTP/0.9\r\n\r\n", b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/audio/speech HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/audio/speech HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello",
    b"POST /v1/audio/speech HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
)  # fmt: skip


def head_cases(chance: Random) -> Iterator[Case]:
    """Request heads without end."""
    return forever(chance, _call, _call, _call, _injured, _malformed)


def version_cases(chance: Random) -> Iterator[Case]:
    """api-version strings without end."""
    return forever(chance, _version)


def name_cases(chance: Random) -> Iterator[Case]:
    """Names of deployments in paths, encoded well and badly, without end."""
    return forever(chance, _name)


def _path(chance: Random) -> bytes:
    return chance.choice(PREFIXES).format("hear").encode() + chance.choice(OPERATIONS).encode()


def _request(method: bytes, target: bytes, *headers: bytes, body: bytes = b"") -> Case:
    lines = [
        method + b" " + target + b" HTTP/1.1",
        b"Host: localhost",
        b"api-key: " + KEY.encode(),
        b"Connection: close",
    ]
    lines += headers
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    raw = b"\r\n".join(lines) + b"\r\n\r\n" + body
    note = f"{method.decode()} {target[:120]!r} {[header[:40] for header in headers]}"
    return Case(note, raw, method=method.decode())


def _version(chance: Random) -> Case:
    version = chance.choice(VERSIONS)
    if chance.random() < 0.4:
        version = quote_from_bytes(damaged(b"2024-10-21-preview", chance)).encode()
    name = chance.choice(
        (
            b"api-version",
            b"api-version",
            b"api-version",
            b"API-Version",
            b"api%2Dversion",
            b"api_version",
            b"api-version[]",
        )
    )
    query = (
        name
        + b"="
        + version
        + chance.choice((b"", b"", b"&api-version=v1", b"&&&", b"&=", b";", b"&%", b"&a=" + b"b" * 3000))
    )
    return _request(chance.choice((b"GET", b"POST")), _path(chance) + b"?" + query)


def _name(chance: Random) -> Case:
    name = chance.choice(NAMES) if chance.random() < 0.6 else damaged(b"hear/../asr model", chance)
    safe = chance.choice(("", "/", "/.%"))
    text = quote_from_bytes(name, safe).encode()
    if chance.random() < 0.2:
        text = text.lower() if chance.random() < 0.5 else quote_from_bytes(text).encode()
    prefix = chance.choice(
        (b"/openai/deployments/", b"/openai/v1/deployments/", b"/v1/models/", b"/openai/models/", b"/admin/unload/")
    )
    last = chance.choice((b"", b"/audio/speech", b"/chat/completions", b"/audio/transcriptions", b"/models", b"/"))
    version = chance.choice((b"?api-version=2024-10-21", b"?api-version=2024-10-21", b""))
    body, kind = (
        b'{"input":"a","voice":"alloy","messages":[{"role":"user","content":"a"}]}',
        b"Content-Type: application/json",
    )
    return _request(chance.choice((b"GET", b"POST")), prefix + text + last + version, kind, body=body)


def _call(chance: Random) -> Case:
    headers = chance.choices(HEADERS, k=chance.choice((0, 1, 2, 5)))
    if any(
        header.startswith((b"Expect", b"Transfer", b"Upgrade", b"Content-Length", b"Connection", b"Host", b"HTTP2"))
        for header in headers
    ):
        case = _request(chance.choice(METHODS), _path(chance), *headers)
        return Case(case.note, case.raw, complete=False, method=case.method)
    return _request(
        chance.choice(METHODS),
        _path(chance) + chance.choice((b"", b"?api-version=v1", b"?deep=1", b"?%", b"?" + b"a&" * 2000)),
        *headers,
    )


def _injured(chance: Random) -> Case:
    case = _call(chance)
    raw = damaged(case.raw, chance)
    return Case(f"damaged {case.note}", raw, complete=False, method=raw.partition(b" ")[0].decode("latin-1"))


def _malformed(chance: Random) -> Case:
    raw = chance.choice(MALFORMED)
    return Case(f"{raw[:80]!r}", raw, complete=False, method="GET")
