"""POST audio/questions: one file, one question, one answer, for people with curl.

Reads a form into what a chat request would be; the rest is the chat route's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp

from app.errors import InvalidRequest, MissingParameter
from app.routes.chat import schema
from app.routes.chat.completion import usage_document
from app.routes.chat.messages import SentAudio, SentMessage
from app.routes.chat.request import ChatBody, read_chat
from app.routes.chat.route import start, whole_answer
from app.routes.context import RequestContext
from app.routes.json_text import decode
from app.routes.multipart import Form, parse_form
from app.routes.operations import FORM, Operation

TEXT_TYPE = "text/plain; charset=utf-8"
_OWN = ("model", "question", "system", "file", "response_format", "options", "stop")
_REFUSED = ("stream", "modalities", "audio", "messages")


async def ask(context: RequestContext) -> ASGIApp:
    """The whole way of one question."""
    form = parse_form(context.content_type, context.body, context.gateway.settings.limits.form_fields)
    deployment = context.choose(form.text("model"), "chat")
    kind = form.choice("response_format", ("json", "text"), "json")
    question = _question(form)
    chat_body = _with_file(read_chat(_as_chat(form, question), deployment, context.gateway.spoken), form, question)
    context.ignored = chat_body.ignored
    del form
    reservation = await context.admit(deployment)
    done, text = await whole_answer(context, await start(context, chat_body, reservation))
    document = {"text": text, "finish_reason": done.finish_reason, "usage": usage_document(done.usage)}
    return context.answer(f"{text}\n".encode(), TEXT_TYPE) if kind == "text" else context.json(document)


def _question(form: Form) -> str:
    question = form.text("question")
    if question is None or not question.strip():
        raise MissingParameter("You must provide a question.", param="question")
    return question


def _as_chat(form: Form, question: str) -> dict[str, Any]:
    """The form's other fields as a chat body's; numbers and booleans are written as JSON writes them."""
    names = dict.fromkeys(name.partition("[")[0] for name, _ in form.texts)
    for name in names:
        if name in _REFUSED:
            raise InvalidRequest(f"audio/questions does not take {name}; chat/completions does.", param=name)
    body = {name: _value(text) for name in names if name not in _OWN and (text := form.text(name)) is not None}
    if stops := form.texts_of("stop"):
        body["stop"] = stops
    options = form.mapping("options")
    if isinstance(options, Mapping):
        body["options"] = {key: _value(value) if isinstance(value, str) else value for key, value in options.items()}
    elif options is not None:
        raise InvalidRequest("options must be a JSON object.", param="options")
    return {**body, "messages": [{"role": "user", "content": question}]}


def _with_file(chat_body: ChatBody, form: Form, question: str) -> ChatBody:
    system = form.text("system")
    first = (SentMessage("system", (system,)),) if system else ()
    asked = SentMessage("user", (SentAudio(bytes(form.file("file").data), "file"), question))
    return replace(chat_body, messages=(*first, asked))


def _value(text: str) -> Any:
    """A JSON number, boolean or null; any other text is itself."""
    try:
        value = decode(text.strip())
    except ValueError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


OPERATIONS = (Operation("audio/questions", "POST", ask, task="chat", consumes=(FORM,), doc=schema.ASK),)
