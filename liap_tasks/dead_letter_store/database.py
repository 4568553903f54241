"""The connection to the store's database: which URLs are understood, and how SQLite is used by many threads.

SQLite writes in WAL mode, so that nobody who reads waits for somebody who writes; a transaction that will write takes
the write lock at its beginning, so that two never meet half way. Commits are synced: a letter that the store has
taken, it keeps.
"""

from __future__ import annotations

import sqlite3
import time
from functools import partial
from importlib.util import find_spec
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from liap_tasks.errors import ConfigurationError

__all__ = ["ALLOWED", "STORES", "WRITING", "check_store_url", "open_database"]

VARIABLE = "DLQ_STORE_URL"
STORES = "sqlite:///file, sqlite:////absolute/file, sqlite:// (in memory) or postgresql://user:password@host/database"
ALLOWED = f"none, {STORES}"
WRITING = {"liap_writes": True}
LOCK_SECONDS = 10.0
CONNECT_SECONDS = 5


def check_store_url(url: str, *, variable: str = VARIABLE, allowed: str = ALLOWED) -> sa.URL:
    """Return the URL with the driver that is used for it.

    variable, allowed: the setting that it comes from.

    Raises ConfigurationError for one that no store can be opened with, and when the driver is not installed.
    """
    try:
        parsed = sa.make_url(url.replace("postgres://", "postgresql://", 1))
    except sa.exc.ArgumentError:
        raise ConfigurationError(variable, url, allowed) from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return parsed.set(drivername="sqlite+pysqlite")
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        if not parsed.database:
            raise ConfigurationError(variable, url, allowed)
        if find_spec("psycopg") is None:
            raise ConfigurationError(
                variable, parsed.render_as_string(), "SQLite, or PostgreSQL after `pip install 'liap-tasks[postgres]'`"
            )
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigurationError(variable, parsed.render_as_string(), allowed)


def open_database(url: sa.URL, *, synced: bool = True) -> sa.Engine:
    """Return an engine for ``url``; it connects when it is first used.

    synced: whether what SQLite has committed outlives a power failure, and not only the death of its process.
    """
    if url.get_backend_name() == "postgresql":
        arguments = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_SECONDS}
        return sa.create_engine(url, pool_pre_ping=True, connect_args=arguments)
    options: dict[str, Any] = {"connect_args": {"timeout": LOCK_SECONDS, "check_same_thread": False}}
    if url.database in (None, "", ":memory:"):
        # Every further connection would have a database of its own.
        options |= {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}
    engine = sa.create_engine(url, **options)
    sa.event.listen(engine, "connect", partial(_prepare_sqlite, "FULL" if synced else "NORMAL"))
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(synchronous: str, connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says
    connection.execute(f"PRAGMA synchronous={synchronous}")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait for its lock here, and another process may be making the same file just now.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("liap_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
