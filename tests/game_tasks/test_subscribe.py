"""Who gets which game events: by pattern, type, room and filter; and how."""

from __future__ import annotations

import asyncio
import queue
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import signals

from game_tasks import apublish, publish, subscribe
from game_tasks.application import game_events
from game_tasks.events import GameEvent, GameEventType
from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp, RetryPolicy
from liap_tasks.statistics import queue_statistics
from liap_tasks.testing import DeadLetters, WorkerClock

DEADLINE = 30.0
NEVER = RetryPolicy(max_retries=0)


def event(event_type: GameEventType, sequence: int = 1, room: str = "r1") -> GameEvent:
    return GameEvent(event_type=event_type, room_id=room, sequence=sequence)


class Heard:
    """Who was told of which event, in that order."""

    def __init__(self) -> None:
        self._told: queue.Queue[tuple[str, str, int]] = queue.Queue()

    def by(self, name: str) -> Callable[[GameEvent], None]:
        def listen(event: GameEvent) -> None:
            self._told.put((name, event.room_id, event.sequence))

        return listen

    def next(self) -> tuple[str, str, int]:
        return self._told.get(timeout=DEADLINE)

    @property
    def nothing_more(self) -> bool:
        return self._told.empty()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(autouse=True)
def _nobody_stays_subscribed(game_app: LiapApp) -> Iterator[None]:
    before = {known.task for known in game_events._subscriptions}
    yield
    for name in {known.task for known in game_events._subscriptions} - before:
        game_events.unsubscribe(name)


def waiting(app: LiapApp, name: str) -> float:
    return queue_statistics(app, name)[name]["enqueued"]


def test_the_broker_sorts_by_pattern_type_and_room(game_app: LiapApp, heard: Heard) -> None:
    subscribe("game.*", name="game_tests.games")(heard.by("games"))
    subscribe(types=[GameEventType.ROOM_LEFT, GameEventType.GAME_ENDED], name="game_tests.types")(heard.by("types"))
    subscribe("game.*", types=[GameEventType.ROOM_LEFT, GameEventType.GAME_ENDED], name="game_tests.both")(
        heard.by("both")
    )
    subscribe("#", room="r2", name="game_tests.room")(heard.by("room"))
    publish(event(GameEventType.GAME_STARTED))
    publish(event(GameEventType.GAME_ENDED, 2))
    publish(event(GameEventType.ROOM_LEFT, 3))
    publish(event(GameEventType.ROOM_LEFT, 1, room="r2"))
    names = ("game_tests.games", "game_tests.types", "game_tests.both", "game_tests.room")
    assert [waiting(game_app, name) for name in names] == [2, 3, 1, 1]


@pytest.mark.parametrize("pattern", ["game.strted", "", "games.#"])
def test_a_pattern_that_no_type_of_event_matches_is_an_error(game_app: LiapApp, pattern: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"no type of event matches {pattern!r}; there are ")):
        subscribe("game.*", pattern)


def test_types_that_no_pattern_matches_are_an_error(game_app: LiapApp) -> None:
    with pytest.raises(ValueError, match=r"none of the types room.left matches game\.\*"):
        subscribe("game.*", types=[GameEventType.ROOM_LEFT])


def test_a_filter_sees_the_event_and_a_queue_is_shared(game_app: LiapApp, heard: Heard) -> None:
    subscribe(
        "game.*", queue="game_tests.shared", name="game_tests.even", filter=lambda event: event.sequence % 2 == 0
    )(heard.by("even"))
    subscribe("game.*", queue="game_tests.shared", name="game_tests.all")(heard.by("all"))
    publish(event(GameEventType.GAME_STARTED, 1))
    publish(event(GameEventType.GAME_PAUSED, 2))
    assert waiting(game_app, "game_tests.shared") == 2
    with EmbeddedWorker(game_app, queues=["game_tests.shared"]):
        told = [heard.next() for _ in range(3)]
    assert sorted(told) == [("all", "r1", 1), ("all", "r1", 2), ("even", "r1", 2)]
    assert heard.nothing_more


