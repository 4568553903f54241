"""Bounded queues and what happens when one is full (RabbitMQ docs: Queue Length Limit)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.driver import Driver, PublishRefused
from transports import QueueFullError


def bounded(driver: Driver, length: int, overflow: str | None = None, label: str = "q", **options: Any) -> Any:
    """Declare a queue with a bound on its number of messages."""
    arguments = {"x-max-length": length, **({"x-overflow": overflow} if overflow else {})}
    return driver.queue(label, queue_arguments={**arguments, **options.pop("queue_arguments", {})}, **options)


@pytest.mark.requires("overflow_drop_head")
@pytest.mark.parametrize("overflow", [None, "drop-head"])
def test_the_oldest_message_makes_room_unless_asked_otherwise(driver: Driver, overflow: str | None) -> None:
    queue = bounded(driver, 3, overflow)

    driver.publish_all(range(5), queue)

    assert driver.empty(queue) == [2, 3, 4]


@pytest.mark.requires("overflow_drop_head", "dead_letter")
def test_a_dropped_head_is_dead_lettered(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = bounded(driver, 2, queue_arguments=arguments)

    driver.publish_all(range(4), queue)

    driver.wait_for_count(dead, 2)
    first, second = driver.take_many(dead, 2)
    assert (first.payload, second.payload) == (0, 1)
    assert first.headers["x-death"][0]["reason"] == "maxlen"


@pytest.mark.requires("overflow_drop_head", "priority")
def test_the_head_of_a_priority_queue_is_its_most_urgent_message(driver: Driver) -> None:
    queue = bounded(driver, 3, max_priority=9)

    for body, priority in [("high", 9), ("low old", 1), ("low new", 1), ("middle", 5), ("lowest", 0)]:
        driver.publish(body, queue, priority=priority)

    # Surprising, and documented so; drop-lowest is the rule for those who want it the other way round.
    assert driver.empty(queue) == ["low old", "low new", "lowest"]


@pytest.mark.requires("max_length", "requeue_in_place")
def test_messages_that_are_out_for_delivery_do_not_count(driver: Driver) -> None:
    queue = bounded(driver, 2)
    driver.publish_all("ab", queue)
    driver.take_many(queue, 2)

    driver.publish_all("cd", queue)

    assert driver.empty(queue) == ["c", "d"]


@pytest.mark.requires("overflow_drop_head", "requeue_in_place")
def test_messages_put_back_over_the_bound_push_out_the_oldest(driver: Driver) -> None:
    queue = bounded(driver, 2)
    driver.publish_all("ab", queue)
    held = driver.take_many(queue, 2)
    driver.publish_all("cd", queue)

    for message in held:
        message.requeue()

    driver.wait_for_count(queue, 2)
    assert driver.empty(queue) == ["c", "d"]


@pytest.mark.requires("max_length")
def test_a_waiting_consumer_gets_more_than_the_bound(driver: Driver) -> None:
    queue = bounded(driver, 1)
    inbox = driver.consume(queue)

    driver.publish_all(range(5), queue)

    assert inbox.bodies(5) == [0, 1, 2, 3, 4]


@pytest.mark.requires("max_length", "overflow_drop_head")
def test_a_bound_of_zero_keeps_nothing(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = bounded(driver, 0, queue_arguments=arguments)

    driver.publish("m", queue)

    assert driver.take(dead).payload == "m"
    assert driver.count(queue) == 0


@pytest.mark.requires("max_length")
def test_a_bound_of_zero_lets_a_waiting_consumer_have_its_message(driver: Driver) -> None:
    queue = bounded(driver, 0)
    inbox = driver.consume(queue)

    driver.publish("m", queue)

    assert inbox.bodies(1) == ["m"]


@pytest.mark.requires("max_length", "dead_letter")
def test_each_queue_of_a_publish_has_its_own_bound(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    narrow, wide = bounded(driver, 1, label="narrow"), driver.queue("wide")
    for queue in (narrow, wide):
        queue.bind_to(exchange.name)

    driver.publish_all("ab", exchange)

    assert (driver.empty(narrow), driver.empty(wide)) == (["b"], ["a", "b"])


@pytest.mark.requires("max_length_bytes", "overflow_drop_head")
def test_the_bytes_of_the_bodies_can_be_bounded(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-max-length-bytes": 100})

    for letter in "abcd":
        driver.publish(letter * 40, queue, headers={"not": "counted" * 100})

    assert driver.empty(queue) == ["c" * 40, "d" * 40]


@pytest.mark.requires("max_length_bytes", "overflow_drop_head")
def test_a_message_larger_than_the_whole_bound_empties_the_queue(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-max-length-bytes": 50})
    driver.publish_all("ab", queue)

    driver.publish("x" * 100, queue)

    assert driver.empty(queue) == []


@pytest.mark.requires("max_length_bytes", "overflow_drop_head")
def test_both_bounds_hold(driver: Driver) -> None:
    queue = bounded(driver, 3, queue_arguments={"x-max-length-bytes": 100})

    driver.publish_all("abcd", queue)
    assert driver.count(queue) == 3
    driver.publish("x" * 90, queue)

    assert driver.empty(queue) == ["c", "d", "x" * 90]


@pytest.mark.requires("overflow_reject_publish")
def test_a_full_queue_refuses_the_publish(driver: Driver) -> None:
    queue = bounded(driver, 2, "reject-publish")
    driver.publish_all("ab", queue)

    with pytest.raises(PublishRefused):
        driver.publish("c", queue)

    assert driver.empty(queue) == ["a", "b"]


@pytest.mark.requires("overflow_reject_publish")
def test_a_queue_takes_messages_again_when_there_is_room(driver: Driver) -> None:
    queue = bounded(driver, 1, "reject-publish")
    driver.publish("a", queue)
    with pytest.raises(PublishRefused):
        driver.publish("b", queue)

    driver.take(queue)
    driver.publish("c", queue)

    assert driver.empty(queue) == ["c"]


@pytest.mark.requires("overflow_reject_publish", "dead_letter")
def test_a_refused_message_is_no_dead_letter(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = bounded(driver, 1, "reject-publish", queue_arguments=arguments)
    driver.publish("a", queue)

    with pytest.raises(PublishRefused):
        driver.publish("b", queue)
    driver.take(queue).reject()

    # What the rejected message brings is all there is.
    driver.wait_for_count(dead, 1)
    assert driver.empty(dead) == ["a"]


@pytest.mark.requires("overflow_reject_publish", "fanout")
def test_the_other_queues_of_a_refused_publish_have_the_message(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    full, other = bounded(driver, 1, "reject-publish", label="full"), driver.queue("other")
    for queue in (full, other):
        queue.bind_to(exchange.name)
    driver.publish("a", exchange)

    with pytest.raises(PublishRefused):
        driver.publish("b", exchange)

    driver.wait_for_count(other, 2)
    assert (driver.empty(full), driver.empty(other)) == (["a"], ["a", "b"])


@pytest.mark.requires("overflow_reject_publish", "max_length_bytes")
def test_bounded_bytes_refuse_the_publish(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-max-length-bytes": 100, "x-overflow": "reject-publish"})
    driver.publish("a" * 100, queue)

    with pytest.raises(PublishRefused):
        driver.publish("b", queue)

    assert driver.empty(queue) == ["a" * 100]


@pytest.mark.requires("overflow_reject_publish", "requeue_in_place")
def test_a_message_put_back_into_a_full_queue_is_kept(driver: Driver) -> None:
    queue = bounded(driver, 1, "reject-publish")
    driver.publish("a", queue)
    held = driver.take(queue)
    driver.publish("b", queue)

    held.requeue()

    assert driver.empty(queue) == ["a", "b"]


@pytest.mark.requires("overflow_reject_publish_dlx")
def test_a_refused_message_can_be_asked_to_be_a_dead_letter(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = bounded(driver, 1, "reject-publish-dlx", queue_arguments=arguments)
    driver.publish("a", queue)

    with pytest.raises(PublishRefused):
        driver.publish("b", queue)

    message = driver.take(dead)
    assert message.payload == "b"
    assert message.headers["x-death"][0]["reason"] == "maxlen"
    assert driver.empty(queue) == ["a"]


@pytest.mark.requires("overflow_reject_publish", "dead_letter")
def test_a_full_dead_letter_queue_refuses_dead_letters_silently(driver: Driver) -> None:
    dead = bounded(driver, 1, "reject-publish", label="dead")
    queue = driver.queue("q", queue_arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name})
    driver.publish_all("ab", queue)

    for message in driver.take_many(queue, 2):
        message.reject()

    driver.wait_for_count(dead, 1)
    assert driver.empty(dead) == ["a"]


@pytest.mark.requires("overflow_reject_publish", "max_length", "message_ttl")
def test_an_expired_message_makes_room(driver: Driver) -> None:
    queue = bounded(driver, 1, "reject-publish")
    driver.publish("short", queue, expiration=0.2)

    driver.advance(0.2)
    driver.wait_for_count(queue, 0)
    driver.publish("next", queue)

    assert driver.empty(queue) == ["next"]


@pytest.mark.requires("synchronous_full_error")
def test_the_error_of_a_full_queue_tells_what_to_do(driver: Driver) -> None:
    queue = bounded(driver, 1, "reject-publish")
    driver.publish("a", queue)

    with pytest.raises(PublishRefused) as caught:
        driver.publish("b", queue)

    error = caught.value.__cause__
    assert isinstance(error, QueueFullError)
    assert (error.queue, error.max_length) == (queue.name, 1)
    assert error.retry_after > 0


@pytest.mark.requires("overflow_block")
def test_a_publisher_that_waited_in_vain_for_room_is_refused(driver: Driver) -> None:
    queue = bounded(driver, 1, "block")
    driver.publish("a", queue)

    with pytest.raises(PublishRefused):
        driver.publish("b", queue, timeout=0.01)

    assert driver.empty(queue) == ["a"]


@pytest.mark.requires("overflow_block")
def test_a_publisher_waits_until_there_is_room(driver: Driver) -> None:
    queue = bounded(driver, 1, "block")
    driver.publish("a", queue)
    connection = driver.connect()
    publisher = driver.in_thread(lambda: driver.publish("b", queue, channel=connection.channel(), timeout=10))

    publisher.stays_blocked()
    driver.take(queue).ack()

    publisher.ends()
    assert driver.empty(queue) == ["b"]


@pytest.mark.requires("overflow_drop_lowest", "priority")
def test_the_oldest_of_the_lowest_priority_makes_room(driver: Driver) -> None:
    queue = bounded(driver, 3, "drop-lowest", max_priority=9)

    for body, priority in [("high", 9), ("low old", 1), ("low new", 1), ("middle", 5)]:
        driver.publish(body, queue, priority=priority)

    assert driver.empty(queue) == ["high", "middle", "low new"]


@pytest.mark.requires("overflow_drop_lowest", "priority", "dead_letter")
def test_what_drop_lowest_drops_is_a_dead_letter(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = bounded(driver, 1, "drop-lowest", max_priority=9, queue_arguments=arguments)
    driver.publish("high", queue, priority=9)

    driver.publish("lowest", queue, priority=0)

    assert driver.empty(queue) == ["high"]
    assert [m.headers["x-death"][0]["reason"] for m in driver.take_many(dead, 1)] == ["maxlen"]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("x-max-length", -1),
        ("x-max-length", "10"),
        ("x-max-length", 1.5),
        ("x-max-length-bytes", -1),
        ("x-max-length-bytes", "1000"),
        ("x-overflow", "drop-everything"),
        ("x-overflow", 1),
    ],
)
def test_impossible_bounds_are_refused(driver: Driver, argument: str, value: object) -> None:
    with driver.refuses(406) as channel:
        channel.queue_declare(driver.name("bad"), durable=False, arguments={argument: value})
