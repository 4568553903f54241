"""What a message says about itself: where it comes from, what it belongs to, when it was sent.

It travels in one header, ``liap``, a table; a retry carries it along, a task started by a task inherits the correlation
id. (AMQP's own ``correlation_id`` property is Celery's: it holds the task id, for results.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from kombu.utils.encoding import safe_repr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = [
    "HEADER",
    "MAX_ERROR_TEXT",
    "MAX_REPLAYS",
    "Attempt",
    "MessageMetadata",
    "deadline_in",
    "first_headers",
    "shorten",
    "text_of",
]

HEADER = "liap"
MAX_ATTEMPTS = 20
MAX_ERROR_TEXT = 300
MAX_REPLAYS = 1_000_000
LAST_DEADLINE = 1e12  # POSIX seconds; no clock can wait longer


class Attempt(BaseModel):
    """One failed attempt. number: from 1. at: POSIX seconds. error: exception class. message: its text, shortened."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    number: int
    at: float
    error: str
    message: str


class MessageMetadata(BaseModel):
    """The metadata of one message.

    source: who sent it (the name of the sending task, or the app's). correlation_id: what it belongs to.
    timestamp: POSIX seconds of the first publish. attempts: the failed attempts so far, oldest first; of many, the
    first and the latest (headers must fit in one frame, 128 KiB on RabbitMQ). deadline: POSIX seconds until which an
    answer is of use, None if it always is. replayed_from: the dead letter whose replay this is, by its id in the store;
    replays: how many replays led to it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    source: str = ""
    correlation_id: str | None = None
    timestamp: float | None = None
    attempts: tuple[Attempt, ...] = ()
    deadline: float | None = None
    replayed_from: str | None = None
    replays: int = Field(default=0, ge=0, le=MAX_REPLAYS)

    @classmethod
    def from_headers(cls, headers: Mapping[str, Any] | None) -> Self:
        """Return what the headers of a message say; other software's, whatever it has under our name, says nothing."""
        table = (headers or {}).get(HEADER)
        if not isinstance(table, Mapping):
            return cls()
        try:
            return cls.model_validate(table)
        except ValidationError:
            return cls()

    def as_headers(self) -> dict[str, Any]:
        """Return the header that carries this."""
        attempts = [attempt.model_dump(mode="json") for attempt in self.attempts]
        table = _table(self.source, self.correlation_id, self.timestamp, attempts, self.deadline)
        if self.replayed_from is not None:
            table["replayed_from"] = self.replayed_from
        if self.replays:
            table["replays"] = self.replays
        return {HEADER: table}

    def after(self, attempt: Attempt) -> MessageMetadata:
        """Return the same with one more failed attempt."""
        attempts = (*self.attempts, attempt)
        if len(attempts) > MAX_ATTEMPTS:
            attempts = (attempts[0], *attempts[-MAX_ATTEMPTS + 1 :])
        return self.model_copy(update={"attempts": attempts})


def first_headers(
    source: str, *, timestamp: float, correlation_id: str | None = None, deadline: float | None = None
) -> dict[str, Any]:
    """Return the header of a message that nobody has tried yet, as its MessageMetadata would."""
    return {HEADER: _table(source, correlation_id, timestamp, [], deadline)}


def _table(
    source: str, correlation_id: str | None, timestamp: float | None, attempts: list[Any], deadline: float | None
) -> dict[str, Any]:
    # By hand: with every publish, and pydantic takes ten times as long.
    table: dict[str, Any] = {"source": source}
    if correlation_id is not None:
        table["correlation_id"] = correlation_id
    if timestamp is not None:
        table["timestamp"] = timestamp
    table["attempts"] = attempts
    if deadline is not None:
        table["deadline"] = deadline
    return table


def deadline_in(headers: Mapping[str, Any] | None) -> float | None:
    """Return the deadline that the headers of a message carry, without reading the rest of its metadata."""
    table = (headers or {}).get(HEADER)
    deadline = table.get("deadline") if isinstance(table, Mapping) else None
    return float(deadline) if isinstance(deadline, int | float) and abs(deadline) <= LAST_DEADLINE else None


def text_of(error: BaseException) -> str:
    """Return what an error says, shortened; of one that cannot say it (its ``__str__`` fails) its representation."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whatever the error's own code raises
        text = safe_repr(error)
    return shorten(text, MAX_ERROR_TEXT)


def shorten(text: str, limit: int) -> str:
    """Return ``text`` with at most about ``limit`` characters, its beginning and its end, as a header can carry it.

    Half of a surrogate pair is escaped: Python has it in the name of a file that is not UTF-8, and UTF-8 cannot.
    """
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