def test_a_coroutine_and_a_task_that_is_there_already_may_subscribe(game_app: LiapApp, heard: Heard) -> None:
    @subscribe("game.started", name="game_tests.coroutine")
    async def listen(event: GameEvent) -> None:
        await asyncio.sleep(0)
        heard.by("coroutine")(event)

    @game_app.task(name="game_tests.task", shared=False)
    def known(event: GameEvent) -> None:
        heard.by("task")(event)

    made = game_app.tasks["game_tests.task"]
    assert subscribe("game.started")(made) is made
    with pytest.raises(TypeError, match="a task already"):
        subscribe("game.started", timeout=3)(made)
    with EmbeddedWorker(game_app, queues=["game_tests.coroutine", "game_tests.task"]):
        asyncio.run(apublish(event(GameEventType.GAME_STARTED)))
        assert {heard.next()[0], heard.next()[0]} == {"coroutine", "task"}


def test_a_subscriber_without_a_name_has_celery_s(game_app: LiapApp) -> None:
    @subscribe("game.started")
    def nameless(event: GameEvent) -> None: ...

    assert nameless.name == f"{__name__}.nameless"
    assert nameless.name in game_events.subscribers("game.started")


def test_monitors_see_a_subscriber_under_its_own_name(game_app: LiapApp, heard: Heard) -> None:
    received: list[str] = []

    def note(request: Any, **_: Any) -> None:
        received.append(request.name)

    subscribe("game.started", name="game_tests.seen")(heard.by("seen"))
    signals.task_received.connect(note)
    try:
        with EmbeddedWorker(game_app, queues=["game_tests.seen"]):
            publish(event(GameEventType.GAME_STARTED))
            heard.next()
    finally:
        signals.task_received.disconnect(note)
    assert received == ["game_tests.seen"]


def test_a_failing_subscriber_leaves_the_others_alone(
    game_app: LiapApp, heard: Heard, dead_letters: DeadLetters
) -> None:
    @subscribe("game.started", name="game_tests.broken", retry_policy=NEVER)
    def broken(event: GameEvent) -> None:
        raise ConnectionError("no microphone")

    subscribe("game.started", name="game_tests.sound")(heard.by("sound"))
    publish(event(GameEventType.GAME_STARTED))
    with EmbeddedWorker(game_app, queues=["game_tests.broken", "game_tests.sound"]):
        assert heard.next() == ("sound", "r1", 1)
        letter = dead_letters.wait()
    assert (letter.task, letter.reason) == ("game_tests.broken", DeadLetterReason.RETRIES_EXHAUSTED)
    assert heard.nothing_more


def test_a_room_stays_in_order_when_an_event_is_retried(
    game_app: LiapApp, heard: Heard, virtual_clock: WorkerClock
) -> None:
    failed: list[int] = []

    @subscribe(
        "game.*", name="game_tests.flaky", retry_policy=RetryPolicy(max_retries=1, initial_delay=5, jitter=False)
    )
    def flaky(event: GameEvent) -> None:
        if event.room_id == "r1" and event.sequence == 1 and not failed:
            failed.append(1)
            raise ConnectionError("once")
        heard.by("flaky")(event)

    for sequence in (1, 2):
        for room in ("r1", "r2"):
            publish(event(GameEventType.GAME_PAUSED, sequence, room))
    with EmbeddedWorker(game_app, queues=["game_tests.flaky"]):
        assert [heard.next(), heard.next()] == [("flaky", "r2", 1), ("flaky", "r2", 2)]
        virtual_clock.advance(5)
        assert [heard.next(), heard.next()] == [("flaky", "r1", 1), ("flaky", "r1", 2)]


def test_a_dead_letter_of_an_older_version_is_brought_up_to_date_when_it_is_replayed(
    game_app: LiapApp,
    liap_worker: EmbeddedWorker,
    heard: Heard,
    dead_letters: DeadLetters,
    virtual_clock: WorkerClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @subscribe("game.paused", name="game_tests.stubborn", retry_policy=NEVER)
    def stubborn(event: GameEvent) -> None:
        if not event.data:
            raise ConnectionError("this version knows no reason")
        heard.by(str(event.data["reason"]))(event)

    publish(event(GameEventType.GAME_PAUSED))
    assert dead_letters.wait(task="game_tests.stubborn").reason == DeadLetterReason.RETRIES_EXHAUSTED
    virtual_clock.settle()
    # The program is updated: events have a reason from now on.
    monkeypatch.setattr("game_tasks.events.upcast", lambda body: {**body, "data": {"reason": "old"}})
    virtual_clock.advance(game_app.settings.dlq_retry_delay)
    assert heard.next() == ("old", "r1", 1)
