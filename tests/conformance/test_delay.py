"""Messages that the broker holds until their delay has passed: header ``x-delay``, whole milliseconds.

The name and the meaning are those of RabbitMQ's delayed message plugin; RabbitMQ itself does not have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.driver import Driver, PublishRefused

pytestmark = pytest.mark.requires("broker_delay")


def delay(seconds: float) -> dict[str, int]:
    return {"x-delay": round(seconds * 1000)}


def test_a_delayed_message_is_ready_when_its_delay_has_passed(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish("later", queue, headers=delay(10))
    driver.publish("now", queue)

    assert driver.empty(queue) == ["now"]
    driver.advance(9.999)
    assert driver.count(queue) == 0
    driver.advance(0.001)
    assert driver.empty(queue) == ["later"]


def test_a_waiting_consumer_gets_a_delayed_message_in_time(driver: Driver) -> None:
    queue = driver.queue()
    inbox = driver.consume(queue, prefetch=1)
    driver.publish("m", queue, headers={**delay(5), "mine": 1})
    assert inbox.nothing_arrives()

    driver.advance(5)

    (message,) = inbox.receive(1)
    assert message.payload == "m"
    assert message.headers == {"mine": 1}  # the delay is spent
    assert not message.delivery_info["redelivered"]


def test_delayed_messages_take_no_place_in_a_window(driver: Driver) -> None:
    queue = driver.queue()
    inbox = driver.consume(queue, prefetch=1)
    driver.publish_all(range(100), queue, headers=delay(60))

    driver.publish("urgent", queue)

    assert inbox.bodies(1) == ["urgent"]


def test_delayed_messages_come_due_in_the_order_of_their_delays(driver: Driver) -> None:
    queue = driver.queue()
    for seconds in (30, 10, 20):
        driver.publish(seconds, queue, headers=delay(seconds))

    driver.advance(60)

    assert driver.empty(queue) == [10, 20, 30]


def test_messages_that_come_due_together_keep_their_order(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all(range(10), queue, headers=delay(1))

    driver.advance(1)

    assert driver.empty(queue) == list(range(10))


def test_a_message_that_came_due_stands_behind_those_that_were_ready(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("delayed", queue, headers=delay(1))
    driver.publish("ready", queue)

    driver.advance(1)
    driver.publish("new", queue)

    assert driver.empty(queue) == ["ready", "delayed", "new"]


def test_a_delay_of_zero_is_none(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish("m", queue, headers=delay(0))

    assert driver.take(queue).headers == {}


@pytest.mark.requires("priority")
def test_a_delayed_message_keeps_its_priority(driver: Driver) -> None:
    queue = driver.queue(max_priority=9)
    driver.publish("high", queue, headers=delay(1), priority=9)
    driver.publish("low", queue, priority=1)

    driver.advance(1)

    assert driver.empty(queue) == ["high", "low"]


@pytest.mark.requires("message_ttl")
def test_the_time_to_live_of_a_delayed_message_starts_when_it_is_ready(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue, headers=delay(10), expiration=5)

    driver.advance(14)
    assert driver.count(queue) == 1
    driver.advance(1)

    assert driver.empty(queue) == []


@pytest.mark.requires("fanout")
def test_every_copy_of_a_delayed_message_is_delayed(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    one, other = driver.bound_queue("one", exchange), driver.bound_queue("other", exchange)
    driver.publish("m", exchange, headers=delay(1))
    assert (driver.count(one), driver.count(other)) == (0, 0)

    driver.advance(1)

    assert (driver.empty(one), driver.empty(other)) == (["m"], ["m"])


@pytest.mark.requires("overflow_reject_publish")
def test_a_delayed_message_has_its_place_in_a_bounded_queue(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    driver.publish("delayed", queue, headers=delay(1))

    with pytest.raises(PublishRefused):
        driver.publish("m", queue)
    driver.advance(1)

    assert driver.empty(queue) == ["delayed"]


@pytest.mark.requires("dead_letter")
def test_a_dead_letter_is_not_delayed_again(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = driver.queue("q", queue_arguments=arguments)
    driver.publish("m", queue, headers=delay(1))
    driver.advance(1)

    driver.take(queue).reject()

    assert driver.count(dead) == 1


def test_purging_takes_what_is_ready_and_leaves_what_is_delayed(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("delayed", queue, headers=delay(1))
    driver.publish("ready", queue)

    assert queue.purge() == 1
    driver.advance(1)

    assert driver.empty(queue) == ["delayed"]


@pytest.mark.parametrize("value", [-1, "1000", 1.5, True, 2**32, None], ids=repr)
def test_an_impossible_delay_is_refused(driver: Driver, value: object) -> None:
    queue = driver.queue()

    with driver.refuses(406) as channel:
        driver.publish("m", queue, headers={"x-delay": value}, channel=channel)

    assert driver.count(queue) == 0


def test_delayed_messages_can_be_looked_at(driver: Driver) -> None:
    queue = driver.queue()
    for seconds in (30, 10):
        driver.publish(seconds, queue, headers=delay(seconds))
    driver.advance(4)

    held = driver.channel.delayed(queue.name)

    assert [(pytest.approx(left), message.payload) for left, message in held] == [(6, 10), (26, 30)]


def test_a_delayed_message_can_be_cancelled_by_its_id(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("cancelled", queue, headers=delay(1), message_id="one")
    driver.publish("kept", queue, headers=delay(1), message_id="other")

    assert driver.channel.cancel_delayed(queue.name, "one") == 1
    assert driver.channel.cancel_delayed(queue.name, "nobody") == 0
    driver.advance(1)

    assert driver.empty(queue) == ["kept"]


@pytest.mark.parametrize("seconds", [1, 100], ids=["sooner", "later"])
def test_a_delayed_message_can_be_rescheduled_by_its_id(driver: Driver, seconds: float) -> None:
    queue = driver.queue()
    driver.publish("m", queue, headers=delay(10), message_id="one")

    assert driver.channel.reschedule(queue.name, "one", seconds) == 1
    driver.advance(seconds - 0.5)
    assert driver.count(queue) == 0
    driver.advance(0.5)

    assert driver.empty(queue) == ["m"]
