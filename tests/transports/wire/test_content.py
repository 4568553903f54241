"""Properties and headers come out of a block as they went in, and the block stays shut where it can."""

from __future__ import annotations

from datetime import UTC
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transports.engine import InvalidArgument
from transports.wire.carried import CarriedMessage
from transports.wire.content import pack_content, pack_table, unpack_content, unpack_table

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.decimals(allow_nan=False),
)
NAMES = st.text(max_size=10)
TABLES = st.dictionaries(
    NAMES,
    st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=5),
    max_size=5,
)


@given(TABLES, st.none() | TABLES)
@settings(max_examples=50, deadline=None)
def test_what_is_packed_comes_out_the_same(properties: dict[str, Any], headers: dict[str, Any] | None) -> None:
    assert unpack_content(pack_content(properties, headers)) == (properties, headers)


def test_members_of_enumerations_travel_as_their_values() -> None:
    class Level(IntEnum):
        HIGH = 7

    assert unpack_table(pack_table({"level": Level.HIGH, "pair": (1, 2)})) == {"level": 7, "pair": [1, 2]}


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**64])
def test_what_no_table_can_hold_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        pack_table({"header": value})


@given(st.binary())
@example(b"\x81\x80\x00")  # a table with a table for a name
@example(b"\x92\x80\x81\x80\x00")
def test_garbage_is_a_value_error_or_a_value(block: bytes) -> None:
    try:
        unpack_content(block)
    except ValueError:
        return
    properties, headers = unpack_content(block)
    assert isinstance(properties, dict)
    assert headers is None or isinstance(headers, dict)


def carried(headers: dict[str, Any] | None = None, **rules: Any) -> CarriedMessage:
    return CarriedMessage(b"body", pack_content({"message_id": "m-1"}, headers), "x", "key", **rules)


def test_queues_get_their_answers_without_opening_the_block() -> None:
    message = CarriedMessage(
        b"body",
        b"\xc1 not a block",
        "x",
        "key",
        priority=3,
        expiration="1500",
        rules={"x-delay": 250, "x-group-id": "g"},
    )

    assert (message.priority, message.ttl, message.delay, message.size) == (3, 1.5, 0.25, 4)
    assert message.header("x-group-id") == "g"
    assert message.header("x-delay") is None  # the broker takes it off
    assert message.header("x-deduplication-id") is None
    assert not message.is_identified_by("task-1")


def test_the_block_is_opened_when_asked_for() -> None:
    message = carried({"id": "task-1", "other": "o"})

    assert message.headers == {"id": "task-1", "other": "o"}
    assert message.properties == {"message_id": "m-1"}
    assert message.header("other") == "o"
    assert message.is_identified_by("task-1")
    assert not message.is_identified_by("m-1")
    assert carried().is_identified_by("m-1")


def test_a_redirected_message_keeps_its_body_and_the_rules_of_its_new_headers() -> None:
    letter = carried({"id": "t"}).redirected("dlx", "dead", {"id": "t", "x-group-id": "g"}, {"priority": 5})

    assert (letter.body, letter.exchange, letter.routing_key, letter.priority) == (b"body", "dlx", "dead", 5)
    assert letter.header("x-group-id") == "g"
    assert letter.headers == {"id": "t", "x-group-id": "g"}
    assert letter.properties == {"priority": 5}


def test_a_redirected_message_leaves_out_what_cannot_be_written_again() -> None:
    letter = carried().redirected("dlx", "dead", {"id": "t", "beyond": 2**64}, {"message_id": "m", "type": 2**64})

    assert letter.headers == {"id": "t"}
    assert letter.properties == {"message_id": "m"}


@pytest.mark.parametrize(
    "rules", [{"priority": -1}, {"priority": 256}, {"expiration": "soon"}, {"rules": {"x-delay": -5}}]
)
def test_bad_values_are_refused_as_by_any_message(rules: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        carried(**rules)
