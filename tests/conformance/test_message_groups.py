"""Order per group, one message of a group in flight: header ``x-group-id``, queue ``x-message-groups``."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.driver import Driver

pytestmark = pytest.mark.requires("message_groups")


def grouped(driver: Driver, **arguments: Any) -> Any:
    return driver.queue(queue_arguments={"x-message-groups": True, **arguments})


def room(name: str, **headers: Any) -> dict[str, Any]:
    return {"x-group-id": name, **headers}


def test_a_member_waits_until_the_one_before_it_is_acknowledged(driver: Driver) -> None:
    queue = grouped(driver)
    driver.publish_all(["a1", "a2"], queue, headers=room("a"))
    driver.publish("b1", queue, headers=room("b"))
    driver.publish("free", queue)

    first = driver.take(queue)
    assert [first.payload, driver.take(queue).payload, driver.take(queue).payload] == ["a1", "b1", "free"]
    assert driver.get(queue) is None

    first.ack()
    assert driver.take(queue).payload == "a2"


def test_a_requeued_member_is_the_head_of_its_group_again(driver: Driver) -> None:
    queue = grouped(driver)
    driver.publish_all(["a1", "a2"], queue, headers=room("a"))

    driver.take(queue).requeue()

    assert driver.empty(queue) == ["a1", "a2"]


def test_a_rejected_member_frees_its_group(driver: Driver) -> None:
    queue = grouped(driver)
    driver.publish_all(["a1", "a2"], queue, headers=room("a"))

    driver.take(queue).reject()

    assert driver.empty(queue) == ["a2"]


def test_a_continuation_goes_before_the_others_of_its_group(driver: Driver) -> None:
    queue = grouped(driver)
    driver.publish_all(["a1", "a2"], queue, headers=room("a"))
    first = driver.take(queue)

    driver.publish("a1 again", queue, headers=room("a", **{"x-group-continues": True}))
    assert driver.get(queue) is None
    first.ack()

    assert driver.empty(queue) == ["a1 again", "a2"]


@pytest.mark.requires("broker_delay")
def test_a_delayed_continuation_holds_its_group_back(driver: Driver) -> None:
    queue = grouped(driver)
    driver.publish_all(["a1", "a2"], queue, headers=room("a"))
    first = driver.take(queue)

    driver.publish("a1 again", queue, headers=room("a", **{"x-group-continues": True, "x-delay": 5000}))
    first.ack()
    assert driver.empty(queue) == []

    driver.advance(5.0)
    assert driver.empty(queue) == ["a1 again", "a2"]


@pytest.mark.requires("broker_delay")
def test_any_other_delayed_message_joins_its_group_when_it_is_ready(driver: Driver) -> None:
    queue = grouped(driver)
    driver.publish("later", queue, headers=room("a", **{"x-delay": 5000}))
    driver.publish("now", queue, headers=room("a"))

    assert driver.empty(queue) == ["now"]
    driver.advance(5.0)
    assert driver.empty(queue) == ["later"]


@pytest.mark.requires("eager_expiry")
def test_an_expired_member_leaves_and_its_group_goes_on(driver: Driver) -> None:
    queue = grouped(driver)
    driver.publish("a1", queue, headers=room("a"), expiration=1.0)
    driver.publish("a2", queue, headers=room("a"))

    driver.advance(2.0)

    assert driver.empty(queue) == ["a2"]


def test_the_head_speaks_for_its_group_with_its_priority(driver: Driver) -> None:
    queue = grouped(driver, **{"x-max-priority": 9})
    driver.publish("a1", queue, headers=room("a"), priority=1)
    driver.publish("a2", queue, headers=room("a"), priority=9)
    driver.publish("b1", queue, headers=room("b"), priority=5)

    assert driver.empty(queue) == ["b1", "a1", "a2"]


def test_a_queue_that_was_not_asked_to_ignores_groups(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all(["a1", "a2"], queue, headers=room("a"))

    assert [driver.take(queue).payload, driver.take(queue).payload] == ["a1", "a2"]


def test_a_bound_drops_the_lowest_priority_also_where_all_wait_for_their_group(driver: Driver) -> None:
    queue = grouped(driver, **{"x-max-length": 2, "x-max-priority": 3, "x-overflow": "drop-lowest"})
    driver.publish("in flight", queue, headers=room("g"), priority=1)
    assert driver.get(queue) is not None
    for body, priority in [("waits", 1), ("waits too", 1), ("least", 0)]:
        driver.publish(body, queue, headers=room("g"), priority=priority)

    assert [message.payload for message in driver.channel.peek(queue.name)] == ["waits", "waits too"]
