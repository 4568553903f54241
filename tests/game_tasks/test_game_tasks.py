"""The game's tasks and subscribers, through a worker and eagerly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from game_tasks import bot, bot_tasks, publish
from game_tasks.archive import default_archive
from game_tasks.bot_tasks import ask_bot, choose_play
from game_tasks.events import GameEvent, GameEventType
from game_tasks.moves import DecisionKind
from game_tasks.subscribers import RECORD_SECONDS
from game_tasks.views import view_of
from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp
from liap_tasks.statistics import queue_statistics
from liap_tasks.testing import DeadLetters, WorkerClock
from tests.game_tasks.games import walk
from tests.game_tasks.test_hasty import hasty_answer


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


def test_the_bot_answers_eagerly_too(eager_app: LiapApp) -> None:
    for view, kind in some_views(12):
        assert ask_bot(view, kind) == bot.decide(view, kind)


def test_the_hasty_stand_in_answers_when_no_worker_does(game_app: LiapApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bot_tasks, "ANSWER_SECONDS", 0.05)
    asked = {kind: (ask_bot(view, kind), hasty_answer(view, kind)) for view, kind in some_views(12)}
    assert {DecisionKind.DECLARE, DecisionKind.PLAY} <= asked.keys()
    assert all(answer == expected for answer, expected in asked.values())


def test_a_view_that_makes_no_sense_is_a_dead_letter(
    game_app: LiapApp, liap_worker: EmbeddedWorker, dead_letters: DeadLetters
) -> None:
    choose_play.delay({"player_id": "nobody"})
    letter = dead_letters.wait()
    assert (letter.reason, letter.task) == (DeadLetterReason.VALIDATION_FAILED, "game_tasks.bot.choose_play")


def test_each_matching_subscriber_gets_an_event_once(game_app: LiapApp, virtual_clock: WorkerClock) -> None:
    publish(event(GameEventType.GAME_STARTED, players=["a"]))
    waiting = {name: numbers["ready"] for name, numbers in queue_statistics(game_app).items() if numbers["ready"]}
    assert waiting == {"game_tasks.record": 1, "game_tasks.lobby": 1, **demo_queues(waiting)}
    with EmbeddedWorker(game_app, queues=["game_tasks.record", "game_tasks.lobby"]):
        virtual_clock.advance(RECORD_SECONDS)
    assert game_app.task_statistics["game_tasks.lobby"]["succeeded"] == 1
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
    game_app: LiapApp, liap_worker: EmbeddedWorker, virtual_clock: WorkerClock
) -> None:
    one = event(GameEventType.PIECE_PLAYED)
    publish(one)
    publish(one)
    virtual_clock.advance(RECORD_SECONDS)
    assert default_archive().events("r1") == [one]


def test_a_finished_game_is_archived(
    game_app: LiapApp, liap_worker: EmbeddedWorker, virtual_clock: WorkerClock
) -> None:
    publish(event(GameEventType.GAME_ENDED, winners=["a"], scores={"a": 50}, rounds=9))
    virtual_clock.settle()
    assert default_archive().game("g1") == {"winners": ["a"], "scores": {"a": 50}, "rounds": 9}


def test_a_closed_room_is_cleaned_up_an_hour_later(
    game_app: LiapApp, liap_worker: EmbeddedWorker, virtual_clock: WorkerClock
) -> None:
    publish(event(GameEventType.ROOM_CLOSED))
    virtual_clock.advance(3599)
    assert len(default_archive().events("r1")) == 1
    virtual_clock.advance(1)
    assert default_archive().events("r1") == []
