"""Time to live, per message and per queue (RabbitMQ docs: Time-To-Live and Expiration)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.driver import Driver

SHORT, LONG = 0.2, 60.0  # seconds


@pytest.mark.requires("message_ttl")
def test_a_message_leaves_when_its_time_is_over(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish("short", queue, expiration=SHORT)
    driver.publish("for ever", queue)
    driver.advance(SHORT)

    assert driver.empty(queue) == ["for ever"]


@pytest.mark.requires("message_ttl")
def test_a_message_stays_until_its_time_is_over(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish("m", queue, expiration=LONG)
    driver.advance(SHORT)

    assert driver.empty(queue) == ["m"]


@pytest.mark.requires("queue_ttl")
def test_a_queues_time_to_live_holds_for_every_message(driver: Driver) -> None:
    queue = driver.queue(message_ttl=0.8)

    driver.publish("first", queue)
    driver.advance(0.6)
    driver.publish("second", queue)
    driver.advance(0.2)

    assert driver.empty(queue) == ["second"]


@pytest.mark.requires("message_ttl", "queue_ttl")
@pytest.mark.parametrize(("of_message", "of_queue"), [(SHORT, LONG), (LONG, SHORT)], ids=["message", "queue"])
def test_the_lower_time_to_live_wins(driver: Driver, of_message: float, of_queue: float) -> None:
    queue = driver.queue(message_ttl=of_queue)

    driver.publish("m", queue, expiration=of_message)
    driver.advance(SHORT)

    assert driver.empty(queue) == []


@pytest.mark.requires("message_ttl")
def test_an_expired_message_is_not_counted(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("ab", queue, expiration=SHORT)

    driver.advance(SHORT)

    driver.wait_for_count(queue, 0)


@pytest.mark.requires("message_ttl")
@pytest.mark.parametrize("waiting", [True, False], ids=["consumer waits", "nobody waits"])
def test_time_to_live_zero_reaches_a_waiting_consumer_only(driver: Driver, waiting: bool) -> None:
    queue = driver.queue()
    inbox = driver.consume(queue) if waiting else None

    driver.publish("m", queue, expiration=0)

    if inbox is not None:
        assert inbox.bodies(1) == ["m"]
    else:
        assert driver.empty(queue) == []


@pytest.mark.requires("queue_ttl")
def test_a_queues_time_to_live_of_zero_reaches_a_waiting_consumer_only(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-message-ttl": 0})
    driver.publish("nobody waits", queue)
    inbox = driver.consume(queue)

    driver.publish("somebody waits", queue)

    assert inbox.bodies(1) == ["somebody waits"]
    assert inbox.nothing_arrives()


@pytest.mark.requires("message_ttl")
def test_a_delivered_message_does_not_expire(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue, expiration=SHORT)
    message = driver.take(queue)

    driver.advance(SHORT)
    message.ack()  # refused if the delivery were gone

    assert message.payload == "m"
    assert driver.count(queue) == 0


@pytest.mark.requires("message_ttl", "requeue_in_place")
def test_a_message_put_back_keeps_its_deadline(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue, expiration=0.8)
    driver.advance(0.5)

    driver.take(queue).requeue()
    driver.advance(0.3)

    assert driver.empty(queue) == []


@pytest.mark.requires("message_ttl", "requeue_in_place")
def test_a_message_put_back_after_its_deadline_expires_at_once(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue, expiration=SHORT)
    message = driver.take(queue)
    driver.advance(SHORT)

    message.requeue()

    driver.wait_for_count(queue, 0)


@pytest.mark.requires("message_ttl")
def test_the_expiration_is_delivered_as_it_was_published(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish("m", queue, expiration=LONG)

    assert driver.take(queue).properties["expiration"] == "60000"


@pytest.mark.requires("message_ttl")
@pytest.mark.parametrize("expiration", ["soon", "-1", "1.5", " 5", "5 ", "1e3", ""], ids=repr)
def test_an_impossible_expiration_is_refused(driver: Driver, expiration: str) -> None:
    queue = driver.queue()

    with driver.refuses(406) as channel:
        message = channel.prepare_message(b"m", properties={"expiration": expiration})
        channel.basic_publish(message, exchange="", routing_key=queue.name)

    assert driver.count(queue) == 0


@pytest.mark.requires("queue_ttl")
@pytest.mark.parametrize("ttl", [-1, "1000", 1.5, True], ids=repr)
def test_an_impossible_queue_time_to_live_is_refused(driver: Driver, ttl: object) -> None:
    with driver.refuses(406) as channel:
        channel.queue_declare(driver.name("bad"), durable=False, arguments={"x-message-ttl": ttl})


@pytest.mark.requires("message_ttl", "dead_letter")
def test_an_expired_message_is_dead_lettered_without_any_consumer(
    driver: Driver, dead_letters: Callable[..., Any]
) -> None:
    dead, arguments = dead_letters()
    queue = driver.queue("q", queue_arguments=arguments)
    driver.publish("m", queue, expiration=SHORT)

    driver.advance(SHORT)

    driver.wait_for_count(dead, 1)
    assert driver.count(queue) == 0


@pytest.mark.requires("message_ttl", "dead_letter")
def test_a_dead_letters_expiration_moves_into_its_history(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = driver.queue("q", queue_arguments=arguments)
    driver.publish("m", queue, expiration=SHORT)

    driver.advance(SHORT)

    message = driver.take(dead)
    assert "expiration" not in message.properties
    assert message.headers["x-death"][0]["original-expiration"] == "200"


@pytest.mark.requires("queue_ttl", "dead_letter")
def test_a_message_that_a_queue_expired_has_no_original_expiration(
    driver: Driver, dead_letters: Callable[..., Any]
) -> None:
    dead, arguments = dead_letters()
    queue = driver.queue("q", message_ttl=SHORT, queue_arguments=arguments)
    driver.publish("m", queue)

    driver.advance(SHORT)

    assert "original-expiration" not in driver.take(dead).headers["x-death"][0]


@pytest.mark.requires("queue_ttl", "dead_letter")
def test_messages_expire_in_the_order_they_came(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = driver.queue("q", message_ttl=SHORT, queue_arguments=arguments)
    driver.publish_all(range(10), queue)

    driver.advance(SHORT)

    driver.wait_for_count(dead, 10)
    assert driver.empty(dead) == list(range(10))


@pytest.mark.requires("message_ttl")
def test_each_copy_of_a_message_expires_by_its_own_queue(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    quick = driver.bound_queue("quick", exchange, message_ttl=SHORT)
    slow = driver.bound_queue("slow", exchange, message_ttl=LONG)

    driver.publish("m", exchange)
    driver.advance(SHORT)

    assert (driver.empty(quick), driver.empty(slow)) == ([], ["m"])


@pytest.mark.requires("message_ttl")
def test_a_message_that_expired_does_not_reach_a_consumer_that_comes_later(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("late", queue, expiration=SHORT)
    driver.publish("good", queue)

    driver.advance(SHORT)
    inbox = driver.consume(queue)

    assert inbox.bodies(1) == ["good"]
    assert inbox.nothing_arrives()


@pytest.mark.requires("eager_expiry")
def test_an_expired_message_leaves_at_its_time_wherever_it_stands(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("long", queue)
    driver.publish("short", queue, expiration=SHORT)

    driver.advance(SHORT)

    assert driver.count(queue) == 1
    assert driver.empty(queue) == ["long"]
