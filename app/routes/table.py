"""All operations of the API in one table."""

from __future__ import annotations

from app.routes import custom_voices, docs, health, models, voices, watermark
from app.routes.chat import questions as chat_questions
from app.routes.chat import route as chat
from app.routes.operations import Operation, Table
from app.routes.realtime import route as realtime
from app.routes.realtime import secrets as realtime_secrets
from app.routes.speech import route as speech
from app.routes.transcriptions import route as transcriptions

OPERATIONS: tuple[Operation, ...] = (
    *transcriptions.OPERATIONS,
    *speech.OPERATIONS,
    *voices.OPERATIONS,
    *custom_voices.OPERATIONS,
    *watermark.OPERATIONS,
    *chat.OPERATIONS,
    *chat_questions.OPERATIONS,
    *realtime.OPERATIONS,
    *realtime_secrets.OPERATIONS,
    *models.OPERATIONS,
    *health.OPERATIONS,
    *docs.OPERATIONS,
)


def build_table() -> Table:
    return Table(OPERATIONS)
