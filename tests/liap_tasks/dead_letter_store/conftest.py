"""The store on each database, empty for each test, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from liap_tasks.dead_letter_store import DeadLetterStore, Letter
from tests.liap_tasks.conftest import Clock
from tests.servers.postgres import empty_schema

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(params=DATABASES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database (of a schema of its own in PostgreSQL's)."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/letters.sqlite3"
        return
    with empty_schema(request.getfixturevalue("postgres_url")) as url:
        yield url


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
