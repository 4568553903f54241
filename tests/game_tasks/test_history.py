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
from liap_tasks import EmbeddedWorker, LiapApp, Unique
from liap_tasks.testing import WorkerClock

START = datetime(2026, 1, 1, tzinfo=UTC)


def event(sequence: int, game: str = "g1", room: str = "r1", **fields: Any) -> GameEvent:
    return GameEvent(
        **{"event_type": GameEventType.PIECE_PLAYED, **fields},
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
    game_events.subscribe("piece.*", "tests.historian", filter=lambda body: body["player_id"] != "West")
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


def test_it_is_played_as_far_as_the_subscriber_asked_for_its_events(
    game_app: LiapApp, liap_worker: EmbeddedWorker, virtual_clock: WorkerClock, heard: list[int]
) -> None:
    others = [event(2, event_type=GameEventType.GAME_STARTED), event(3, player_id="West")]
    default_archive().store_events([event(1), *others, event(4, player_id="East")])
    assert replay_game("g1", "tests.historian") == 2
    virtual_clock.settle()
    assert heard == [1, 4]


def test_a_unique_subscriber_gets_every_event_of_the_game(
    game_app: LiapApp, liap_worker: EmbeddedWorker, virtual_clock: WorkerClock
) -> None:
    heard = []

    @app.task(name="tests.one_at_a_time", shared=False, unique=Unique(key=lambda args, kwargs: args[0]["room_id"]))
    def one_at_a_time(event: GameEvent) -> None:
        heard.append(event.sequence)

    game_events.subscribe("piece.*", one_at_a_time.name)
    default_archive().store_events([event(number) for number in range(1, 6)])
    assert replay_game("g1", one_at_a_time.name) == 5
    virtual_clock.advance(300)
    game_events.unsubscribe(one_at_a_time.name)
    assert sorted(heard) == [1, 2, 3, 4, 5]


def test_a_game_is_played_again_in_eager_mode(game_app: LiapApp, eager_app: LiapApp, heard: list[int]) -> None:
    default_archive().store_events([event(1), event(2)])
    assert replay_game("g1", "tests.historian") == 2
    assert heard == [1, 2]


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
