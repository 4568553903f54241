"""A stored game played again: to one subscriber, in order, from where it is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from game_tasks import replay_game
from game_tasks.application import app, game_events
from game_tasks.archive import GameArchive, default_archive
from game_tasks.events import GameEvent, GameEventType
from liap_tasks import EmbeddedWorker, LiapApp
from liap_tasks.testing import WorkerClock

START = datetime(2026, 1, 1, tzinfo=UTC)


def event(sequence: int, game: str = "g1", room: str = "r1") -> GameEvent:
    return GameEvent(
        event_type=GameEventType.PIECE_PLAYED,
        room_id=room,
        game_id=game,
        sequence=sequence,
        timestamp=START + timedelta(minutes=sequence),
    )


HEARD: list[int] = []


@app.task(name="tests.historian", shared=False)
def historian(event: GameEvent) -> None:
    HEARD.append(event.sequence)


@pytest.fixture
def heard(game_app: LiapApp) -> Iterator[list[int]]:
    game_events.subscribe("nothing.happens", "tests.historian")
    HEARD.clear()
    yield HEARD
    game_events.unsubscribe("tests.historian")


@pytest.mark.parametrize(
    ("since", "numbers"),
    [(None, [1, 2, 3, 4]), (3, [3, 4]), (START + timedelta(minutes=4), [4]), (9, [])],
)
def test_a_game_is_played_again_to_one_subscriber_in_order(
    game_app: LiapApp,
    liap_worker: EmbeddedWorker,
    virtual_clock: WorkerClock,
    heard: list[int],
    since: Any,
    numbers: list[int],
) -> None:
    default_archive().store_events([event(2), event(1), event(4), event(3), event(1, game="g2", room="r2")])
    assert replay_game("g1", "tests.historian", since=since) == len(numbers)
    virtual_clock.settle()
    assert heard == numbers


def test_a_game_can_be_played_again_twice(
    game_app: LiapApp, liap_worker: EmbeddedWorker, virtual_clock: WorkerClock, heard: list[int]
) -> None:
    default_archive().store_event(event(1))
    for _ in range(2):
        replay_game("g1", "tests.historian")
    virtual_clock.settle()
    assert heard == [1, 1]


def test_who_subscribes_to_nothing_is_sent_nothing(game_app: LiapApp) -> None:
    default_archive().store_event(event(1))
    with pytest.raises(LookupError, match="nobody"):
        replay_game("g1", "nobody")


def test_the_archive_may_be_a_postgresql_database(postgres_url: str) -> None:
    archive = GameArchive(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        one, two = event(1), event(2)
        assert [archive.store_events([one, one, two]), archive.store_events([two])] == [2, 0]
        assert archive.events("r1") == [one, two]
        ended = one.model_copy(update={"event_type": GameEventType.GAME_ENDED, "data": {"winners": ["a"]}})
        for _ in range(2):
            archive.store_game(ended)
        assert archive.game("g1") == {"winners": ["a"]}
    finally:
        archive.forget_room("r1")
        archive.close()
