"""A message published twice is enqueued once: header ``x-deduplication-id``, queue ``x-deduplication-window``."""

from __future__ import annotations

import pytest

from tests.conformance.driver import Driver

pytestmark = pytest.mark.requires("deduplication")

WINDOW = 10.0


def deduplicating(driver: Driver, label: str = "q") -> object:
    return driver.queue(label, queue_arguments={"x-deduplication-window": int(WINDOW * 1000)})


def identity(value: str) -> dict[str, str]:
    return {"x-deduplication-id": value}


def test_a_second_publish_of_an_id_is_confirmed_and_dropped(driver: Driver) -> None:
    queue = deduplicating(driver)

    driver.publish("first", queue, headers=identity("a"))
    driver.publish("second", queue, headers=identity("a"))
    driver.publish("other", queue, headers=identity("b"))

    assert driver.empty(queue) == ["first", "other"]


def test_an_id_is_remembered_after_its_message_is_gone(driver: Driver) -> None:
    queue = deduplicating(driver)
    driver.publish("first", queue, headers=identity("a"))
    driver.take(queue).ack()

    driver.publish("second", queue, headers=identity("a"))

    assert driver.empty(queue) == []


def test_an_id_is_forgotten_when_the_window_has_passed(driver: Driver) -> None:
    queue = deduplicating(driver)
    driver.publish("first", queue, headers=identity("a"))

    driver.advance(WINDOW)
    driver.publish("second", queue, headers=identity("a"))

    assert driver.empty(queue) == ["first", "second"]


def test_each_queue_remembers_for_itself(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    one, other, plain = deduplicating(driver, "one"), deduplicating(driver, "other"), driver.queue("plain")
    for queue in (one, other, plain):
        queue.bind_to(exchange.name)
    driver.publish("first", one, headers=identity("a"))

    driver.publish("second", exchange, headers=identity("a"))

    assert [driver.empty(queue) for queue in (one, other, plain)] == [["first"], ["second"], ["second"]]


def test_messages_without_an_id_are_all_enqueued(driver: Driver) -> None:
    queue = deduplicating(driver)

    driver.publish_all(["m", "m"], queue)

    assert driver.empty(queue) == ["m", "m"]


@pytest.mark.requires("statistics")
def test_what_was_dropped_as_a_duplicate_is_counted(driver: Driver) -> None:
    queue = deduplicating(driver)

    for _ in range(3):
        driver.publish("m", queue, headers=identity("a"))

    numbers = driver.channel.queue_stats(queue.name)[queue.name]
    assert (numbers["enqueued"], numbers["deduplicated"]) == (1, 2)
