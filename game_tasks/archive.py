"""Where finished games are kept: one SQLite file, safe to write to twice.

An event is stored once however often it is delivered (its id is the key), and a game's row is replaced by the same row.
So the tasks that write here may be retried, and delivered again after a crash, without harm.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from game_tasks.events import GameEvent

__all__ = ["GameArchive", "default_archive"]

_SCHEMA = """
create table if not exists events (
    event_id text primary key,
    room_id text not null,
    game_id text,
    sequence integer not null,
    event_type text not null,
    body text not null
);
create index if not exists events_of_room on events (room_id, sequence);
create table if not exists games (
    game_id text primary key,
    room_id text not null,
    ended text not null,
    result text not null
);
"""


class GameArchive:
    """The archive in one file; usable from many threads and processes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._open() as database:
            database.executescript(_SCHEMA)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30)) as database:
            database.execute("pragma journal_mode = wal")
            with database:
                yield database

    def store_event(self, event: GameEvent) -> bool:
        """Store an event and tell whether it was new."""
        row = (
            str(event.event_id),
            event.room_id,
            event.game_id,
            event.sequence,
            event.event_type.value,
            event.model_dump_json(),
        )
        with self._open() as database:
            done = database.execute("insert or ignore into events values (?, ?, ?, ?, ?, ?)", row)
            return done.rowcount == 1

    def store_game(self, event: GameEvent) -> None:
        """Store how a game ended, from its ``game.ended`` event; raises ValueError for an event without a game."""
        if event.game_id is None:
            raise ValueError(f"event {event.event_id} of room {event.room_id} belongs to no game")
        row = (event.game_id, event.room_id, event.timestamp.isoformat(), json.dumps(event.data))
        with self._open() as database:
            database.execute("insert or replace into games values (?, ?, ?, ?)", row)

    def events(self, room_id: str) -> list[GameEvent]:
        """Return the stored events of a room in their order."""
        with self._open() as database:
            rows = database.execute("select body from events where room_id = ? order by sequence", (room_id,))
            return [GameEvent.model_validate_json(body) for (body,) in rows]

    def game(self, game_id: str) -> dict[str, Any] | None:
        """Return how a game ended (winners, scores, rounds), or None."""
        with self._open() as database:
            row = database.execute("select result from games where game_id = ?", (game_id,)).fetchone()
            return None if row is None else json.loads(row[0])

    def forget_room(self, room_id: str) -> int:
        """Delete the events of a room, keeping how its games ended, and return how many there were."""
        with self._open() as database:
            return database.execute("delete from events where room_id = ?", (room_id,)).rowcount


_lock = threading.Lock()
_archives: dict[str, GameArchive] = {}


def default_archive() -> GameArchive:
    """Return the archive in the file named by GAME_ARCHIVE_PATH (default: games.sqlite3 in the working directory)."""
    path = os.environ.get("GAME_ARCHIVE_PATH", "games.sqlite3")
    with _lock:
        if path not in _archives:
            _archives[path] = GameArchive(path)
        return _archives[path]
