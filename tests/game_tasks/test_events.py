from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from game_tasks.events import EVENT_PRIORITIES, GameEvent, GameEventType
from liap_tasks.policies.priority import MessagePriority

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.builds(
    GameEvent,
    event_type=st.sampled_from(GameEventType),
    room_id=st.none() | st.text(min_size=1),
    sequence=st.none() | st.integers(min_value=1),
    game_id=st.none() | st.text(),
    player_id=st.none() | st.text(),
    data=st.dictionaries(st.text(), JSON, max_size=4),
    event_id=st.uuids(),
    timestamp=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5, minutes=-30))])),
)


@given(EVENTS)
def test_an_event_comes_back_from_json_as_it_was(event: GameEvent) -> None:
    assert GameEvent.model_validate_json(event.model_dump_json()) == event
    assert GameEvent.model_validate(json.loads(json.dumps(event.model_dump(mode="json")))) == event


@pytest.mark.parametrize("event_type", GameEventType)
def test_every_type_has_its_priority(event_type: GameEventType) -> None:
    expected = {
        "error.occurred": MessagePriority.CRITICAL,
        "player.disconnected": MessagePriority.CRITICAL,
        "game.started": MessagePriority.HIGH,
        "game.ended": MessagePriority.HIGH,
    }.get(event_type.value, MessagePriority.NORMAL)

    assert GameEvent(event_type=event_type, room_id="r", sequence=1).priority is expected
    assert EVENT_PRIORITIES[event_type] is expected


def test_the_event_types_are_these() -> None:
    assert {event_type.value for event_type in GameEventType} == {
        "room.created", "room.joined", "room.left", "room.closed",
        "game.started", "game.ended", "game.paused", "game.resumed",
        "turn.started", "turn.ended", "piece.played", "declaration.made", "redeal.requested",
        "player.connected", "player.disconnected", "bot.activated", "bot.deactivated",
        "state.changed", "error.occurred",
    }  # fmt: skip


@pytest.mark.parametrize("event_type", GameEventType)
def test_a_types_name_is_its_value_in_capitals(event_type: GameEventType) -> None:
    assert event_type.name == event_type.value.replace(".", "_").upper()


def test_an_event_gets_its_own_id_the_time_and_the_schema_version() -> None:
    before = datetime.now(UTC)

    one = GameEvent(event_type=GameEventType.ROOM_CREATED, room_id="r", sequence=1)
    other = GameEvent(event_type=GameEventType.ROOM_CREATED, room_id="r", sequence=1)

    assert isinstance(one.event_id, UUID)
    assert one.event_id != other.event_id
    assert before <= one.timestamp <= other.timestamp <= datetime.now(UTC)
    assert one.schema_version == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_type": "game.stolen"},
        {"room_id": ""},
        {"sequence": 0},
        {"timestamp": datetime(2026, 1, 1)},  # without a time zone
        {"data": {"share": float("nan")}},
        {"data": {"share": [float("inf")]}},
        {"data": {"when": datetime(2026, 1, 1, tzinfo=UTC)}},
        {"colour": "red"},
    ],
)
def test_a_wrong_field_is_refused_by_name(wrong: dict[str, object]) -> None:
    right: dict[str, object] = {"event_type": "game.started", "room_id": "r", "sequence": 1}

    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GameEvent.model_validate(right | wrong)


def test_an_event_cannot_be_changed() -> None:
    event = GameEvent(event_type=GameEventType.ROOM_CREATED, room_id="r", sequence=1)

    with pytest.raises(ValidationError, match="frozen"):
        event.sequence = 2  # type: ignore[misc]
