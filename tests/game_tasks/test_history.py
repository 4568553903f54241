"""A stored game played again: to one subscriber, in order, from where it is wanted."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.signals import task_postrun

from game_tasks import replay_game
from game_tasks.application import app, game_events
from game_tasks.archive import GameArchive, default_archive
from game_tasks.events import GameEvent, GameEventType
from liap_tasks import EmbeddedWorker, LiapApp

START = datetime(2026, 1, 1, tzinfo=UTC)


def event(sequence: int, game: str = "g1", room: str = "r1") -> GameEvent:
    return GameEvent(
        event_type=GameEventType.PIECE_PLAYED,
        room_id=room,
        game_id=game,
        sequence=sequence,
        timestamp=START + timedelta(minutes=sequence),
    )


@pytest.fixture
def ended() -> Iterator[Callable[[], str]]:
    names: queue.Queue[str] = queue.Queue()

    def note(sender: Any = None, **_: Any) -> None:
        names.put(sender.name)

    task_postrun.connect(note, weak=False)
    yield lambda: names.get(timeout=10)
    task_postrun.disconnect(note)


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
    game_app: LiapApp, ended: Callable[[], str], heard: list[int], since: Any, numbers: list[int]
) -> None:
    default_archive().store_events([event(2), event(1), event(4), event(3), event(1, game="g2", room="r2")])
    with EmbeddedWorker(game_app):
        assert replay_game("g1", "tests.historian", since=since) == len(numbers)
        assert [ended() for _ in numbers] == ["tests.historian"] * len(numbers)
    assert heard == numbers


def test_a_game_can_be_played_again_twice(game_app: LiapApp, ended: Callable[[], str], heard: list[int]) -> None:
    default_archive().store_event(event(1))
    with EmbeddedWorker(game_app):
        for _ in range(2):
            replay_game("g1", "tests.historian")
            ended()
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
