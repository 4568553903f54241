"""What a transport declares missing is missing there: each declaration has its proof.

Without this a scenario could be kept from a transport that honours it, and the capability table would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from amqp.exceptions import MessageNacked

from tests.conformance.conftest import BROKERS, on_broker
from tests.conformance.driver import Driver, PublishRefused
from transports import CAPABILITIES
from transports.capabilities import FEATURES


def refuses_argument(name: str, value: object) -> Callable[[Driver], None]:
    """Return a proof: a queue with this argument cannot be declared."""

    def proof(driver: Driver) -> None:
        with driver.refuses(406) as channel:
            channel.queue_declare(driver.name("bad"), durable=False, arguments={name: value})

    return proof


def has_no_channel_method(name: str) -> Callable[[Driver], None]:
    """Return a proof: the channel cannot do it."""

    def proof(driver: Driver) -> None:
        assert not hasattr(driver.channel, name)

    return proof


def priorities_are_ignored_unless_asked_for(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("first", queue, priority=1)
    driver.publish("second", queue, priority=9)

    assert driver.empty(queue) == ["first", "second"]


def waiting_raises_no_priority(driver: Driver) -> None:
    queue = driver.queue(max_priority=9, queue_arguments={"x-priority-aging": 0.01})
    driver.publish("old", queue, priority=1)
    driver.advance(0.2)
    driver.publish("new", queue, priority=2)

    assert driver.empty(queue) == ["new", "old"]


def an_expired_message_waits_for_the_head(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("long", queue)
    driver.publish("short", queue, expiration=0.05)
    driver.advance(0.3)

    assert driver.count(queue) == 2


def unknown_arguments_are_ignored(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-max-lenght": 1})
    driver.publish_all("ab", queue)

    assert driver.count(queue) == 2


def a_delay_is_only_a_header(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue, headers={"x-delay": 60_000})

    message = driver.take(queue)
    assert (message.payload, message.headers) == ("m", {"x-delay": 60_000})


def duplicates_are_enqueued(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-deduplication-window": 60_000})
    driver.publish_all("ab", queue, headers={"x-deduplication-id": "same"})

    assert driver.empty(queue) == ["a", "b"]


def a_group_is_not_kept_in_order(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-message-groups": True})
    driver.publish_all("ab", queue, headers={"x-group-id": "room-1"})

    driver.take(queue)
    assert driver.take(queue).payload == "b"


def a_full_queue_says_no_by_confirm_only(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-max-length": 0, "x-overflow": "reject-publish"})

    with pytest.raises(PublishRefused) as caught:
        driver.publish("m", queue)

    assert isinstance(caught.value.__cause__, MessageNacked)


PROOFS: dict[str, Callable[[Driver], None]] = {
    "priority_by_default": priorities_are_ignored_unless_asked_for,
    "priority_aging": waiting_raises_no_priority,
    "eager_expiry": an_expired_message_waits_for_the_head,
    "strict_arguments": unknown_arguments_are_ignored,
    "broker_delay": a_delay_is_only_a_header,
    "deduplication": duplicates_are_enqueued,
    "message_groups": a_group_is_not_kept_in_order,
    "overflow_block": refuses_argument("x-overflow", "block"),
    "overflow_drop_lowest": refuses_argument("x-overflow", "drop-lowest"),
    "synchronous_full_error": a_full_queue_says_no_by_confirm_only,
    "statistics": has_no_channel_method("queue_stats"),
    "peek": has_no_channel_method("peek"),
}


MISSING = [
    (broker, feature)
    for broker in BROKERS
    for feature in FEATURES
    if not getattr(CAPABILITIES[broker], feature).supported
]


def test_every_feature_declared_missing_has_its_proof() -> None:
    assert {feature for _, feature in MISSING} == set(PROOFS)


def test_every_missing_feature_says_why() -> None:
    for broker, capabilities in CAPABILITIES.items():
        for feature in FEATURES:
            support = getattr(capabilities, feature)
            assert support.supported or support.note, f"{broker}: {feature}"


@pytest.mark.parametrize(("driver", "feature"), [on_broker(*pair) for pair in MISSING], indirect=["driver"])
def test_what_is_declared_missing_is_missing(driver: Driver, feature: str) -> None:
    PROOFS[feature](driver)


@pytest.mark.parametrize("driver", [on_broker("amqp")], indirect=True)
def test_a_classic_queue_of_rabbitmq_refuses_a_delivery_limit(driver: Driver) -> None:
    # Why scenarios with a delivery limit use quorum queues there.
    refuses_argument("x-delivery-limit", 3)(driver)
