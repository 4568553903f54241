"""Whose turn it is: round robin, consumer priority, one active at a time, and who may have more."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.transports.virtual_broker import VirtualBroker
from transports.engine import Consumer
from transports.engine.consumer import Rota


def consumers(*priorities: int, prefetch: int = 0, no_ack: bool = False) -> list[Consumer]:
    broker = VirtualBroker()
    broker.declare("q")
    queue = broker.engine.queue("q")
    return [
        Consumer(
            broker.channel()[0],
            queue,
            f"{number}",
            no_ack=no_ack,
            exclusive=False,
            priority=priority,
            prefetch=prefetch,
        )
        for number, priority in enumerate(priorities)
    ]


def rota_of(members: Iterable[Consumer], single_active: bool = False) -> Rota:
    rota = Rota(single_active)
    for member in members:
        rota.add(member)
    return rota


def served(rota: Rota, count: int) -> str:
    """Serve ``count`` messages, each using one credit."""
    tags = []
    for _ in range(count):
        consumer = rota.next()
        if consumer is None:
            tags.append("-")
        else:
            consumer.unacked += 1
            tags.append(consumer.tag)
    return "".join(tags)


def test_equal_consumers_take_turns() -> None:
    assert served(rota_of(consumers(0, 0, 0)), 7) == "0120120"


def test_the_higher_priority_is_served_until_its_credit_is_used() -> None:
    assert served(rota_of(consumers(0, 5, 5, prefetch=2)), 8) == "12120" + "0--"


def test_negative_priorities_come_last() -> None:
    assert served(rota_of(consumers(-1, 0, prefetch=1)), 3) == "10-"


def test_a_consumer_without_credit_comes_back_at_the_end_of_the_line() -> None:
    members = consumers(0, 0, 0, prefetch=1)
    rota = rota_of(members)
    members[1].unacked = 1
    assert served(rota, 3) == "02-"
    members[1].unacked = 0
    members[0].unacked = 0
    rota.unpark()
    assert served(rota, 3) == "10-"


def test_one_active_consumer_is_served_alone_in_order_of_registration() -> None:
    members = consumers(0, 9, 0)
    rota = rota_of(members, single_active=True)

    assert served(rota, 3) == "000"
    assert rota.active is members[0]
    rota.remove(members[0])
    assert served(rota, 2) == "11"
    rota.remove(members[1])
    rota.remove(members[2])
    assert (rota.active, rota.next(), len(rota)) == (None, None, 0)


def test_the_active_consumer_without_credit_is_not_replaced() -> None:
    assert served(rota_of(consumers(0, 0, prefetch=1), single_active=True), 2) == "0-"


@pytest.mark.parametrize(
    ("unacked", "prefetch", "outstanding", "shared", "no_ack", "credit"),
    [
        (5, 0, 5, 0, False, True),
        (1, 2, 1, 0, False, True),
        (2, 2, 2, 0, False, False),
        (0, 2, 3, 3, False, False),
        (1, 2, 2, 3, False, True),
        (9, 2, 9, 3, True, True),
    ],
)
def test_credit_follows_both_limits(
    unacked: int, prefetch: int, outstanding: int, shared: int, no_ack: bool, credit: bool
) -> None:
    [consumer] = consumers(0, prefetch=prefetch, no_ack=no_ack)
    consumer.unacked = unacked
    consumer.channel.outstanding = outstanding
    consumer.channel.global_prefetch = shared

    assert consumer.has_credit() is credit
    consumer.channel.flowing = False
    assert not consumer.has_credit()


def test_iterating_allows_removal_meanwhile() -> None:
    rota = rota_of(consumers(0, 0, 0))

    for consumer in rota:
        rota.remove(consumer)

    assert len(rota) == 0
