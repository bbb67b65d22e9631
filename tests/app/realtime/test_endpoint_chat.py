"""An external chat endpoint: what it is sent, what its stream becomes, and what its failures do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.realtime import chat
from tests.support.live_pool import connected, realtime_server

TOOL = {"type": "function", "name": "weather", "description": "d", "parameters": {"type": "object"}}


def _chunk(delta: dict[str, Any], **more: Any) -> str:
    return json.dumps({"choices": [{"delta": delta, "finish_reason": None, **more}]})


@contextmanager
def endpoint(*lines: str, status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers every chat with these chunks; its address, and the bodies it got."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            bodies.append({**body, "authorization": self.headers["authorization"]})
            self.send_response(status)
            self.end_headers()
            for line in lines:
                self.wfile.write(f"data: {line}\n\n".encode())

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", bodies
        finally:
            server.shutdown()
            thread.join()


def _settings(url: str) -> dict[str, Any]:
    return {"realtime": {"chat_url": url, "chat_model": "m", "chat_key": "secret"}}


def test_text_and_usage() -> None:
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    with (
        endpoint(_chunk({"content": "Good "}), _chunk({"content": "day."}), usage, "[DONE]") as (url, bodies),
        realtime_server(**_settings(url)) as server,
        connected(server, "/v1/realtime?model=gpt-realtime") as socket,
    ):
        socket.update("realtime", instructions="Be nice.", output_modalities=["text"], max_output_tokens=9)
        content = [{"type": "input_text", "text": "Hello."}]
        socket.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        socket.send("response.create")
        done = socket.until("response.done")["response"]
        assert done["output"][0]["content"][0]["text"] == "Good day."
        assert (done["usage"]["input_tokens"], done["usage"]["output_tokens"]) == (5, 2)
        sent = bodies[0]
        assert (sent["model"], sent["max_tokens"], sent["authorization"]) == ("m", 9, "Bearer secret")
        assert [message["role"] for message in sent["messages"]] == ["system", "user"]


def test_functions_are_called_and_their_output_goes_back() -> None:
    first = {"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": '{"ci'}}
    rest = {"index": 0, "function": {"arguments": 'ty": "Bonn"}'}}
    with (
        endpoint(_chunk({"tool_calls": [first]}), _chunk({"tool_calls": [rest]}), "[DONE]") as (url, bodies),
        realtime_server(**_settings(url)) as server,
        connected(server, "/v1/realtime?model=gpt-realtime") as socket,
    ):
        socket.update("realtime", tools=[TOOL], tool_choice="auto")
        socket.send(
            "response.create",
            response={"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "?"}]}]},
        )
        done = socket.until("response.done")["response"]
        kinds = socket.kinds()
        assert kinds.index("conversation.item.added") < kinds.index("response.function_call_arguments.done")
        call = socket.of("function_call_arguments.done")[0]
        assert (call["name"], json.loads(call["arguments"]), call["call_id"]) == ("weather", {"city": "Bonn"}, "call_1")
        assert done["output"][0]["type"] == "function_call"
        output = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
        socket.send("conversation.item.create", item=output)
        socket.send("response.create")
        socket.until("response.done")
        assert bodies[0]["tools"][0]["function"]["name"] == "weather"
        assert [message["role"] for message in bodies[1]["messages"]] == ["assistant", "tool"]
        assert bodies[1]["messages"][0]["tool_calls"][0]["id"] == "call_1"


@pytest.mark.parametrize(
    ("lines", "status", "said"),
    [((), 500, "answered 500"), (("nonsense",), 200, "no chunk"), (('{"error": {"message": "full"}}',), 200, "full")],
)
def test_failures_become_a_failed_answer(lines: tuple[str, ...], status: int, said: str) -> None:
    with (
        endpoint(*lines, status=status) as (url, _),
        realtime_server(**_settings(url)) as server,
        connected(server, "/v1/realtime?model=gpt-realtime") as socket,
    ):
        socket.send("response.create", response={"output_modalities": ["text"]})
        done = socket.until("response.done")["response"]
        assert done["status"] == "failed"
        assert said in done["status_details"]["error"]["message"]
        assert not socket.of("error")


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_without_end_is_not_read_to_it(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_MOST_BYTES", 10_000)
    with (
        endpoint("x" * 50_000, status=status) as (url, _),
        realtime_server(**_settings(url)) as server,
        connected(server, "/v1/realtime?model=gpt-realtime") as socket,
    ):
        socket.send("response.create", response={"output_modalities": ["text"]})
        error = socket.until("response.done")["response"]["status_details"]["error"]
        assert "longer than 10000 bytes" in error["message"]


def test_an_endpoint_that_is_not_there() -> None:
    with (
        realtime_server(**_settings("http://127.0.0.1:9/v1")) as server,
        connected(server, "/v1/realtime?model=gpt-realtime") as socket,
    ):
        socket.send("response.create")
        error = socket.until("response.done")["response"]["status_details"]["error"]
        assert "cannot be reached" in error["message"]
        assert "127.0.0.1" not in error["message"], "where it is concerns the operator only"
