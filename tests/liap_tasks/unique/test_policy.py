"""The policy: which calls are the same, and for how long a lock holds."""

from __future__ import annotations

import json
import string
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from liap_tasks import Unique


class Suit(Enum):
    RED = "red"


class Move(BaseModel):
    piles: int


def place(room: str, card: Any = 0, *, who: str = "a") -> None:
    """Have arguments."""


def key(policy: Unique, *args: Any, **kwargs: Any) -> str | None:
    return policy.key_of("game.place", place, args, kwargs)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Unique(), 'game.place:{"card":3,"room":"r1","who":"a"}'),
        (Unique(key="room"), 'game.place:{"room":"r1"}'),
        (Unique(key=("who", "room")), 'game.place:{"room":"r1","who":"a"}'),
        (Unique(key=lambda args, kwargs: f"{args[0]}/{kwargs['card']}"), 'game.place:"r1/3"'),
        (Unique(key=lambda args, kwargs: None), None),
    ],
)
def test_a_key_is_made_of_all_arguments_or_of_those_chosen(policy: Unique, expected: str | None) -> None:
    assert key(policy, "r1", card=3) == expected


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (Move(piles=2), {"piles": 2}),
        (Suit.RED, "red"),
        ((1, 2), [1, 2]),
        ({1: "x"}, {"1": "x"}),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (timedelta(seconds=1.5), 1.5),
        (UUID(int=1), str(UUID(int=1))),
        (Decimal("1.50"), "1.50"),
    ],
)
def test_a_value_gives_the_same_key_in_the_caller_and_after_its_way_through_json(value: Any, same: Any) -> None:
    assert key(Unique(), "r1", value) == key(Unique(), "r1", same)


def test_arguments_that_fit_nothing_or_have_no_text_are_refused() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'room'"):
        key(Unique())
    with pytest.raises(ValueError, match="'player' is no argument of place; it has room, card, who"):
        key(Unique(key="player"), "r1")
    with pytest.raises(TypeError, match=r"arguments of game\.place give no unique key: .*of type object.*key="):
        key(Unique(), "r1", object())
    assert key(Unique(key="room"), "r1", object()) == 'game.place:{"room":"r1"}'


def test_a_long_key_is_replaced_by_its_digest() -> None:
    long, other = key(Unique(), "r" * 300), key(Unique(), "r" * 301)
    assert long is not None
    assert len(long) == len("game.place:") + 64
    assert long != other


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"until": "finished"}, "until must be one of done, started, running, not 'finished'"),
        ({"on_conflict": "wait"}, "on_conflict must be one of reject, return"),
        ({"lease": 0.5}, "lease must be from 1 to 86400 s, not 0.5"),
        ({"lease": timedelta(days=2)}, "lease must be from 1"),
        ({"lease": "long"}, "lease must be seconds or a timedelta"),
        ({"queue_lease": -1}, "queue_lease must be a finite time"),
        ({"key": ()}, "key must be names of arguments or a function"),
        ({"key": [3]}, "key must be names of arguments or a function"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Unique(**wrong)


@pytest.mark.parametrize(
    ("policy", "delay", "expected"),
    [
        (Unique(), 0.0, 360.0),
        (Unique(lease=timedelta(seconds=10)), 30.0, 340.0),
        (Unique(lease=10, queue_lease=timedelta(minutes=1)), 0.0, 70.0),
        (Unique(lease=10), -5.0, 310.0),
    ],
)
def test_a_queued_call_s_lease_covers_its_delay_and_its_time_in_the_queue(
    policy: Unique, delay: float, expected: float
) -> None:
    assert policy.seconds_until_begun(delay=delay, ttl=300.0) == expected


def test_a_call_that_waits_looks_less_and_less_often() -> None:
    looks = [Unique().seconds_to_next_look(number) for number in (0, 1, 2, 5, 6, 10_000)]
    assert looks == pytest.approx([0.1, 0.2, 0.4, 3.2, 5.0, 5.0])


names = st.text(string.ascii_letters, min_size=1, max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(room=values, card=values)
def test_the_key_does_not_depend_on_how_the_arguments_are_given(room: Any, card: Any) -> None:
    by_place = key(Unique(), room, card)
    assert by_place == key(Unique(), card=card, room=room) == key(Unique(), room, card=card, who="a")
    over_the_wire = json.loads(json.dumps([room, card]))
    assert key(Unique(), *over_the_wire) == by_place


@given(one=values, other=values)
def test_two_calls_have_one_key_only_if_their_arguments_are_equal(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key(Unique(), one) == key(Unique(), other)) is same
