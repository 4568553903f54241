"""Declaring, looking at, purging and deleting queues: what is answered and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.driver import Driver
from transports import InvalidArgumentError


def test_declaring_answers_name_messages_and_consumers(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abc", queue)
    driver.take(queue)
    inbox = driver.consume(driver.queue("other"))

    declared = driver.channel.queue_declare(queue.name, passive=True)
    assert (declared.queue, declared.message_count, declared.consumer_count) == (queue.name, 2, 0)
    assert tuple(declared) == (queue.name, 2, 0)

    other = driver.channel.queue_declare(driver.name("other"), passive=True)
    assert other.consumer_count == 1
    inbox.cancel()
    assert driver.channel.queue_declare(driver.name("other"), passive=True).consumer_count == 0


def test_a_queue_can_be_declared_again_as_it_is(driver: Driver) -> None:
    queue = driver.queue(max_priority=5, message_ttl=60, queue_arguments={"x-max-length": 3})
    driver.publish("m", queue)

    queue.declare()

    assert driver.empty(queue) == ["m"]


DECLARED = {"durable": False, "auto_delete": False, "arguments": {"x-max-length": 5, "x-message-ttl": 60_000}}


@pytest.mark.parametrize(
    "difference",
    [
        {"durable": True},
        {"auto_delete": True},
        {"arguments": {"x-max-length": 6, "x-message-ttl": 60_000}},
        {"arguments": {"x-max-length": 5}},
        {"arguments": {}},
        {"arguments": {**DECLARED["arguments"], "x-expires": 60_000}},  # type: ignore[dict-item]
        {"arguments": {**DECLARED["arguments"], "x-overflow": "reject-publish"}},  # type: ignore[dict-item]
        {"arguments": {**DECLARED["arguments"], "x-dead-letter-exchange": "amq.fanout"}},  # type: ignore[dict-item]
        {"arguments": {**DECLARED["arguments"], "x-max-priority": 5}},  # type: ignore[dict-item]
        {"arguments": {**DECLARED["arguments"], "x-single-active-consumer": True}},  # type: ignore[dict-item]
    ],
    ids=lambda difference: ", ".join(difference.get("arguments", difference)),
)
def test_a_queue_cannot_be_declared_again_differently(driver: Driver, difference: dict[str, Any]) -> None:
    name = driver.queue("q", queue_arguments=DECLARED["arguments"]).name

    with driver.refuses(406) as channel:
        channel.queue_declare(name, **{**DECLARED, **difference})


def test_a_queue_cannot_be_declared_again_as_exclusive(driver: Driver) -> None:
    name = driver.queue("q", auto_delete=False).name

    with driver.refuses(405) as channel:
        channel.queue_declare(name, exclusive=True, auto_delete=False)


def test_a_passive_declare_looks_at_the_name_only(driver: Driver) -> None:
    queue = driver.queue()

    declared = driver.channel.queue_declare(queue.name, passive=True, durable=True, arguments={"x-max-length": 1})

    assert declared.queue == queue.name


def test_a_passive_declare_of_a_missing_queue_is_refused(driver: Driver) -> None:
    with driver.refuses(404) as channel:
        channel.queue_declare(driver.name("missing"), passive=True)


def test_names_with_the_reserved_prefix_cannot_be_declared(driver: Driver) -> None:
    with driver.refuses(403) as channel:
        channel.queue_declare("amq." + driver.name("mine"))


def test_the_broker_names_a_queue_without_a_name(driver: Driver) -> None:
    one = driver.channel.queue_declare("", exclusive=True).queue
    other = driver.channel.queue_declare("", exclusive=True).queue

    assert one.startswith("amq.gen-")
    assert one != other
    driver.publish("m", "", one)
    assert driver.channel.basic_get(one, no_ack=True) is not None


@pytest.mark.parametrize("operation", ["get", "consume", "purge"])
def test_using_a_missing_queue_is_refused(driver: Driver, operation: str) -> None:
    missing = driver.name("missing")

    with driver.refuses(404) as channel:
        if operation == "get":
            channel.basic_get(missing)
        elif operation == "consume":
            channel.basic_consume(missing, callback=print)
        else:
            channel.queue_purge(missing)


def test_deleting_a_missing_queue_is_no_error(driver: Driver) -> None:
    assert driver.channel.queue_delete(driver.name("missing")) == 0


def test_publishing_to_a_missing_queue_is_no_error(driver: Driver) -> None:
    driver.publish("m", "", driver.name("missing"))

    assert driver.returned == []


def test_purging_removes_what_is_ready_and_tells_how_many(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abcd", queue)
    held = driver.take(queue)

    assert queue.purge() == 3
    assert driver.count(queue) == 0

    held.requeue()
    assert driver.empty(queue) == ["a"]


def test_deleting_tells_how_many_messages_went_with_the_queue(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abc", queue)

    assert queue.delete() == 3
    assert not driver.exists(queue)


def test_a_queue_with_messages_is_not_deleted_if_empty_is_asked(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue)

    with driver.refuses(406) as channel:
        channel.queue_delete(queue.name, if_empty=True)

    driver.empty(queue)
    queue.delete(if_empty=True)
    assert not driver.exists(queue)


def test_a_queue_with_consumers_is_not_deleted_if_unused_is_asked(driver: Driver) -> None:
    queue = driver.queue()
    inbox = driver.consume(queue)

    with driver.refuses(406) as channel:
        channel.queue_delete(queue.name, if_unused=True)

    inbox.cancel()
    queue.delete(if_unused=True)
    assert not driver.exists(queue)


def test_a_queue_that_is_declared_after_its_deletion_is_new(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    queue = driver.bound_queue("q", exchange)
    driver.publish("m", exchange)

    queue.delete()
    queue = driver.queue("q", max_priority=3)
    driver.publish("lost", exchange)

    assert driver.empty(queue) == []


def test_a_consumer_learns_that_its_queue_was_deleted(driver: Driver) -> None:
    queue = driver.queue()
    channel = driver.connection.channel()
    cancelled: list[str] = []
    channel.basic_consume(queue.name, "mine", callback=print, on_cancel=cancelled.append)

    queue.delete()
    driver.eventually(lambda: driver.drained_into(cancelled), ["mine"])


@pytest.mark.requires("strict_arguments")
def test_an_argument_that_is_not_known_is_refused_by_name(driver: Driver) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        driver.channel.queue_declare(driver.name("bad"), arguments={"x-max-lenght": 1})

    assert caught.value.name == "x-max-lenght"
    assert "x-max-length" in caught.value.allowed
