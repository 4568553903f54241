"""The numbers of a queue, and a look at what is in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.driver import Driver, PublishRefused


def numbers(driver: Driver, queue: Any, *names: str) -> dict[str, float]:
    """Return some of a queue's numbers, read on another connection."""
    all_of_it = driver.connect().channel().queue_stats(queue.name)[queue.name]
    return {name: all_of_it[name] for name in names}


@pytest.mark.requires("statistics")
def test_every_end_of_a_message_is_counted_as_what_it_was(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    _, arguments = dead_letters()
    queue = driver.queue("q", queue_arguments={**arguments, "x-max-length": 5})
    driver.publish_all(range(6), queue)  # one is dropped
    acknowledged, rejected, requeued, _held = driver.take_many(queue, 4)
    acknowledged.ack()
    rejected.reject()
    requeued.requeue()
    driver.publish("expires", queue, expiration=1)
    driver.advance(1)

    counted = numbers(
        driver, queue, "enqueued", "delivered", "acknowledged", "rejected", "requeued", "expired", "dropped", "ready"
    )
    assert counted == {
        "enqueued": 7,
        "delivered": 4,
        "acknowledged": 1,
        "rejected": 1,
        "requeued": 1,
        "expired": 1,
        "dropped": 1,
        "ready": 2,
    }
    assert numbers(driver, queue, "unacked", "dead_lettered") == {"unacked": 1, "dead_lettered": 3}


@pytest.mark.requires("statistics")
def test_an_expired_message_is_counted_as_expired_at_once(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("long", queue)
    driver.publish("short", queue, expiration=1)  # not at the head

    driver.advance(1)

    assert numbers(driver, queue, "ready", "expired") == {"ready": 1, "expired": 1}


@pytest.mark.requires("statistics")
def test_bytes_are_those_of_all_bodies_the_queue_answers_for(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all([b"x" * 100, b"x" * 10, b"x"], queue)

    driver.take(queue)
    assert numbers(driver, queue, "bytes") == {"bytes": 111}
    driver.take(queue).ack()

    assert numbers(driver, queue, "bytes") == {"bytes": 101}


@pytest.mark.requires("statistics")
def test_the_age_is_that_of_the_oldest_ready_message(driver: Driver) -> None:
    queue = driver.queue()
    assert numbers(driver, queue, "oldest_ready_age") == {"oldest_ready_age": 0}
    driver.publish("old", queue)
    driver.advance(5)
    driver.publish("new", queue)
    driver.advance(2)

    assert numbers(driver, queue, "oldest_ready_age") == {"oldest_ready_age": 7}
    driver.take(queue)
    assert numbers(driver, queue, "oldest_ready_age") == {"oldest_ready_age": 2}


@pytest.mark.requires("statistics", "overflow_reject_publish")
def test_a_refused_publish_is_not_enqueued(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    driver.publish("a", queue)

    with pytest.raises(PublishRefused):
        driver.publish("b", queue)

    assert numbers(driver, queue, "enqueued", "refused", "dropped") == {"enqueued": 1, "refused": 1, "dropped": 0}


@pytest.mark.requires("statistics", "broker_delay")
def test_delayed_messages_are_counted_apart(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue, headers={"x-delay": 1000})

    assert numbers(driver, queue, "enqueued", "delayed", "ready") == {"enqueued": 1, "delayed": 1, "ready": 0}
    driver.advance(1)

    assert numbers(driver, queue, "enqueued", "delayed", "ready") == {"enqueued": 1, "delayed": 0, "ready": 1}


@pytest.mark.requires("statistics")
def test_the_numbers_of_all_queues_can_be_read_together(driver: Driver) -> None:
    one, other = driver.queue("one"), driver.queue("other")
    driver.publish("m", other)

    ready = {name: counted["ready"] for name, counted in driver.channel.queue_stats().items()}

    assert ready == {one.name: 0, other.name: 1}


@pytest.mark.requires("statistics")
def test_the_numbers_of_a_missing_queue_are_refused(driver: Driver) -> None:
    with driver.refuses(404) as channel:
        channel.queue_stats(driver.name("missing"))


@pytest.mark.requires("peek")
def test_peeking_shows_the_next_messages_and_changes_nothing(driver: Driver) -> None:
    queue = driver.queue(max_priority=9)
    for body, priority in [("low", 1), ("high", 9), ("middle", 5)]:
        driver.publish(body, queue, priority=priority, headers={"h": body})

    peeked = driver.channel.peek(queue.name, 2)

    assert [(message.payload, message.headers) for message in peeked] == [
        ("high", {"h": "high"}),
        ("middle", {"h": "middle"}),
    ]
    message = driver.take(queue)
    assert (message.payload, message.delivery_info["redelivered"]) == ("high", False)
    assert driver.empty(queue) == ["middle", "low"]
