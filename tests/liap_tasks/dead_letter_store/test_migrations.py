"""The tables are made and brought up to date by whoever comes first."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from liap_tasks.dead_letter_store import DeadLetterStore
from liap_tasks.dead_letter_store.database import WRITING, check_store_url, open_database
from liap_tasks.dead_letter_store.migrations import MIGRATIONS, migrate, version_of
from liap_tasks.dead_letter_store.schema import METADATA
from liap_tasks.errors import StoreVersionError
from tests.liap_tasks.dead_letter_store.conftest import letter


@pytest.fixture
def engine(store_url: str) -> sa.Engine:
    return open_database(check_store_url(store_url)).execution_options(**WRITING)


def test_the_tables_have_the_columns_that_queries_use(engine: sa.Engine) -> None:
    migrate(engine)
    for table in METADATA.tables.values():
        made = sa.inspect(engine).get_columns(table.name)
        assert [column["name"] for column in made] == [column.name for column in table.columns]
    engine.dispose()


def test_an_older_database_is_brought_up_to_date_and_keeps_its_letters(
    engine: sa.Engine, open_store: Callable[[], DeadLetterStore]
) -> None:
    for version in range(1, len(MIGRATIONS)):
        migrate(engine, MIGRATIONS[:version])
        with engine.begin() as connection:
            assert version_of(connection) == version
            connection.execute(
                sa.text(
                    "INSERT INTO dead_letters (id, state, reason, detail, queue, exchange, routing_key, attempts,"
                    " headers, properties, body, size, died_at, first_seen, last_seen, replays) VALUES"
                    " (:id, 'dead', 'expired', '', 'games', '', '', '[]', '{}', '{}', :body, 1, 5, 5, 5, 0)"
                ),
                {"id": f"of version {version}", "body": b"x"},
            )
    store = open_store()
    assert store.get("of version 1").body == b"x"
    store.edit("of version 1", who="anna", changes={"queue": "bots"})
    with engine.connect() as connection:
        assert version_of(connection) == len(MIGRATIONS)
    engine.dispose()


def test_a_database_of_a_newer_version_is_refused_by_name(
    engine: sa.Engine, open_store: Callable[[], DeadLetterStore]
) -> None:
    migrate(engine, (*MIGRATIONS, ("CREATE TABLE later (x INTEGER)",)))
    with pytest.raises(StoreVersionError, match=f"version {len(MIGRATIONS) + 1}"):
        open_store().count()
    engine.dispose()


def test_many_that_come_first_at_once_all_find_the_tables(open_store: Callable[[], DeadLetterStore]) -> None:
    stores = [open_store() for _ in range(8)]
    together = threading.Barrier(len(stores))
    recorded: list[int] = []

    def record(number: int) -> None:
        together.wait()
        recorded.append(stores[number].record([letter(f"l{number}")]))

    threads = [threading.Thread(target=record, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorded == [1] * 8
    assert stores[0].count() == 8
