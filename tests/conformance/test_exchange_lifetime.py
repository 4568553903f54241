"""Declaring and deleting exchanges: what is refused, and with which code."""

from __future__ import annotations

import pytest
from amqp.exceptions import AMQPError

from tests.conformance.driver import Driver


@pytest.mark.parametrize("name", ["amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"])
def test_the_standard_exchanges_are_there(driver: Driver, name: str) -> None:
    assert driver.exists(exchange=name)


def test_an_exchange_can_be_declared_again_as_it_is(driver: Driver) -> None:
    exchange = driver.exchange("x", "topic", arguments={"alternate-exchange": "amq.fanout"})

    exchange.declare()

    assert driver.exists(exchange=exchange.name)


@pytest.mark.parametrize(
    "difference",
    [{"type": "fanout"}, {"durable": True}, {"auto_delete": True}, {"arguments": {"alternate-exchange": "amq.fanout"}}],
    ids=["type", "durable", "auto_delete", "alternate-exchange"],
)
def test_an_exchange_cannot_be_declared_again_differently(driver: Driver, difference: dict[str, object]) -> None:
    exchange = driver.exchange("x", "direct", durable=False, auto_delete=False)
    declaration = {"type": "direct", "durable": False, "auto_delete": False, **difference}

    with driver.refuses(406) as channel:
        channel.exchange_declare(exchange.name, **declaration)


def test_a_passive_declare_of_a_missing_exchange_is_refused(driver: Driver) -> None:
    with driver.refuses(404) as channel:
        channel.exchange_declare(driver.name("missing"), "direct", passive=True)


def test_a_passive_declare_of_an_exchange_looks_at_its_name_only(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct")

    driver.channel.exchange_declare(exchange.name, "fanout", passive=True, durable=True)

    assert driver.exists(exchange=exchange.name)


def test_an_impossible_alternate_exchange_is_refused(driver: Driver) -> None:
    with driver.refuses(406) as channel:
        channel.exchange_declare(driver.name("bad"), "direct", arguments={"alternate-exchange": 5})


def test_an_unknown_type_of_exchange_is_refused(driver: Driver) -> None:
    channel = driver.connect().channel()

    # RabbitMQ ends the connection (503), ours refuses the operation (406): no program goes on from either.
    with pytest.raises(AMQPError):
        channel.exchange_declare(driver.name("bad"), "dirct")

    assert not driver.exists(exchange=driver.name("bad"))


def test_names_with_the_reserved_prefix_cannot_be_declared(driver: Driver) -> None:
    with driver.refuses(403) as channel:
        channel.exchange_declare("amq." + driver.name("mine"), "direct")


def test_a_standard_exchange_cannot_be_deleted(driver: Driver) -> None:
    with driver.refuses(403) as channel:
        channel.exchange_delete("amq.direct")


def test_publishing_to_a_missing_exchange_is_refused(driver: Driver) -> None:
    with driver.refuses(404) as channel:
        driver.publish("m", driver.name("missing"), "k", channel=channel)


def test_an_exchange_in_use_is_not_deleted_if_unused_is_asked(driver: Driver) -> None:
    exchange = driver.exchange("x")
    queue = driver.bound_queue("q", exchange, "k")

    with driver.refuses(406) as channel:
        channel.exchange_delete(exchange.name, if_unused=True)

    queue.unbind_from(exchange, routing_key="k")
    driver.channel.exchange_delete(exchange.name, if_unused=True)
    assert not driver.exists(exchange=exchange.name)


def test_deleting_a_missing_exchange_is_no_error(driver: Driver) -> None:
    driver.channel.exchange_delete(driver.name("missing"))

    assert not driver.exists(exchange=driver.name("missing"))


@pytest.mark.requires("auto_delete")
def test_an_auto_delete_exchange_goes_with_its_last_binding(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct", auto_delete=True)
    queue = driver.bound_queue("q", exchange, "a")
    queue.bind_to(exchange.name, routing_key="b")

    queue.unbind_from(exchange, routing_key="a")
    assert driver.exists(exchange=exchange.name)

    queue.unbind_from(exchange, routing_key="b")
    assert not driver.exists(exchange=exchange.name)


@pytest.mark.requires("auto_delete")
def test_an_auto_delete_exchange_goes_with_its_last_queue(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout", auto_delete=True)
    queue = driver.bound_queue("q", exchange)

    queue.delete()

    assert not driver.exists(exchange=exchange.name)


@pytest.mark.requires("auto_delete")
def test_an_auto_delete_exchange_that_was_never_bound_stays(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout", auto_delete=True)

    driver.publish("m", exchange)

    assert driver.exists(exchange=exchange.name)


@pytest.mark.requires("auto_delete", "exchange_to_exchange")
def test_auto_delete_exchanges_go_one_after_the_other(driver: Driver) -> None:
    first = driver.exchange("first", "fanout", auto_delete=True)
    second = driver.exchange("second", "fanout", auto_delete=True)
    second.bind_to(first.name)
    queue = driver.bound_queue("q", second)

    queue.delete()

    assert not driver.exists(exchange=second.name)
    assert not driver.exists(exchange=first.name)
