"""Dead-lettering: when, where to, and what is written on the message (RabbitMQ docs: Dead Letter Exchanges)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from tests.conformance.driver import Driver

pytestmark = pytest.mark.requires("dead_letter")

SHORT = 0.2


def without_times(deaths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check that each death has a point in time, and return the rest of it."""
    for death in deaths:
        assert isinstance(death["time"], datetime)
    return [{key: value for key, value in death.items() if key != "time"} for death in deaths]


def to_queue(name: str) -> dict[str, str]:
    """Return the arguments of a queue whose dead letters go straight to another queue."""
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": name}


def test_a_rejected_message_is_dead_lettered_with_its_history(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    exchange = driver.exchange("x", "topic")
    queue = driver.bound_queue("q", exchange, "game.#", queue_arguments=arguments)
    driver.publish({"n": 1}, exchange, "game.started", headers={"mine": [1]}, correlation_id="c")

    driver.take(queue).reject()

    message = driver.take(dead)
    assert message.payload == {"n": 1}
    assert message.properties["correlation_id"] == "c"
    assert without_times(message.headers.pop("x-death")) == [
        {
            "count": 1,
            "reason": "rejected",
            "queue": queue.name,
            "exchange": exchange.name,
            "routing-keys": ["game.started"],
        }
    ]
    assert message.headers == {
        "mine": [1],
        "x-first-death-reason": "rejected",
        "x-first-death-queue": queue.name,
        "x-first-death-exchange": exchange.name,
    }


def test_a_dead_letter_tells_the_exchange_and_key_of_its_last_way(
    driver: Driver, dead_letters: Callable[..., Any]
) -> None:
    dead, arguments = dead_letters()
    queue = driver.queue("q", queue_arguments=arguments)
    driver.publish("m", queue)

    driver.take(queue).reject()

    info = driver.take(dead).delivery_info
    assert (info["exchange"], info["routing_key"]) == (arguments["x-dead-letter-exchange"], queue.name)


@pytest.mark.requires("message_ttl", "max_length")
def test_each_reason_is_written_as_it_is(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    rejecting = driver.queue("rejecting", queue_arguments=arguments)
    expiring = driver.queue("expiring", queue_arguments={**arguments, "x-message-ttl": 1})
    full = driver.queue("full", queue_arguments={**arguments, "x-max-length": 0})

    driver.publish("m", rejecting)
    driver.take(rejecting).reject()
    first = driver.take(dead)
    driver.publish("m", expiring)
    driver.advance(0.001)
    second = driver.take(dead)
    driver.publish("m", full)
    third = driver.take(dead)

    assert [m.headers["x-death"][0]["reason"] for m in (first, second, third)] == ["rejected", "expired", "maxlen"]
    assert [m.headers["x-first-death-reason"] for m in (first, second, third)] == ["rejected", "expired", "maxlen"]


@pytest.mark.requires("message_ttl")
def test_the_history_of_an_expired_message_is_complete(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = driver.queue("q", queue_arguments=arguments)
    driver.publish("m", queue, expiration=SHORT)

    driver.advance(SHORT)

    message = driver.take(dead)
    assert without_times(message.headers["x-death"]) == [
        {
            "count": 1,
            "reason": "expired",
            "queue": queue.name,
            "exchange": "",
            "routing-keys": [queue.name],
            "original-expiration": "200",
        }
    ]


def test_a_queue_may_give_its_dead_letters_another_key(driver: Driver) -> None:
    exchange = driver.exchange("dead-x", "direct")
    renamed, original = driver.bound_queue("renamed", exchange, "dead"), driver.bound_queue("original", exchange, "k")
    source = driver.exchange("x", "direct")
    queue = driver.bound_queue(
        "q",
        source,
        "k",
        queue_arguments={"x-dead-letter-exchange": exchange.name, "x-dead-letter-routing-key": "dead"},
    )
    driver.publish("m", source, "k")

    driver.take(queue).reject()

    message = driver.take(renamed)
    assert message.delivery_info["routing_key"] == "dead"
    assert message.headers["x-death"][0]["routing-keys"] == ["k"]
    assert driver.empty(original) == []


def test_dead_letters_keep_their_key_otherwise(driver: Driver) -> None:
    exchange = driver.exchange("dead-x", "direct")
    dead = driver.bound_queue("dead", exchange, "k")
    source = driver.exchange("x", "direct")
    queue = driver.bound_queue("q", source, "k", queue_arguments={"x-dead-letter-exchange": exchange.name})
    driver.publish("m", source, "k")

    driver.take(queue).reject()

    assert driver.take(dead).delivery_info["routing_key"] == "k"


def test_the_default_exchange_can_take_dead_letters(driver: Driver) -> None:
    dead = driver.queue("dead")
    queue = driver.queue("q", queue_arguments=to_queue(dead.name))
    driver.publish("m", queue)

    driver.take(queue).reject()

    message = driver.take(dead)
    assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == ("", dead.name)


def test_without_its_exchange_a_dead_letter_is_dropped(driver: Driver) -> None:
    queue = driver.queue("q", queue_arguments={"x-dead-letter-exchange": driver.name("missing")})
    driver.publish_all("ab", queue)

    driver.take(queue).reject()

    assert driver.empty(queue) == ["b"]


def test_a_dead_letter_exchange_may_be_declared_later(driver: Driver) -> None:
    queue = driver.queue("q", queue_arguments={"x-dead-letter-exchange": driver.name("later")})
    driver.publish("m", queue)
    message = driver.take(queue)
    dead = driver.bound_queue("dead", driver.exchange("later", "fanout"))

    message.reject()

    assert driver.take(dead).payload == "m"


@pytest.mark.requires("alternate_exchange")
def test_an_unroutable_dead_letter_goes_to_the_alternate_exchange(driver: Driver) -> None:
    alternate = driver.exchange("alternate", "fanout")
    exchange = driver.exchange("dead-x", "direct", arguments={"alternate-exchange": alternate.name})
    unrouted = driver.bound_queue("unrouted", alternate)
    queue = driver.queue("q", queue_arguments={"x-dead-letter-exchange": exchange.name})
    driver.publish("m", queue)

    driver.take(queue).reject()

    assert driver.take(unrouted).payload == "m"


def test_a_dead_letter_reaches_every_queue_of_its_exchange(driver: Driver) -> None:
    exchange = driver.exchange("dead-x", "fanout")
    one, other = driver.bound_queue("one", exchange), driver.bound_queue("other", exchange)
    queue = driver.queue("q", queue_arguments={"x-dead-letter-exchange": exchange.name})
    driver.publish("m", queue)

    driver.take(queue).reject()

    assert [driver.take(dead).payload for dead in (one, other)] == ["m", "m"]


def test_deaths_in_several_queues_are_told_newest_first(driver: Driver) -> None:
    third = driver.queue("third")
    second = driver.queue("second", queue_arguments=to_queue(third.name))
    first = driver.queue("first", queue_arguments=to_queue(second.name))
    driver.publish("m", first)

    driver.take(first).reject()
    driver.take(second).reject()

    message = driver.take(third)
    assert without_times(message.headers["x-death"]) == [
        {"count": 1, "reason": "rejected", "queue": second.name, "exchange": "", "routing-keys": [second.name]},
        {"count": 1, "reason": "rejected", "queue": first.name, "exchange": "", "routing-keys": [first.name]},
    ]
    assert message.headers["x-first-death-queue"] == first.name


@pytest.mark.requires("dead_letter_cycle_rule")
def test_deaths_in_the_same_queue_for_the_same_reason_are_counted(driver: Driver) -> None:
    queue = driver.queue("q", queue_arguments=to_queue(driver.name("q")))
    driver.publish("m", queue)

    for _ in range(3):
        driver.take(queue).reject()

    message = driver.take(queue)
    assert without_times(message.headers["x-death"]) == [
        {"count": 3, "reason": "rejected", "queue": queue.name, "exchange": "", "routing-keys": [queue.name]}
    ]


@pytest.mark.requires("dead_letter_cycle_rule", "message_ttl")
def test_deaths_for_different_reasons_are_told_apart(driver: Driver) -> None:
    waiting = driver.queue("waiting", message_ttl=SHORT, queue_arguments=to_queue(driver.name("work")))
    work = driver.queue("work", queue_arguments=to_queue(waiting.name))
    driver.publish("m", work)

    for _ in range(2):  # the usual delayed retry
        driver.take(work).reject()
        driver.advance(SHORT)

    message = driver.take(work)
    assert without_times(message.headers["x-death"]) == [
        {"count": 2, "reason": "expired", "queue": waiting.name, "exchange": "", "routing-keys": [waiting.name]},
        {"count": 2, "reason": "rejected", "queue": work.name, "exchange": "", "routing-keys": [work.name]},
    ]
    assert message.headers["x-first-death-reason"] == "rejected"
    assert message.headers["x-first-death-queue"] == work.name


@pytest.mark.requires("message_ttl")
def test_a_death_of_another_reason_in_the_same_queue_is_another_entry(driver: Driver) -> None:
    dead = driver.queue("dead")
    queue = driver.queue("q", queue_arguments={"x-dead-letter-exchange": driver.name("x")})
    exchange = driver.exchange("x", "direct")
    queue.bind_to(exchange.name, routing_key=queue.name)
    driver.publish("m", queue, expiration=SHORT)
    driver.take(queue).reject()
    queue.unbind_from(exchange, routing_key=queue.name)
    dead.bind_to(exchange.name, routing_key=queue.name)

    driver.wait_for_count(queue, 1)
    driver.take(queue).reject()

    message = driver.take(dead)
    assert [(d["reason"], d["queue"], d["count"]) for d in message.headers["x-death"]] == [("rejected", queue.name, 2)]
    assert message.headers["x-death"][0]["original-expiration"] == "200"


@pytest.mark.requires("dead_letter_cycle_rule", "queue_ttl")
def test_a_message_that_only_expires_in_a_circle_is_dropped(driver: Driver) -> None:
    second = driver.queue("second", message_ttl=SHORT, queue_arguments=to_queue(driver.name("first")))
    first = driver.queue("first", message_ttl=SHORT, queue_arguments=to_queue(second.name))
    driver.publish("m", first)

    driver.advance(SHORT)
    driver.wait_for_count(second, 1)
    driver.advance(SHORT)

    driver.wait_for_count(second, 0)
    assert driver.empty(first) == []


@pytest.mark.requires("dead_letter_cycle_rule", "queue_ttl")
def test_a_message_that_expires_back_into_its_own_queue_is_dropped(driver: Driver) -> None:
    queue = driver.queue("q", message_ttl=SHORT, queue_arguments=to_queue(driver.name("q")))
    driver.publish("m", queue)

    driver.advance(SHORT)

    driver.wait_for_count(queue, 0)


@pytest.mark.requires("dead_letter_cycle_rule", "queue_ttl")
def test_a_message_that_was_rejected_in_the_circle_goes_on(driver: Driver) -> None:
    waiting = driver.queue("waiting", message_ttl=SHORT, queue_arguments=to_queue(driver.name("work")))
    work = driver.queue("work", queue_arguments=to_queue(waiting.name))
    driver.publish("m", waiting)

    driver.advance(SHORT)
    driver.take(work).reject()
    driver.advance(SHORT)

    assert [d["reason"] for d in driver.take(work).headers["x-death"]] == ["expired", "rejected"]


@pytest.mark.requires("dead_letter_cycle_rule", "max_length")
def test_a_message_that_only_overflows_in_a_circle_is_dropped(driver: Driver) -> None:
    queue = driver.queue("q", queue_arguments={**to_queue(driver.name("q")), "x-max-length": 1})

    driver.publish_all("ab", queue)

    driver.wait_for_count(queue, 1)
    assert driver.empty(queue) == ["b"]


@pytest.mark.requires("dead_letter_cycle_rule", "queue_ttl")
def test_the_circle_closes_for_one_queue_only(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    other = driver.bound_queue("other", exchange)
    queue = driver.bound_queue(
        "q", exchange, message_ttl=SHORT, queue_arguments={"x-dead-letter-exchange": exchange.name}
    )
    driver.publish("m", queue)

    driver.advance(SHORT)

    assert driver.take(other).payload == "m"
    driver.wait_for_count(queue, 0)


def test_a_publisher_cannot_make_a_message_look_dead(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = driver.queue("q", queue_arguments=arguments)
    driver.publish("m", queue, headers={"x-death": "no list at all"})

    driver.take(queue).reject()

    assert [d["reason"] for d in driver.take(dead).headers["x-death"]] == ["rejected"]


def test_purging_and_deleting_make_no_dead_letters(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = driver.queue("q", queue_arguments=arguments)

    driver.publish("purged", queue)
    queue.purge()
    driver.publish("deleted", queue)
    queue.delete()
    queue.declare()
    driver.publish("rejected", queue)
    driver.take(queue).reject()

    driver.wait_for_count(dead, 1)
    assert driver.empty(dead) == ["rejected"]


def test_a_dead_letter_key_needs_a_dead_letter_exchange(driver: Driver) -> None:
    with driver.refuses(406) as channel:
        channel.queue_declare(driver.name("bad"), durable=False, arguments={"x-dead-letter-routing-key": "k"})


@pytest.mark.parametrize("argument", ["x-dead-letter-exchange", "x-dead-letter-routing-key"])
def test_impossible_dead_letter_arguments_are_refused(driver: Driver, argument: str) -> None:
    with driver.refuses(406) as channel:
        channel.queue_declare(
            driver.name("bad"),
            durable=False,
            arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "k", argument: 1},
        )
