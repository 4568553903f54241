"""Locks in a database: SQLite for the processes of one machine, PostgreSQL for several.

One table, made by whoever comes first. A lock is taken in one short transaction that holds its row; the rows of keys
that nobody has used for a day are deleted now and then.

Why commits are not synced to the disk of SQLite: it would cost each call two waits for the disk (ten times as long) to
keep a lock through a power failure, after which the worst is that two calls of one key run one after the other.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from liap_tasks.dead_letter_store.database import WRITING, open_database
from liap_tasks.errors import UniqueStoreError
from liap_tasks.unique.lock import FORGOTTEN_AFTER, NOBODY, Lock, taken

__all__ = ["SqlStore"]

MAKING = 0x11A9_0001  # any number that nobody else uses for an advisory lock of this database
SWEEP_EVERY = 1000

CREATE = """
CREATE TABLE IF NOT EXISTS unique_locks (
    lock_key TEXT NOT NULL PRIMARY KEY, holder TEXT NOT NULL, token BIGINT NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL
)"""
# Makes the row if there is none, and in either case returns it locked.
LOOK = sa.text(
    "INSERT INTO unique_locks (lock_key, holder, token, expires_at) VALUES (:key, '', 0, 0) "
    "ON CONFLICT (lock_key) DO UPDATE SET lock_key = excluded.lock_key RETURNING holder, token, expires_at"
)
TAKE = sa.text(
    "UPDATE unique_locks SET holder = :holder, token = :token, expires_at = :expires_at WHERE lock_key = :key"
)
FIND = sa.text("SELECT holder, token, expires_at FROM unique_locks WHERE lock_key = :key")
OWN = "WHERE lock_key = :key AND holder = :holder AND (:any_token OR token = :token)"
RENEW = sa.text(
    "UPDATE unique_locks SET expires_at = CASE WHEN expires_at > :until THEN expires_at ELSE :until END " + OWN
)
RELEASE = sa.text("UPDATE unique_locks SET holder = '', expires_at = :until " + OWN)
SWEEP = sa.text("DELETE FROM unique_locks WHERE expires_at < :until")


class SqlStore:
    """The locks in one database.

    url: as :func:`liap_tasks.dead_letter_store.database.check_store_url` returns it; nothing is opened before the
    first call. clock: POSIX seconds; None: PostgreSQL's own, and with SQLite this machine's.
    """

    def __init__(self, url: sa.URL, *, clock: Callable[[], float] | None = None) -> None:
        self.url = url
        self._clock = clock
        # By process: neither a connection nor a lock that somebody holds is for a forked child.
        self._opening: dict[int, threading.Lock] = {}
        self._opened: tuple[int, sa.Engine] | None = None
        self._taken = 0

    def acquire(self, key: str, holder: str, seconds: float) -> Lock:
        """See :class:`UniqueStore`."""
        with self._transaction() as connection:
            row = connection.execute(LOOK, {"key": key}).one()
            now = self._now(connection)
            lock = taken(Lock(key, *row), key, holder, now=now, seconds=seconds)
            if lock.holder == holder:
                connection.execute(
                    TAKE, {"key": key, "holder": holder, "token": lock.token, "expires_at": lock.expires_at}
                )
        self._taken += 1
        if self._taken % SWEEP_EVERY == 0:
            with self._transaction() as connection:
                connection.execute(SWEEP, {"until": now - FORGOTTEN_AFTER})
        return lock

    def renew(self, key: str, holder: str, token: int | None, seconds: float) -> bool:
        """See :class:`UniqueStore`."""
        return self._change(RENEW, key, holder, token, seconds)

    def release(self, key: str, holder: str, token: int | None = None) -> bool:
        """See :class:`UniqueStore`."""
        return self._change(RELEASE, key, holder, token, 0.0)

    def find(self, key: str) -> Lock | None:
        """See :class:`UniqueStore`."""
        with self._transaction() as connection:
            row = connection.execute(FIND, {"key": key}).first()
            lock = None if row is None else Lock(key, *row)
            if lock is None or lock.holder == NOBODY or lock.expires_at <= self._now(connection):
                return None
            return lock

    def close(self) -> None:
        """See :class:`UniqueStore`."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].dispose(close=opened[0] == os.getpid())

    def _change(self, statement: Any, key: str, holder: str, token: int | None, seconds: float) -> bool:
        with self._transaction() as connection:
            values = {"key": key, "holder": holder, "any_token": token is None, "token": token or 0}
            done: Any = connection.execute(statement, {**values, "until": self._now(connection) + seconds})
            return bool(done.rowcount)

    def _now(self, connection: sa.Connection) -> float:
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "postgresql":
            return float(connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())")))
        return time.time()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine().begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise UniqueStoreError(self.url.render_as_string(), reason) from error

    def _engine(self) -> sa.Engine:
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:
            with self._opening.setdefault(process, threading.Lock()):
                if self._opened is None or self._opened[0] != process:
                    engine = open_database(self.url, synced=False).execution_options(**WRITING)
                    try:
                        _make_table(engine)
                    except BaseException:
                        engine.dispose()
                        raise
                    self._opened = (process, engine)
        return self._opened[1]


def _make_table(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":  # IF NOT EXISTS alone does not bear two at once there
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MAKING)))
        connection.execute(sa.text(CREATE))
