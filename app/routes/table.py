"""All operations of the API in one table."""

from __future__ import annotations

from app.routes import chat, chat_questions, docs, health, models, speech, transcriptions, voices, watermark
from app.routes.operations import Operation, Table

OPERATIONS: tuple[Operation, ...] = (
    *transcriptions.OPERATIONS,
    *speech.OPERATIONS,
    *voices.OPERATIONS,
    *watermark.OPERATIONS,
    *chat.OPERATIONS,
    *chat_questions.OPERATIONS,
    *models.OPERATIONS,
    *health.OPERATIONS,
    *docs.OPERATIONS,
)


def build_table() -> Table:
    return Table(OPERATIONS)
