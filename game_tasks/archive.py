"""Where games are kept: one database (a SQLite file, or PostgreSQL by URL), safe to write to twice.

An event is stored once however often it is delivered (its id is the key), and a game's row is replaced by the same row.
So the tasks that write here may be retried, and delivered again after a crash, without harm.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from game_tasks.events import GameEvent

__all__ = ["GameArchive", "default_archive"]

UNCOUNTED = 0  # the place of an event without a number: before the others of its room or game

_metadata = sa.MetaData()
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("event_id", sa.String(36), primary_key=True),
    sa.Column("room_id", sa.Text, nullable=False),
    sa.Column("game_id", sa.Text),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Index("events_of_room", "room_id", "sequence"),
    sa.Index("events_of_game", "game_id", "sequence"),
)
_games = sa.Table(
    "games",
    _metadata,
    sa.Column("game_id", sa.Text, primary_key=True),
    sa.Column("room_id", sa.Text, nullable=False),
    sa.Column("ended", sa.Text, nullable=False),
    sa.Column("result", sa.JSON, nullable=False),
)


class GameArchive:
    """The archive in one database; usable from many threads and processes. where: a file's path, or a database URL."""

    def __init__(self, where: str | os.PathLike[str]) -> None:
        text = os.fspath(where)
        self._engine = sa.create_engine(text if "://" in text else sa.URL.create("sqlite", database=text))
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "sqlite":
                connection.exec_driver_sql("begin immediate")  # several workers may start at once
            _metadata.create_all(connection)
        dialect: Any = sqlite if self._engine.dialect.name == "sqlite" else postgresql
        self._insert = dialect.insert
        self._insert_events = dialect.insert(_events).on_conflict_do_nothing().returning(_events.c.event_id)

    def store_events(self, events: Iterable[GameEvent]) -> int:
        """Store events in one transaction and return how many of them were new."""
        rows = [
            {
                "event_id": str(event.event_id),
                "room_id": event.room_id or "",
                "game_id": event.game_id,
                "sequence": event.sequence or UNCOUNTED,
                "event_type": event.event_type.value,
                "body": event.model_dump_json(),
            }
            for event in events
        ]
        if not rows:
            return 0
        with self._engine.begin() as connection:
            return len(connection.execute(self._insert_events, rows).all())

    def store_event(self, event: GameEvent) -> bool:
        """Store an event and tell whether it was new."""
        return self.store_events([event]) == 1

    def store_game(self, event: GameEvent) -> None:
        """Store how a game ended, from its ``game.ended`` event; raises ValueError for an event without a game."""
        if event.game_id is None:
            raise ValueError(f"event {event.event_id} of room {event.room_id} belongs to no game")
        row = {"room_id": event.room_id or "", "ended": event.timestamp.isoformat(), "result": event.data}
        statement = self._insert(_games).values(game_id=event.game_id, **row)
        with self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["game_id"], set_=row))

    def count_events(self) -> int:
        """Return how many events are stored."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(_events)) or 0

    def events(self, room_id: str) -> list[GameEvent]:
        """Return the stored events of a room in their order."""
        return self._read(_events.c.room_id == room_id)

    def events_of_game(self, game_id: str, since: int | datetime | None = None) -> list[GameEvent]:
        """Return the stored events of a game in their order, brought up to date.

        since: only from this sequence number on, or from this moment on (UTC if it has no time zone). Raises TypeError
        for anything else.
        """
        if isinstance(since, bool) or not isinstance(since, int | datetime | None):
            raise TypeError(f"since must be a sequence number or a datetime, not {since!r}")
        if isinstance(since, datetime) and since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        where = _events.c.game_id == game_id
        if isinstance(since, int):
            where = sa.and_(where, _events.c.sequence >= since)
        events = self._read(where)
        return [event for event in events if event.timestamp >= since] if isinstance(since, datetime) else events

    def _read(self, where: Any) -> list[GameEvent]:
        with self._engine.connect() as connection:
            bodies = connection.scalars(sa.select(_events.c.body).where(where).order_by(_events.c.sequence))
            return [GameEvent.model_validate_json(body) for body in bodies]

    def game(self, game_id: str) -> dict[str, Any] | None:
        """Return how a game ended (winners, scores, rounds), or None."""
        with self._engine.connect() as connection:
            found = connection.scalar(sa.select(_games.c.result).where(_games.c.game_id == game_id))
        return None if found is None else dict(found)

    def forget_room(self, room_id: str) -> int:
        """Delete the events of a room, keeping how its games ended, and return how many there were."""
        with self._engine.begin() as connection:
            return connection.execute(sa.delete(_events).where(_events.c.room_id == room_id)).rowcount

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun here, not by the driver
    connection.execute("pragma busy_timeout = 30000")
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")


_lock = threading.Lock()
_archives: dict[str, GameArchive] = {}


def default_archive() -> GameArchive:
    """Return the archive named by GAME_ARCHIVE_PATH, a path or a URL; else games.sqlite3 in the working directory."""
    where = os.environ.get("GAME_ARCHIVE_PATH", "games.sqlite3")
    with _lock:
        if where not in _archives:
            _archives[where] = GameArchive(where)
        return _archives[where]
