"""Queues that end by themselves: exclusive, auto-delete and expiring ones (RabbitMQ docs: Queues; Time-To-Live)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.driver import Driver

SHORT = 0.3


@pytest.mark.requires("exclusive")
@pytest.mark.parametrize("operation", ["declare", "passive declare", "bind", "consume", "get", "purge", "delete"])
def test_an_exclusive_queue_is_locked_for_other_connections(driver: Driver, operation: str) -> None:
    name = driver.queue("q", exclusive=True).name

    with driver.refuses(405) as channel:
        match operation:
            case "declare":
                channel.queue_declare(name, exclusive=True)
            case "passive declare":
                channel.queue_declare(name, passive=True)
            case "bind":
                channel.queue_bind(name, "amq.direct", "k")
            case "consume":
                channel.basic_consume(name, callback=print)
            case "get":
                channel.basic_get(name)
            case "purge":
                channel.queue_purge(name)
            case "delete":
                channel.queue_delete(name)


@pytest.mark.requires("exclusive")
def test_an_exclusive_queue_is_open_to_every_channel_of_its_connection(driver: Driver) -> None:
    queue = driver.queue("q", exclusive=True)
    other = driver.connection.channel()

    driver.publish("m", queue)

    assert driver.take(queue, channel=other).payload == "m"


@pytest.mark.requires("exclusive")
def test_other_connections_may_publish_to_an_exclusive_queue(driver: Driver) -> None:
    queue = driver.queue("q", exclusive=True)

    driver.publish("m", queue, channel=driver.connect().channel())

    assert driver.take(queue).payload == "m"


@pytest.mark.requires("exclusive")
def test_an_exclusive_queue_goes_with_its_connection(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    connection = driver.connect()
    queue = driver.queue("q", exclusive=True, queue_arguments=arguments, channel=connection.channel())
    driver.publish("m", queue)

    driver.close_connection(connection)

    driver.eventually(lambda: driver.exists(queue), False)
    assert driver.empty(dead) == []


@pytest.mark.requires("exclusive")
def test_an_exclusive_queue_stays_when_its_channel_closes(driver: Driver) -> None:
    connection = driver.connect()
    channel = connection.channel()
    queue = driver.queue("q", exclusive=True, auto_delete=False, channel=channel)

    channel.close()

    assert connection.channel().queue_declare(queue.name, passive=True).queue == queue.name


@pytest.mark.requires("exclusive")
def test_an_exclusive_consumer_is_the_only_one(driver: Driver) -> None:
    queue = driver.queue()
    driver.channel.basic_consume(queue.name, callback=print, exclusive=True)

    with driver.refuses(403) as channel:
        channel.basic_consume(queue.name, callback=print)


@pytest.mark.requires("exclusive")
def test_a_queue_that_is_consumed_cannot_be_consumed_exclusively(driver: Driver) -> None:
    queue = driver.queue()
    inbox = driver.consume(queue)

    with driver.refuses(403) as channel:
        channel.basic_consume(queue.name, callback=print, exclusive=True)

    inbox.cancel()
    driver.channel.basic_consume(queue.name, "mine", callback=print, exclusive=True)


@pytest.mark.requires("auto_delete")
@pytest.mark.parametrize("how", ["cancel", "channel", "connection"])
def test_an_auto_delete_queue_goes_with_its_last_consumer(driver: Driver, how: str) -> None:
    connection = driver.connect()
    channel = connection.channel()
    queue = driver.queue("q", auto_delete=True)
    first, last = driver.consume(queue), driver.consume(queue, channel=channel)

    first.cancel()
    assert driver.exists(queue)
    if how == "cancel":
        last.cancel()
    elif how == "channel":
        channel.close()
    else:
        driver.close_connection(connection)

    driver.eventually(lambda: driver.exists(queue), False)


@pytest.mark.requires("auto_delete")
def test_an_auto_delete_queue_that_never_had_a_consumer_stays(driver: Driver) -> None:
    queue = driver.queue("q", auto_delete=True)
    driver.publish("m", queue)

    driver.take(queue).ack()

    assert driver.exists(queue)


@pytest.mark.requires("auto_delete")
def test_unsettled_messages_of_an_auto_delete_queue_go_with_it(driver: Driver) -> None:
    queue = driver.queue("q", auto_delete=True)
    driver.publish("m", queue)
    inbox = driver.consume(queue)
    (message,) = inbox.receive(1)

    inbox.cancel()
    driver.eventually(lambda: driver.exists(queue), False)
    message.requeue()

    assert not driver.exists(queue)


@pytest.mark.requires("queue_expiry")
def test_an_unused_queue_expires_with_its_messages(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = driver.queue("q", expires=SHORT, queue_arguments=arguments)
    driver.publish("m", queue)  # publishing is no use

    driver.advance(SHORT)

    driver.eventually(lambda: driver.exists(queue), False)
    assert driver.empty(dead) == []


@pytest.mark.requires("queue_expiry")
def test_a_consumed_queue_does_not_expire(driver: Driver) -> None:
    queue = driver.queue("q", expires=SHORT)
    inbox = driver.consume(queue)

    driver.advance(2 * SHORT)
    assert driver.count(queue) == 0
    inbox.cancel()
    driver.advance(SHORT)

    driver.eventually(lambda: driver.exists(queue), False)


@pytest.mark.requires("queue_expiry")
@pytest.mark.parametrize("use", ["get", "declare"])
def test_using_a_queue_gives_it_its_whole_time_again(driver: Driver, use: str) -> None:
    queue = driver.queue("q", expires=0.8)

    for _ in range(2):
        driver.advance(0.5)
        if use == "get":
            driver.get(queue)
        else:
            queue.declare()
    # 1.0 s have passed: longer than it would have lived unused.
    assert driver.exists(queue)

    driver.advance(0.8)
    driver.eventually(lambda: driver.exists(queue), False)


@pytest.mark.requires("queue_expiry")
def test_a_queue_that_expired_can_be_declared_again(driver: Driver) -> None:
    queue = driver.queue("q", expires=SHORT)
    driver.publish("m", queue)
    driver.advance(SHORT)
    driver.eventually(lambda: driver.exists(queue), False)

    again = driver.queue("q", expires=60)

    assert driver.empty(again) == []


@pytest.mark.requires("queue_expiry")
@pytest.mark.parametrize("expires", [0, -1, "1000", 1.5], ids=repr)
def test_impossible_expiry_times_are_refused(driver: Driver, expires: object) -> None:
    with driver.refuses(406) as channel:
        channel.queue_declare(driver.name("bad"), durable=False, arguments={"x-expires": expires})
