"""The store on each database, empty for each test, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from liap_tasks.dead_letter_store import DeadLetterStore, Letter

DATABASES = ("sqlite", "postgresql")


class Clock:
    """POSIX seconds that pass when the test says so."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=DATABASES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database (of a schema of its own in PostgreSQL's)."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/letters.sqlite3"
        return
    server = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    schema = f"letters_{uuid4().hex}"
    engine = sa.create_engine(server, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    yield f"{server}?options=-csearch_path%3D{schema}"
    with engine.begin() as connection:
        connection.execute(sa.schema.DropSchema(schema, cascade=True))


@pytest.fixture
def open_store(store_url: str, clock: Clock) -> Iterator[Callable[[], DeadLetterStore]]:
    """Open the database, as one more process would."""
    opened: list[DeadLetterStore] = []

    def make() -> DeadLetterStore:
        opened.append(DeadLetterStore(store_url, clock=clock))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], DeadLetterStore]) -> DeadLetterStore:
    return open_store()


def letter(letter_id: str = "l1", **fields: Any) -> Letter:
    """Return a letter with the usual fields."""
    usual = {
        "reason": "retries_exhausted",
        "task": "game.settle",
        "task_id": f"task-{letter_id}",
        "queue": "games",
        "exception": "ValueError",
        "message": "no such stake",
        "traceback": "Traceback ...\nValueError: no such stake",
        "died_at": 1_799_999_000.0,
        "body": b'[["game-2", -1], {}, {}]',
        "content_type": "application/json",
        "content_encoding": "utf-8",
    }
    return Letter(**{"id": letter_id, **usual, **fields})
