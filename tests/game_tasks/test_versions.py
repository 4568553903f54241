"""Events of other versions: older ones are brought up to date, later ones wait among the dead letters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from game_tasks import publish, subscribe
from game_tasks.events import GameEvent, GameEventType, UnknownVersionError
from game_tasks.subscribers import RECORD_SECONDS
from game_tasks.versions import upcast
from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp
from liap_tasks.testing import DeadLetters, WorkerClock


def with_round(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "round": 1}


def with_seat(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "seat": event["round"] + 1}


STEPS = {1: with_round, 2: with_seat}


@pytest.mark.parametrize(
    ("event", "current"),
    [
        ({"a": 1}, {"a": 1, "round": 1, "seat": 2, "schema_version": 3}),
        ({"schema_version": 2, "round": 7}, {"schema_version": 3, "round": 7, "seat": 8}),
        ({"schema_version": 3, "seat": 5}, {"schema_version": 3, "seat": 5}),
    ],
)
def test_an_older_event_is_led_to_the_current_version_step_by_step(
    event: dict[str, Any], current: dict[str, Any]
) -> None:
    given = dict(event)
    assert upcast(event, upcasters=STEPS, current=3) == current
    assert event == given


@pytest.mark.parametrize("version", [4, 0, -1, "2", None, 2.5])
def test_a_version_nobody_knows_is_refused_and_named(version: object) -> None:
    with pytest.raises(UnknownVersionError, match="update the program, then replay") as caught:
        upcast({"schema_version": version}, upcasters=STEPS, current=3)
    assert (caught.value.version, caught.value.known) == (version, 3)
    assert caught.value.reason is DeadLetterReason.UNKNOWN_VERSION


def test_an_event_of_the_future_waits_among_the_dead_letters(
    game_app: LiapApp, liap_worker: EmbeddedWorker, virtual_clock: WorkerClock, dead_letters: DeadLetters
) -> None:
    known = GameEvent(event_type=GameEventType.GAME_PAUSED, room_id="r1", sequence=1)
    publish(known.model_copy(update={"schema_version": 99}))
    virtual_clock.advance(RECORD_SECONDS)
    [letter] = dead_letters.of(task="game_tasks.record")
    assert letter.reason == DeadLetterReason.UNKNOWN_VERSION
    assert dead_letters.call_of(letter).args[0]["schema_version"] == 99


def test_a_subscriber_needs_to_say_what_it_wants(game_app: LiapApp) -> None:
    with pytest.raises(ValueError, match="needs a pattern"):
        subscribe(name="tests.nothing")


def test_events_read_from_anywhere_are_brought_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    event = GameEvent(event_type=GameEventType.GAME_PAUSED, room_id="r1", sequence=1)
    stored: Callable[[], str] = event.model_dump_json
    assert GameEvent.model_validate_json(stored()) == event
    with pytest.raises(UnknownVersionError):
        GameEvent.model_validate_json(stored().replace('"schema_version":1', '"schema_version":2'))
