"""What a stored dead letter is, and how letters are chosen.

All times are POSIX seconds, which are UTC by definition; a letter's ``attempts`` and headers use the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

__all__ = ["LAST_MOMENT", "AuditEntry", "Letter", "LetterFilter", "LetterState", "StoreStatistics"]

LAST_MOMENT = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""Later than this is no time: a calendar ends."""


class LetterState(StrEnum):
    """Where a letter is in its life."""

    DEAD = "dead"
    """It waits for somebody to decide."""
    SCHEDULED = "scheduled"
    """It will be replayed by itself when it is due."""
    REPLAYED = "replayed"
    """It was sent back to its queue."""
    PURGED = "purged"
    """Its content is gone; this row is what remains, for a while."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """One dead letter.

    id: the same for the same death, however often it is recorded. reason, detail: why it died (a
    :class:`~liap_tasks.DeadLetterReason`, or what other software wrote). task, task_id: None for a message that was no
    task. queue: where it was to be processed; exchange, routing_key: how it came there.
    exception, message, traceback: of the last attempt, None for a broker's dead letter. attempts: the failed attempts,
    oldest first, as ``{number, at, error, message}``.
    headers, properties: the message's, all of them. body: its bytes as they came, readable or not. size: their number.
    died_at: time of death. first_seen, last_seen: when the store recorded it first and last.
    replayed_from: the letter whose replay this message was. replays: how many replays led to it. replayed_at,
    replay_id: when and by which run it was replayed. replayed_as: the letter that its replay became, if that died too.
    due_at: when it is replayed by itself. expires_at: when it is purged, None: never. purged_at: when it was.
    """

    id: str
    state: str = LetterState.DEAD
    reason: str
    detail: str = ""
    task: str | None = None
    task_id: str | None = None
    queue: str = ""
    exchange: str = ""
    routing_key: str = ""
    exception: str | None = None
    message: str | None = None
    traceback: str | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    content_type: str | None = None
    content_encoding: str | None = None
    body: bytes = b""
    size: int = 0
    correlation_id: str | None = None
    died_at: float
    first_seen: float | None = None
    last_seen: float | None = None
    replayed_from: str | None = None
    replays: int = 0
    replayed_at: float | None = None
    replay_id: str | None = None
    replayed_as: str | None = None
    due_at: float | None = None
    expires_at: float | None = None
    purged_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class LetterFilter:
    """Which letters are meant; every field that is given must fit, an empty one fits all.

    ids, reasons, tasks, queues: one of these. states: one of these; none given means every state but ``purged``.
    error: text in the exception's class, message or traceback, in any case; SQLite knows the case of the letters A to Z
    only. died_after, died_before, due_before: POSIX seconds, the
    moment itself excluded (due_before: included). replay_id: replayed by that run.
    """

    ids: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    error: str | None = None
    correlation_id: str | None = None
    died_before: float | None = None
    died_after: float | None = None
    due_before: float | None = None
    replay_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("ids", "reasons", "tasks", "queues", "states"):
            values = getattr(self, name)
            if isinstance(values, str):
                raise ValueError(f"{name} must be a tuple of texts, not the text {values!r}")
            object.__setattr__(self, name, tuple(str(value) for value in values))
        unknown = [state for state in self.states if state not in set(LetterState)]
        if unknown:
            raise ValueError(f"there is no state {unknown[0]!r}; states are {', '.join(LetterState)}")

    @property
    def chosen_states(self) -> tuple[str, ...]:
        """The states that fit."""
        return self.states or (LetterState.DEAD, LetterState.SCHEDULED, LetterState.REPLAYED)


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """What was done to a letter by hand. before, after: the fields that changed."""

    letter_id: str
    at: float
    who: str
    action: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoreStatistics:
    """How many letters there are. total, by_reason, by_task, by_queue, oldest: of letters that are dead or scheduled.

    by_state: of all. by_task: messages that were no task are under "". oldest: time of death, None if there is none.
    """

    total: int
    by_state: Mapping[str, int]
    by_reason: Mapping[str, int]
    by_task: Mapping[str, int]
    by_queue: Mapping[str, int]
    oldest: float | None
