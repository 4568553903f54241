"""Priority queues: larger is more urgent, first come first served in a level (RabbitMQ docs: Priority Queues)."""

from __future__ import annotations

import pytest

from tests.conformance.driver import Driver

pytestmark = pytest.mark.requires("priority")


def publish_by_priority(driver: Driver, to: object, priorities: list[int | None]) -> None:
    """Publish one message a priority; the body tells the priority and the place, as in "5:0"."""
    for place, priority in enumerate(priorities):
        driver.publish(f"{priority}:{place}", to, priority=priority)


def test_a_message_of_higher_priority_leaves_first(driver: Driver) -> None:
    queue = driver.queue(max_priority=9)

    publish_by_priority(driver, queue, [1, 9, 5, 0, 7])

    assert driver.empty(queue) == ["9:1", "7:4", "5:2", "1:0", "0:3"]


def test_messages_of_equal_priority_leave_in_the_order_they_came(driver: Driver) -> None:
    queue = driver.queue(max_priority=9)

    publish_by_priority(driver, queue, [2, 1, 2, 1, 2, 1])

    assert driver.empty(queue) == ["2:0", "2:2", "2:4", "1:1", "1:3", "1:5"]


def test_a_message_without_priority_has_the_lowest(driver: Driver) -> None:
    queue = driver.queue(max_priority=9)

    publish_by_priority(driver, queue, [None, 0, 1, None, 0])

    assert driver.empty(queue) == ["1:2", "None:0", "0:1", "None:3", "0:4"]


def test_a_priority_above_the_queues_highest_counts_as_the_highest(driver: Driver) -> None:
    queue = driver.queue(max_priority=3)

    publish_by_priority(driver, queue, [3, 9, 255, 2, 3])

    assert driver.empty(queue) == ["3:0", "9:1", "255:2", "3:4", "2:3"]


def test_a_message_keeps_the_priority_it_was_published_with(driver: Driver) -> None:
    queue = driver.queue(max_priority=3)

    driver.publish("m", queue, priority=200)

    assert driver.take(queue).properties["priority"] == 200


@pytest.mark.parametrize("levels", [1, 255])
def test_the_number_of_levels_is_the_queues_choice(driver: Driver, levels: int) -> None:
    queue = driver.queue(max_priority=levels)

    publish_by_priority(driver, queue, [0, levels, 0, levels])

    assert driver.empty(queue) == [f"{levels}:1", f"{levels}:3", "0:0", "0:2"]


@pytest.mark.parametrize("levels", [-1, 256, "9", 1.5], ids=repr)
def test_impossible_numbers_of_levels_are_refused(driver: Driver, levels: object) -> None:
    with driver.refuses(406) as channel:
        channel.queue_declare(driver.name("bad"), durable=False, arguments={"x-max-priority": levels})


@pytest.mark.lacks("priority_by_default")
def test_a_queue_that_is_no_priority_queue_ignores_priorities(driver: Driver) -> None:
    queue = driver.queue()

    publish_by_priority(driver, queue, [1, 9, 5])

    assert driver.empty(queue) == ["1:0", "9:1", "5:2"]


@pytest.mark.requires("priority_by_default")
def test_every_queue_is_a_priority_queue_unless_asked_otherwise(driver: Driver) -> None:
    queue = driver.queue()

    publish_by_priority(driver, queue, [1, 9, 5])

    assert driver.empty(queue) == ["9:1", "5:2", "1:0"]


@pytest.mark.requires("requeue_in_place")
def test_a_message_put_back_keeps_its_level_and_its_place(driver: Driver) -> None:
    queue = driver.queue(max_priority=9)
    publish_by_priority(driver, queue, [1, 5, 5, 1])
    held = driver.take_many(queue, 3)
    assert [message.payload for message in held] == ["5:1", "5:2", "1:0"]

    driver.publish("9:new", queue, priority=9)
    driver.publish("5:new", queue, priority=5)
    for message in reversed(held):
        message.requeue()

    assert driver.empty(queue) == ["9:new", "5:1", "5:2", "5:new", "1:0", "1:3"]


def test_a_waiting_consumer_gets_what_comes_whatever_its_priority(driver: Driver) -> None:
    queue = driver.queue(max_priority=9)
    inbox = driver.consume(queue)

    publish_by_priority(driver, queue, [1, 9, 5])

    assert inbox.bodies(3) == ["1:0", "9:1", "5:2"]


@pytest.mark.requires("prefetch")
def test_a_consumer_with_a_full_window_gets_the_most_urgent_next(driver: Driver) -> None:
    queue = driver.queue(max_priority=9)
    inbox = driver.consume(queue, prefetch=1)
    driver.publish("1:first", queue, priority=1)
    (first,) = inbox.receive(1)
    publish_by_priority(driver, queue, [1, 9, 5])

    first.ack()
    received = []
    for _ in range(3):
        (message,) = inbox.receive(1)
        received.append(message.payload)
        message.ack()

    assert received == ["9:1", "5:2", "1:0"]


@pytest.mark.requires("dead_letter")
def test_a_dead_letter_keeps_its_priority(driver: Driver) -> None:
    dead = driver.queue("dead", max_priority=9)
    queue = driver.queue(
        "q",
        max_priority=9,
        queue_arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name},
    )
    publish_by_priority(driver, queue, [1, 9, 5])

    for message in reversed(driver.take_many(queue, 3)):
        message.reject()

    driver.wait_for_count(dead, 3)
    assert driver.empty(dead) == ["9:1", "5:2", "1:0"]


@pytest.mark.requires("message_ttl")
def test_an_expired_message_behind_a_more_urgent_one_is_not_delivered(driver: Driver) -> None:
    queue = driver.queue(max_priority=9)
    driver.publish("low, short", queue, priority=1, expiration=0.2)
    driver.publish("high, long", queue, priority=9, expiration=60)

    driver.advance(0.2)

    assert driver.empty(queue) == ["high, long"]


@pytest.mark.requires("priority_aging")
def test_waiting_raises_the_priority(driver: Driver) -> None:
    queue = driver.queue(max_priority=9, queue_arguments={"x-priority-aging": 10})
    driver.publish("old", queue, priority=1)
    driver.advance(25)  # 2.5 levels: 3.5
    driver.publish("four", queue, priority=4)
    driver.publish("three", queue, priority=3)

    assert driver.empty(queue) == ["four", "old", "three"]


@pytest.mark.requires("priority_aging")
def test_no_priority_waits_for_ever_behind_newer_urgent_messages(driver: Driver) -> None:
    queue = driver.queue(max_priority=9, queue_arguments={"x-priority-aging": 1})
    driver.publish("patient", queue, priority=0)
    received = []

    for number in range(12):
        driver.publish(number, queue, priority=9)
        driver.advance(1)
        received.append(driver.take(queue, no_ack=True).payload)

    assert "patient" in received
