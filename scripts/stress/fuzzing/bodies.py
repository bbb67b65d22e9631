"""Hostile JSON: wrong types and values at every place of a body, broken texts, and base64 that is none.

Owns what a body can get wrong, above and below the level of JSON.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from scripts.stress.fuzzing.exchange import Case, damaged, forever, request
from scripts.stress.fuzzing.ordinary import tone

RECORDING = tone(0.5)
HUGE = 10**400
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 2**31, 2**63, 2**64, -(2**63) - 1, HUGE, 1e308, "", " ", "\x00", "²",
    "٣",
    "x" * 5000, "a\ud800b", "\ufeff", "😀", "NaN", "1e400", "0", "--5", "true", [], {}, [None], [[]], {"id": None},
    {"id": ""},
    {"id": 5}, {"": ""}, ["text"], ["text", "audio"], ["audio"], [0] * 2000, "../../etc/passwd", "\r\nx: y", "ask",
    "speak",
    "hear", "alloy",
)  # fmt: skip
KEYS: tuple[str, ...] = (
    "n", "tools", "logprobs", "stop", "seed", "stream", "stream_options", "temperature", "top_p", "max_tokens",
    "modalities",
    "max_completion_tokens", "audio", "user", "metadata", "response_format", "speed", "instructions", "stream_format",
    "context", "options", "reference_audio", "reference_text", "voice", "input", "messages", "model", "data_sources",
    "top_logprobs", "__class__",
)  # fmt: skip
OPTIONS: tuple[str, ...] = (
    "temperature", "top_k", "top_p", "steps", "block_length", "max_new_tokens", "repetition_penalty", "lora", "cfg",
    "speed",
    "pitch", "min_p", "guidance", "remasking", "gen_length", "beams", "vad", "volume",
)  # fmt: skip
BROKEN: tuple[bytes, ...] = (
    b"", b" ", b"null", b"[]", b"5", b'"x"', b"NaN", b"{", b"}", b"{}", b"{'a':1}", b'{"a":1,}', b'{"a":NaN}',
    b'{"a":Infinity}', b'{"a":1 /* */}', b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b'{"a":"\xff"}', b'{"a":"\x01"}',
    b'{"a":01}', b'{"a":1e400}', b'{"a":-}', b'{"model":"speak","input":"\\ud800","voice":"alloy"}',
    b'{"model":"speak","model":5,"input":"a","input":[],"voice":"alloy"}',
    b'{"model":"speak","input":"a","voice":"alloy","seed":' + b"9" * 6000 + b"}", b"[" * 200_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b'{"model":"speak","input":"a","voice":"alloy","options":' + b'{"a":' * 500 + b"1" + b"}" * 501,
    b'{"model":"ask","messages":' + b"[" * 500 + b"]" * 501, b'{"a":"' + b"x" * 3_000_000 + b'"}',
    b"{" + b'"a":1,' * 100_000 + b'"b":2}', b'{"\\u0000":1,"model":"\\u0000"}',
    b'{"model":"speak","input":"a","voice":"alloy","speed":' + b"1" * 400 + b"}",
)  # fmt: skip


class BodyBudget:
    """speech, chat: names of the deployments that are asked, more than one if real models are there too."""

    def __init__(self, speech: Sequence[str] = ("speak",), chat: Sequence[str] = ("ask",)) -> None:
        self._speech, self._chat = speech, chat

    def json_cases(self, chance: Random) -> Iterator[Case]:
        """Bodies that are wrong JSON, or right JSON with something wrong in it."""
        return forever(chance, self._odd, self._odd, self._odd, self._odd_options, self._injured, self._broken)

    def base64_cases(self, chance: Random) -> Iterator[Case]:
        """Audio inside a body whose base64, or what it decodes to, is wrong."""
        return forever(chance, self._bad_base64)

    def _speech_body(self, chance: Random) -> tuple[bytes, dict[str, Any]]:
        body: dict[str, Any] = {"model": chance.choice(self._speech), "input": "Hello there.", "voice": "alloy"}
        further: dict[str, Any] = {
            "response_format": "wav",
            "speed": 1.0,
            "stream_format": "sse",
            "instructions": "Softly.",
            "seed": 4,
        }
        further["context"] = [{"speaker": "a", "text": "Earlier.", "audio": _encoded(RECORDING)}]
        further |= {"reference_audio": _encoded(RECORDING), "reference_text": "Hello."}
        return b"/v1/audio/speech", body | {k: v for k, v in further.items() if chance.random() < 0.25}

    def _chat_body(self, chance: Random) -> tuple[bytes, dict[str, Any]]:
        sound = {"type": "input_audio", "input_audio": {"data": _encoded(RECORDING), "format": "wav"}}
        messages: list[Any] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Well?"}, sound]},
        ]
        further = {
            "stream": True, "max_tokens": 5, "temperature": 0.5, "seed": 3, "stop": ["x"], "modalities": ["text",
            "audio"],
            "audio": {"voice": "alloy", "format": "wav"}, "stream_options": {"include_usage": True},
        }  # fmt: skip
        body = {"model": chance.choice(self._chat), "messages": messages, "max_tokens": 8}
        return b"/v1/chat/completions", body | {k: v for k, v in further.items() if chance.random() < 0.25}

    def _good(self, chance: Random) -> tuple[bytes, dict[str, Any]]:
        return chance.choice((self._speech_body, self._chat_body))(chance)

    def _odd(self, chance: Random) -> Case:
        path, body = self._good(chance)
        body = copy.deepcopy(body)
        changes = [_change(body, chance) for _ in range(chance.choice((1, 1, 1, 2, 4)))]
        return Case(f"{path.decode()} {', '.join(changes)}", request(path, _text(body), b"application/json"))

    def _odd_options(self, chance: Random) -> Case:
        path, body = self._good(chance)
        body["options"] = {chance.choice(OPTIONS): chance.choice(ODD) for _ in range(chance.choice((1, 2, 5)))}
        return Case(
            f"{path.decode()} options {str(body['options'])[:100]}", request(path, _text(body), b"application/json")
        )

    def _injured(self, chance: Random) -> Case:
        path, body = self._good(chance)
        return Case(
            f"{path.decode()} damaged JSON", request(path, damaged(_text(body), chance, 4), b"application/json")
        )

    def _broken(self, chance: Random) -> Case:
        path, body = chance.choice((b"/v1/audio/speech", b"/v1/chat/completions")), chance.choice(BROKEN)
        kind = chance.choice(
            (b"application/json", b"application/json; charset=utf-16", b"text/plain", b"application/json;;;")
        )
        return Case(f"{path.decode()} {body[:60]!r}", request(path, body, kind))

    def _bad_base64(self, chance: Random) -> Case:
        text, note = _bad_text(chance)
        if chance.random() < 0.7:
            path, body = self._chat_body(chance)
            body["messages"][1]["content"][1]["input_audio"]["data"] = text
        else:
            path, body = self._speech_body(chance)
            body[chance.choice(("reference_audio", "reference_audio", "context"))] = text
            if chance.random() < 0.5:
                body["context"] = [{"text": "Earlier.", "audio": text}]
        return Case(f"{path.decode()} {note}", request(path, _text(body), b"application/json"))


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _text(body: Any) -> bytes:
    """As ASCII, so that halves of surrogate pairs travel as escapes."""
    return json.dumps(body).encode("ascii")


def _change(body: dict[str, Any], chance: Random) -> str:
    """Put something odd at a random place. Returns what was done."""
    value = copy.deepcopy(chance.choice(ODD))
    if chance.random() < 0.3:
        key = chance.choice(KEYS)
        body[key] = value
        return f"{key} = {_shown(value)}"
    place, container, at = chance.choice(list(_places(body, "")))
    if chance.random() < 0.15:
        del container[at]
        return f"without {place}"
    container[at] = value
    return f"{place} = {_shown(value)}"


def _shown(value: Any) -> str:
    return "10**400" if value == HUGE else repr(value)[:40]


def _places(value: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Path, container and key of every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield f"{path}/{key}", value, key
        yield from _places(inner, f"{path}/{key}")


def _bad_text(chance: Random) -> tuple[str, str]:
    """A text that is no good base64 of audio, and what is wrong with it."""
    good = _encoded(RECORDING)
    some = chance.randrange(len(good))
    texts = {
        "cut": good[:some],
        "without padding": good.rstrip("="),
        "padding in the middle": good[:some] + "==" + good[some:],
        "more padding": good + "=" * chance.choice((1, 2, 50)),
        "URL alphabet": good.replace("+", "-").replace("/", "_"),
        "foreign character": good[:some] + chance.choice("!*é😀\x00 \t\ud800") + good[some:],
        "line ends": "\r\n".join(good[i : i + 76] for i in range(0, len(good), 76)),
        "data URL": f"data:audio/wav;base64,{good}",
        "data URL without data": chance.choice(("data:", "data:,", "data:audio/wav;base64", "data:audio/wav;base64,")),
        "empty": chance.choice(("", " ", "=", "====", "\n")),
        "no audio": _encoded(chance.randbytes(chance.choice((1, 3, 1000)))),
        "damaged audio": _encoded(damaged(RECORDING, chance)),
        "damaged text": damaged(good.encode(), chance).decode("latin-1"),
        "twice": _encoded(good.encode()),
    }
    if chance.random() < 0.01:
        texts = {"huge": "A" * 24_000_000}
    note = chance.choice(sorted(texts))
    return texts[note], note
