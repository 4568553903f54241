"""The game's tasks and subscribers, through a worker and eagerly."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.signals import task_postrun

from game_tasks import bot, bot_tasks, publish
from game_tasks.archive import default_archive
from game_tasks.bot_tasks import ask_bot, choose_play
from game_tasks.events import GameEvent, GameEventType
from game_tasks.moves import DecisionKind
from game_tasks.views import view_of
from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp, dead_letters
from liap_tasks.statistics import queue_statistics
from tests.game_tasks.games import walk
from tests.game_tasks.test_hasty import hasty_answer
from transports import VirtualClock

DEADLINE = 10.0


@pytest.fixture
def ended() -> Iterator[Callable[[], tuple[str, str]]]:
    """Wait for the next task to end: (name, state)."""
    states: queue.Queue[tuple[str, str]] = queue.Queue()

    def note(sender: Any = None, state: str = "", **_: Any) -> None:
        states.put((sender.name, state))

    task_postrun.connect(note, weak=False)
    yield lambda: states.get(timeout=DEADLINE)
    task_postrun.disconnect(note)


def event(event_type: GameEventType, sequence: int = 1, **data: Any) -> GameEvent:
    return GameEvent(event_type=event_type, room_id="r1", game_id="g1", sequence=sequence, data=data)


def some_views(count: int) -> Iterator[tuple[Any, DecisionKind]]:
    given = 0
    for before, move, _ in walk(seed=5):
        if move is not None and before.pending is not None:
            yield view_of(before, before.id_of(before.to_move)), before.pending
            given += 1
            if given == count:
                return


def test_a_worker_answers_as_the_bot_would(game_app: LiapApp) -> None:
    with EmbeddedWorker(game_app, pool="solo"):
        for view, kind in some_views(12):
            assert ask_bot(view, kind, seed=3) == bot.decide(view, kind, seed=3)


def test_the_bot_answers_eagerly_too(eager_game_app: LiapApp) -> None:
    for view, kind in some_views(12):
        assert ask_bot(view, kind) == bot.decide(view, kind)


def test_the_hasty_stand_in_answers_when_no_worker_does(game_app: LiapApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bot_tasks, "ANSWER_SECONDS", 0.05)
    asked = {kind: (ask_bot(view, kind), hasty_answer(view, kind)) for view, kind in some_views(12)}
    assert {DecisionKind.DECLARE, DecisionKind.PLAY} <= asked.keys()
    assert all(answer == expected for answer, expected in asked.values())


def test_a_view_that_makes_no_sense_is_a_dead_letter(game_app: LiapApp, ended: Callable[[], tuple[str, str]]) -> None:
    with EmbeddedWorker(game_app):
        choose_play.delay({"player_id": "nobody"})
        assert ended() == ("game_tasks.bot.choose_play", "FAILURE")
    [letter] = dead_letters.peek(game_app)
    assert letter.reason is DeadLetterReason.VALIDATION_FAILED
    assert letter.task == "game_tasks.bot.choose_play"


def test_each_matching_subscriber_gets_an_event_once(game_app: LiapApp, ended: Callable[[], tuple[str, str]]) -> None:
    publish(event(GameEventType.GAME_STARTED, players=["a"]))
    waiting = {name: numbers["ready"] for name, numbers in queue_statistics(game_app).items() if numbers["ready"]}
    assert waiting == {"game_tasks.record": 1, "game_tasks.lobby": 1, **demo_queues(waiting)}
    with EmbeddedWorker(game_app, queues=["game_tasks.record", "game_tasks.lobby"]):
        assert {ended(), ended()} == {("game_tasks.record", "SUCCESS"), ("game_tasks.lobby", "SUCCESS")}
    assert [stored.event_type for stored in default_archive().events("r1")] == [GameEventType.GAME_STARTED]


def demo_queues(waiting: dict[str, float]) -> dict[str, float]:
    """The demo's subscribers are there too when another test has imported the demo."""
    return {name: ready for name, ready in waiting.items() if name.startswith("game_tasks.demo.")}


def test_urgent_events_carry_their_priority(game_app: LiapApp) -> None:
    publish(event(GameEventType.PIECE_PLAYED))
    publish(event(GameEventType.ERROR_OCCURRED, sequence=2))
    with game_app.connection_for_read() as connection, connection.channel() as channel:
        assert [message.properties["priority"] for message in channel.peek("game_tasks.record")] == [4, 9]


def test_the_same_event_delivered_twice_is_recorded_once(
    game_app: LiapApp, ended: Callable[[], tuple[str, str]]
) -> None:
    one = event(GameEventType.PIECE_PLAYED)
    with EmbeddedWorker(game_app):
        publish(one)
        publish(one)
        assert [ended(), ended()] == [("game_tasks.record", "SUCCESS")] * 2
    assert default_archive().events("r1") == [one]


def test_a_finished_game_is_archived(game_app: LiapApp, ended: Callable[[], tuple[str, str]]) -> None:
    with EmbeddedWorker(game_app, queues=["housekeeping", "game_tasks.end_of_game"]):
        publish(event(GameEventType.GAME_ENDED, winners=["a"], scores={"a": 50}, rounds=9))
        assert [ended(), ended()] == [
            ("game_tasks.end_of_game", "SUCCESS"),
            ("game_tasks.housekeeping.archive_game", "SUCCESS"),
        ]
    assert default_archive().game("g1") == {"winners": ["a"], "scores": {"a": 50}, "rounds": 9}


def test_a_closed_room_is_cleaned_up_an_hour_later(
    game_app: LiapApp, clock: VirtualClock, ended: Callable[[], tuple[str, str]]
) -> None:
    with EmbeddedWorker(game_app):
        publish(event(GameEventType.ROOM_CLOSED))
        assert {ended(), ended()} == {("game_tasks.record", "SUCCESS"), ("game_tasks.lobby", "SUCCESS")}
        clock.advance(3599)
        assert queue_statistics(game_app)["housekeeping"]["delayed"] == 1
        clock.advance(1)
        assert ended() == ("game_tasks.housekeeping.clean_up_room", "SUCCESS")
    assert default_archive().events("r1") == []
