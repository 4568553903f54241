"""Queue arguments: every known one accepted, mistyped and out of range; unknown ones; combinations."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from tests.transports.virtual_broker import VirtualBroker
from transports.engine import KNOWN_ARGUMENTS, OVERFLOW_RULES, ChannelRefusal, InvalidArgument, parse_arguments
from transports.engine.arguments import MAX_MILLISECONDS

# argument: (accepted value -> parsed value, refused values)
TABLE: dict[str, tuple[list[tuple[Any, Any]], list[Any]]] = {
    "x-message-ttl": ([(0, 0.0), (1500, 1.5), (MAX_MILLISECONDS, MAX_MILLISECONDS / 1000)], [-1, MAX_MILLISECONDS + 1]),
    "x-expires": ([(1, 0.001), (60_000, 60.0)], [0, -1, MAX_MILLISECONDS + 1]),
    "x-max-length": ([(0, 0), (10, 10)], [-1]),
    "x-max-length-bytes": ([(0, 0), (10, 10)], [-1]),
    "x-overflow": ([(rule, rule) for rule in OVERFLOW_RULES], ["drop", "", "Block"]),
    "x-dead-letter-exchange": ([("", ""), ("dlx", "dlx")], []),
    "x-dead-letter-routing-key": ([("", ""), ("dead", "dead")], []),
    "x-dead-letter-strategy": ([(s, s) for s in ("at-most-once", "at-least-once")], ["exactly-once"]),
    "x-max-priority": ([(1, 1), (255, 255)], [0, 256, -1]),
    "x-priority-aging": ([(1, 1.0), (0.5, 0.5)], [0, -1, float("inf"), float("nan")]),
    "x-delivery-limit": ([(0, 0), (3, 3)], [-1]),
    "x-single-active-consumer": ([(True, True), (False, False)], []),
    "x-deduplication-window": ([(1, 0.001), (5000, 5.0)], [0, -1]),
    "x-message-groups": ([(True, True), (False, False)], []),
}
WRONG_TYPES: dict[type, list[Any]] = {
    int: ["10", 1.5, True, None, [1]],
    float: ["10", True, None, [1]],
    str: [1, True, None, b"bytes", ["a"]],
    bool: [0, 1, "true", None],
}
COMPANIONS = {
    "x-dead-letter-routing-key": {"x-dead-letter-exchange": "dlx"},
    "x-priority-aging": {"x-max-priority": 9},
}


def wrong_types(name: str) -> list[Any]:
    sample = TABLE[name][0][0][0]
    return WRONG_TYPES[float if name == "x-priority-aging" else type(sample)]


ACCEPTED = [(name, given, parsed) for name, (accepted, _) in TABLE.items() for given, parsed in accepted]
REFUSED = [(name, value) for name, (_, refused) in TABLE.items() for value in refused + wrong_types(name)]


def test_every_known_argument_is_tried_here() -> None:
    assert set(TABLE) == set(KNOWN_ARGUMENTS)


@pytest.mark.parametrize(("name", "given", "parsed"), ACCEPTED)
def test_a_possible_value_is_accepted(name: str, given: Any, parsed: Any) -> None:
    arguments = parse_arguments({name: given, **COMPANIONS.get(name, {})})

    value = getattr(arguments, KNOWN_ARGUMENTS[name][0])
    assert value == parsed
    assert type(value) is type(parsed)


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_an_impossible_value_is_refused_with_name_value_and_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse_arguments({**COMPANIONS.get(name, {}), name: value})

    assert refusal.value.name == name
    assert refusal.value.value is value
    assert refusal.value.allowed == KNOWN_ARGUMENTS[name][1][1]
    assert name in str(refusal.value)
    assert repr(value) in str(refusal.value)
    assert refusal.value.allowed in str(refusal.value)


@pytest.mark.parametrize("name", ["x-max-lenght", "max-length", "x-queue-leader-locator", ""])
def test_an_unknown_argument_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse_arguments({name: 10})

    assert refusal.value.name == name
    for known in KNOWN_ARGUMENTS:
        assert known in refusal.value.allowed


@pytest.mark.parametrize(
    ("name", "true", "false"), [("x-queue-type", "classic", "quorum"), ("x-queue-mode", "default", "lazy")]
)
def test_what_is_true_anyway_may_be_said_and_its_opposite_may_not(name: str, true: str, false: str) -> None:
    assert parse_arguments({name: true}) == parse_arguments({})
    with pytest.raises(InvalidArgument, match=f"{name}='{false}'"):
        parse_arguments({name: false})


def test_a_dead_letter_routing_key_needs_an_exchange() -> None:
    with pytest.raises(ChannelRefusal) as refusal:
        parse_arguments({"x-dead-letter-routing-key": "dead"})

    assert refusal.value.reply_code == 406


def test_ageing_needs_a_priority_queue() -> None:
    with pytest.raises(InvalidArgument, match="x-max-priority"):
        parse_arguments({"x-priority-aging": 1})


def test_a_member_of_an_enumeration_counts_as_its_value() -> None:
    class Overflow(str, enum.Enum):  # noqa: UP042 - its str() is the member's name, which is the trap
        BLOCK = "block"

    class Bound(enum.IntEnum):
        SMALL = 5

    arguments = parse_arguments({"x-overflow": Overflow.BLOCK, "x-max-length": Bound.SMALL})

    assert (arguments.overflow, arguments.max_length) == ("block", 5)
    assert type(arguments.overflow) is str


def test_no_arguments_are_the_defaults() -> None:
    assert parse_arguments(None) == parse_arguments({})
    assert parse_arguments({}).overflow == "drop-head"


@pytest.mark.parametrize(
    ("declared", "again", "told"),
    [
        ({"x-max-length": 10_000}, {"x-max-length": 500}, "'x-max-length' # received '500' but current is '10000'"),
        (
            {"x-message-ttl": 300_000, "x-max-length": 5},
            {"x-message-ttl": 600_000, "x-max-length": 5},
            "'x-message-ttl' # received '600000' but current is '300000'",
        ),
        ({}, {"x-max-priority": 9}, "'x-max-priority' # received '9' but current is none"),
        ({"x-dead-letter-exchange": "d"}, {}, "'x-dead-letter-exchange' # received none but current is 'd'"),
        ({}, {"x-overflow": "block"}, "'x-overflow' # received 'block' but current is 'drop-head'"),
        ({"x-message-groups": True}, {}, "'x-message-groups' # received 'false' but current is 'true'"),
    ],
)
def test_another_declaration_is_refused_by_the_argument_that_differs(
    declared: dict[str, Any], again: dict[str, Any], told: str
) -> None:
    broker = VirtualBroker()
    broker.engine.declare_queue(broker.connection, "q", arguments=declared)

    with pytest.raises(ChannelRefusal) as refused:
        broker.engine.declare_queue(broker.connection, "q", arguments=again)

    text = told.replace("#", "for queue 'q' in vhost '/':")
    assert str(refused.value) == f"(406) PRECONDITION_FAILED - inequivalent arg {text}"


def test_another_declaration_of_an_exchange_is_refused_by_what_differs() -> None:
    engine = VirtualBroker().engine
    engine.declare_exchange("x", "topic", arguments={"alternate-exchange": "a"})

    with pytest.raises(
        ChannelRefusal, match=r"arg 'type' for exchange 'x' .*: received 'fanout' but current is 'topic'"
    ):
        engine.declare_exchange("x", "fanout")
    with pytest.raises(ChannelRefusal, match=r"arg 'durable' .*: received 'true' but current is 'false'"):
        engine.declare_exchange("x", "topic", durable=True)
    with pytest.raises(ChannelRefusal, match=r"arg 'alternate-exchange' .*: received none but current is 'a'"):
        engine.declare_exchange("x", "topic")
