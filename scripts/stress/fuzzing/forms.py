"""Hostile multipart forms: a grammar of everything that a boundary, a part's head, a field and a transfer can get
wrong."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from scripts.stress.fuzzing.exchange import Case, damaged, forever, request
from scripts.stress.fuzzing.ordinary import tone

RECORDING = tone(0.5)
OPERATIONS = (
    b"/v1/audio/transcriptions",
    b"/v1/audio/translations",
    b"/v1/audio/speech",
    b"/v1/audio/watermark/detect",
)
BOUNDARIES = (
    b"edge",
    b"x" * 70,
    b"x" * 300,
    b'"a b;c"',
    b"'()+_,-./:=?",
    b"-",
    b"--",
    b"\xe9",
    b'""',
    b"",
    b'"',
    b"=",
    b"edge ",
)
NAMES = (
    b"file", b"model", b"prompt", b"language", b"response_format", b"temperature", b"stream", b"include[]", b"input",
    b"voice",
    b"timestamp_granularities[]", b"timestamp_granularities", b"timestamp_granularities[0]", b"chunking_strategy",
    b"seed",
    b"chunking_strategy[type]", b"chunking_strategy[threshold]", b"chunking_strategy[", b"chunking_strategy[]",
    b"speed",
    b"known_speaker_names[]", b"known_speaker_references[]", b"keywords[]", b"languages[]", b"options", b"context", b"",
    b"reference_audio", b"reference_text", b"filename", b"\xff\xfe", b"a" * 5000, b"__proto__", b"[0]", b"[",
    b"stream_format",
)  # fmt: skip
VALUES = (
    b"", b" ", b"hear", b"speak", b"auto", b"json", b"text", b"srt", b"verbose_json", b"vtt", b"diarized_json", b"word",
    b"true", b"True", b"maybe", b"0", b"1", b"-1", b"0.5", b"nan", b"inf", b"1e400", b"9" * 5000, b"\xc2\xb2",
    b"\xd9\xa3",
    b"--5", b"en", b"english", b"xx", b"logprobs", b'["word"]', b"[" * 3000, b'{"type":"server_vad"}', b'{"a":' * 3000,
    b"{",
    b'"\\ud800"', b"\x00", b"\xff\xfe", b"\r\n", b"--edge", b"\r\n--edge", b"data:audio/wav;base64,AAAA", b"data:,",
    b"x" * 5000, b"[null]", b"[1,2]", b'{"type":"server_vad","threshold":9}', b'{"type":null}', b"\xf0\x9f\x98\x80",
    b"alloy",
    b"pcm", b"sse", b"4096",
)  # fmt: skip
FILENAMES = (
    b'; filename="a.wav"', b"; filename=a.wav", b'; filename=""', b"; filename=", b'; filename="a',
    b'; filename="..\\..\\etc"',
    b"; filename*=UTF-8''%e6%97%a5.wav", b"; filename*=utf-16''%ff%fe", b"; filename*=nothing",
    b"; filename*=UTF-8''%zz%",
    b"; filename*=''", b"; filename*", b'; filename="\xff\x00"', b"; FILENAME=x", b'; filename="' + b"x" * 9000 + b'"',
    b"",
    b"",
)  # fmt: skip
HEADERS = (
    b"Content-Type: audio/wav", b"Content-Type: multipart/mixed; boundary=inner", b"Content-Transfer-Encoding: base64",
    b"Content-Transfer-Encoding: quoted-printable", b"X: " + b"y" * 20_000, b"no colon at all", b" folded: line", b":",
    b"\x00: \xff", b"Content-Disposition: attachment", b"Content-Length: 5",
    b"Content-Type: text/plain; charset=utf-16",
)  # fmt: skip


def cases(chance: Random) -> Iterator[Case]:
    """Forms without end."""
    return forever(chance, _field, _field, _field, _one, _one, _one, _injured, _many)


def _field(chance: Random) -> Case:
    """A form that is right but for one or two fields."""
    odd = [(chance.choice(NAMES), chance.choice(VALUES)) for _ in range(chance.choice((1, 1, 2)))]
    parts = [_good_part(name, value) for name, value in odd]
    parts.insert(chance.randint(0, len(parts)), _good_part(b"file", RECORDING, chance.choice(FILENAMES)))
    parts.insert(chance.randint(0, len(parts)), _good_part(b"model", b"hear"))
    body = b"".join(b"--edge\r\n" + part for part in parts) + b"--edge--\r\n"
    return Case(f"fields {odd!r}"[:150], request(OPERATIONS[0], body, b"multipart/form-data; boundary=edge"))


def _one(chance: Random) -> Case:
    boundary = chance.choice(BOUNDARIES) if chance.random() < 0.2 else b"edge"
    bare = boundary.strip(b'"')
    parts = [_part(chance) for _ in range(chance.choice((0, 1, 2, 3, 6)))]
    if chance.random() < 0.7:
        parts.insert(chance.randint(0, len(parts)), _good_part(b"file", RECORDING, b'; filename="a.wav"'))
        parts.append(_good_part(b"model", b"hear"))
    return _sent(chance, _joined(chance, bare, parts), boundary, f"{len(parts)} parts, boundary {boundary[:20]!r}")


def _injured(chance: Random) -> Case:
    """A form that was right until something fell on it."""
    good = [_good_part(b"model", b"hear"), _good_part(b"file", RECORDING, b'; filename="a"')]
    body = b"".join(b"--edge\r\n" + part for part in good) + b"--edge--\r\n"
    return _sent(chance, damaged(body, chance, 6), b"edge", "damaged form")


def _many(chance: Random) -> Case:
    """Thousands of fields, or of almost boundaries."""
    count = chance.choice((999, 1001, 10_000))
    piece = chance.choice(
        (_good_part(b"a", b""), _good_part(b"timestamp_granularities[]", b"word"), b"\r\n--edg", b"\r\n--edgeX")
    )
    body = b"".join(b"--edge\r\n" + piece for _ in range(count)) + b"--edge--\r\n"
    return _sent(chance, body, b"edge", f"{count} x {piece[:60]!r}")


def _good_part(name: bytes, value: bytes, filename: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"' + filename + b"\r\n\r\n" + value + b"\r\n"


def _part(chance: Random) -> bytes:
    name = chance.choice(NAMES)
    shape = chance.choice(
        (b'name="%s"', b'name="%s"', b'name="%s"', b"name=%s", b"name='%s'", b'name="%s', b"%s", b'NAME="%s"')
    )
    kind = chance.choice((b"form-data", b"form-data", b"form-data", b"attachment", b""))
    filename = chance.choice(FILENAMES) if chance.random() < 0.3 else b""
    headers = [b"Content-Disposition: " + kind + b"; " + shape.replace(b"%s", name) + filename]
    headers += chance.choices(HEADERS, k=chance.choice((0, 0, 0, 1, 2)))
    chance.shuffle(headers)
    line = chance.choice((b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n"))
    value = _value(chance)
    return line.join(headers) + line * 2 + value + (b"\r\n" if chance.random() < 0.95 else b"")


def _value(chance: Random) -> bytes:
    roll = chance.random()
    if roll < 0.7:
        return chance.choice(VALUES)
    if roll < 0.8:
        inner = b"--inner\r\nContent-Disposition: form-data; name=file; filename=x\r\n\r\n"
        return inner + RECORDING + b"\r\n--inner--"
    return chance.choice((RECORDING, damaged(RECORDING, chance), chance.randbytes(chance.choice((0, 1, 100, 70_000)))))


def _joined(chance: Random, boundary: bytes, parts: list[bytes]) -> bytes:
    before = chance.choice((b"", b"", b"", b"preamble", b"\r\n", b"--", b"--" + boundary[:3]))
    gap = chance.choice((b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"", b"  \r\n", b" junk\r\n"))
    end = chance.choice((b"--\r\n", b"--\r\n", b"--\r\n", b"--", b"", b"-", b"--junk", b"\r\n", b"--\r\n" * 3))
    return before + b"".join(b"--" + boundary + gap + part for part in parts) + b"--" + boundary + end


def _sent(chance: Random, body: bytes, boundary: bytes, note: str) -> Case:
    path = chance.choice(OPERATIONS) if chance.random() < 0.3 else OPERATIONS[0]
    kinds = (b"multipart/form-data; boundary=" + boundary,) * 6 + (
        b"multipart/form-data", b"multipart/form-data; boundary", b"MULTIPART/FORM-DATA; BOUNDARY=" + boundary,
        b"multipart/form-data; boundary=a; boundary=" + boundary, b"multipart/mixed; boundary=" + boundary,
    )  # fmt: skip
    kind = chance.choice(kinds)
    note = f"{path.decode()}: {note}"
    roll = chance.random()
    if roll < 0.65:
        return Case(note, request(path, body, kind))
    if roll < 0.72:
        return Case(f"{note}, length too large", request(path, body, kind, length=len(body) + 10), complete=False)
    if roll < 0.78:
        return Case(f"{note}, length too small", request(path, body, kind, length=max(0, len(body) - 10)))
    return _chunked(chance, path, body, kind, note)


def _chunked(chance: Random, path: bytes, body: bytes, kind: bytes, note: str) -> Case:
    size = chance.choice((1, 7, 1000, 65_536)) if len(body) < 30_000 else 20_000
    extension = chance.choice((b"", b"", b";name=value", b";" + b"x" * 500))
    pieces = [
        b"%x" % len(p) + extension + b"\r\n" + p + b"\r\n"
        for p in (body[i : i + size] for i in range(0, len(body), size))
    ]
    end = chance.choice(
        (b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b"", b"0\r\n", b"zz\r\n", b"-1\r\n\r\n", b"f" * 17)
    )
    complete = end.startswith(b"0\r\n") and end.endswith(b"\r\n\r\n")
    head = request(path, b"", kind, b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    return Case(f"{note}, chunks of {size} ending {end[:8]!r}", head + b"".join(pieces) + end, complete=complete)
