"""Bindings between exchanges and queues, between exchanges, and what happens to messages that none takes."""

from __future__ import annotations

import pytest

from tests.conformance.driver import Driver


def test_the_same_binding_twice_is_one_binding(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct")
    queue = driver.bound_queue("q", exchange, "k")
    queue.bind_to(exchange.name, routing_key="k")

    driver.publish("once", exchange, "k")
    queue.unbind_from(exchange, routing_key="k")
    driver.publish("never", exchange, "k")

    assert driver.empty(queue) == ["once"]


def test_bindings_that_differ_in_arguments_only_are_two(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct")
    queue = driver.bound_queue("q", exchange, "k")
    queue.bind_to(exchange.name, routing_key="k", arguments={"note": "second"})

    driver.publish("one copy", exchange, "k")
    queue.unbind_from(exchange, routing_key="k")
    driver.publish("still bound", exchange, "k")

    assert driver.empty(queue) == ["one copy", "still bound"]


def test_removing_a_binding_that_is_not_there_changes_nothing(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct")
    queue = driver.bound_queue("q", exchange, "k")

    queue.unbind_from(exchange, routing_key="other")

    driver.publish("m", exchange, "k")
    assert driver.empty(queue) == ["m"]


@pytest.mark.parametrize("missing", ["queue", "exchange"])
def test_binding_something_that_is_missing_is_refused(driver: Driver, missing: str) -> None:
    names = {"queue": driver.queue("q").name, "exchange": driver.exchange("x").name, missing: driver.name("missing")}

    with driver.refuses(404) as channel:
        channel.queue_bind(names["queue"], names["exchange"], "k")


def test_deleting_an_exchange_removes_its_bindings(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    queue = driver.bound_queue("q", exchange)

    exchange.delete()
    driver.publish("m", driver.exchange("x", "fanout"))

    assert driver.empty(queue) == []


@pytest.mark.requires("exchange_to_exchange")
def test_a_message_goes_through_bound_exchanges(driver: Driver) -> None:
    first, second = driver.exchange("first", "topic"), driver.exchange("second", "fanout")
    queue = driver.bound_queue("q", second)
    second.bind_to(first.name, routing_key="game.#")

    driver.publish("through", first, "game.started")
    driver.publish("not", first, "player.joined")

    message = driver.take(queue)
    assert message.payload == "through"
    # It still tells where it was published.
    assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == (first.name, "game.started")
    assert driver.empty(queue) == []


@pytest.mark.requires("exchange_to_exchange")
def test_every_exchange_on_the_way_looks_at_the_original_key(driver: Driver) -> None:
    first, second = driver.exchange("first", "fanout"), driver.exchange("second", "direct")
    queue = driver.bound_queue("q", second, "k")
    second.bind_to(first.name, routing_key="ignored")

    driver.publish("m", first, "k")
    driver.publish("not", first, "ignored")

    assert driver.empty(queue) == ["m"]


@pytest.mark.requires("exchange_to_exchange")
def test_exchanges_bound_in_a_circle_deliver_one_copy(driver: Driver) -> None:
    exchanges = [driver.exchange(f"x{n}", "fanout") for n in range(3)]
    for n, exchange in enumerate(exchanges):
        exchange.bind_to(exchanges[n - 1].name)
    exchanges[0].bind_to(exchanges[0].name)
    queues = [driver.bound_queue(f"q{n}", exchange) for n, exchange in enumerate(exchanges)]

    driver.publish("m", exchanges[1])

    assert [driver.empty(queue) for queue in queues] == [["m"]] * 3


@pytest.mark.requires("exchange_to_exchange")
def test_two_ways_to_one_queue_deliver_one_copy(driver: Driver) -> None:
    top, left, right = (driver.exchange(label, "fanout") for label in ("top", "left", "right"))
    queue = driver.bound_queue("q", left)
    queue.bind_to(right.name)
    queue.bind_to(top.name)
    left.bind_to(top.name)
    right.bind_to(top.name)

    driver.publish("m", top)

    assert driver.empty(queue) == ["m"]


@pytest.mark.requires("exchange_to_exchange")
def test_an_exchange_can_be_unbound_from_an_exchange(driver: Driver) -> None:
    first, second = driver.exchange("first", "direct"), driver.exchange("second", "fanout")
    queue = driver.bound_queue("q", second)
    second.bind_to(first.name, routing_key="a")
    second.bind_to(first.name, routing_key="b")

    second.unbind_from(first, routing_key="a")

    driver.publish("a", first, "a")
    driver.publish("b", first, "b")
    assert driver.empty(queue) == ["b"]


@pytest.mark.requires("exchange_to_exchange")
def test_deleting_the_destination_of_a_binding_removes_it(driver: Driver) -> None:
    first, second = driver.exchange("first", "fanout"), driver.exchange("second", "fanout")
    second.bind_to(first.name)

    second.delete()
    queue = driver.bound_queue("q", driver.exchange("second", "fanout"))
    driver.publish("m", first)

    assert driver.empty(queue) == []


@pytest.mark.requires("exchange_to_exchange")
def test_binding_a_missing_exchange_is_refused(driver: Driver) -> None:
    exchange = driver.exchange("x")

    with driver.refuses(404) as channel:
        channel.exchange_bind(exchange.name, driver.name("missing"), "k")


def test_a_message_that_no_queue_takes_is_dropped(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct")

    driver.publish("m", exchange, "nobody")

    assert driver.returned == []


@pytest.mark.requires("mandatory_return")
def test_a_mandatory_message_that_no_queue_takes_comes_back(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct")

    driver.publish("m", exchange, "nobody", mandatory=True, headers={"h": 1}, correlation_id="c")

    (message,) = driver.returned
    assert message.payload == "m"
    assert message.headers == {"h": 1}
    assert message.properties["correlation_id"] == "c"


@pytest.mark.requires("mandatory_return", "default_exchange")
def test_a_mandatory_message_to_a_missing_queue_comes_back(driver: Driver) -> None:
    driver.publish("m", "", driver.name("missing"), mandatory=True)

    assert [message.payload for message in driver.returned] == ["m"]


@pytest.mark.requires("mandatory_return")
def test_a_mandatory_message_that_a_queue_takes_does_not_come_back(driver: Driver) -> None:
    queue = driver.queue("q")

    driver.publish("m", queue, mandatory=True)

    assert driver.returned == []
    assert driver.empty(queue) == ["m"]


@pytest.mark.requires("alternate_exchange")
def test_the_alternate_exchange_gets_what_no_queue_takes(driver: Driver) -> None:
    alternate = driver.exchange("alternate", "fanout")
    exchange = driver.exchange("x", "direct", arguments={"alternate-exchange": alternate.name})
    routed, unrouted = driver.bound_queue("routed", exchange, "k"), driver.bound_queue("unrouted", alternate)

    driver.publish("known", exchange, "k")
    driver.publish("unknown", exchange, "other")

    assert driver.empty(routed) == ["known"]
    message = driver.take(unrouted)
    assert message.payload == "unknown"
    assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == (exchange.name, "other")
    assert driver.empty(unrouted) == []
    # It is no dead letter.
    assert "x-death" not in message.headers


@pytest.mark.requires("alternate_exchange", "mandatory_return")
def test_a_mandatory_message_that_the_alternate_exchange_takes_does_not_come_back(driver: Driver) -> None:
    alternate = driver.exchange("alternate", "direct")
    exchange = driver.exchange("x", "direct", arguments={"alternate-exchange": alternate.name})
    queue = driver.bound_queue("q", alternate, "taken")

    driver.publish("taken", exchange, "taken", mandatory=True)
    driver.publish("returned", exchange, "nobody", mandatory=True)

    assert driver.empty(queue) == ["taken"]
    assert [message.payload for message in driver.returned] == ["returned"]


@pytest.mark.requires("alternate_exchange")
def test_alternate_exchanges_may_be_chained_in_a_circle(driver: Driver) -> None:
    names = {label: driver.name(label) for label in ("a", "b", "c")}
    a = driver.exchange("a", "direct", arguments={"alternate-exchange": names["b"]})
    driver.exchange("b", "direct", arguments={"alternate-exchange": names["c"]})
    c = driver.exchange("c", "direct", arguments={"alternate-exchange": names["a"]})
    queue = driver.bound_queue("q", c, "k")

    driver.publish("third", a, "k")
    driver.publish("nobody's", a, "other")

    assert driver.empty(queue) == ["third"]


@pytest.mark.requires("alternate_exchange")
def test_a_missing_alternate_exchange_drops_the_message(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct", arguments={"alternate-exchange": driver.name("missing")})

    driver.publish("m", exchange, "nobody", mandatory=True)

    assert [message.payload for message in driver.returned] == ["m"]


@pytest.mark.requires("alternate_exchange", "exchange_to_exchange")
def test_a_binding_to_an_exchange_without_queues_counts_as_routed(driver: Driver) -> None:
    alternate, empty = driver.exchange("alternate", "fanout"), driver.exchange("empty", "fanout")
    exchange = driver.exchange("x", "direct", arguments={"alternate-exchange": alternate.name})
    unrouted = driver.bound_queue("unrouted", alternate)
    empty.bind_to(exchange.name, routing_key="k")

    driver.publish("m", exchange, "k")

    assert driver.empty(unrouted) == []


@pytest.mark.requires("alternate_exchange", "exchange_to_exchange")
def test_the_alternate_of_an_exchange_on_the_way_is_used(driver: Driver) -> None:
    alternate = driver.exchange("alternate", "fanout")
    second = driver.exchange("second", "direct", arguments={"alternate-exchange": alternate.name})
    first = driver.exchange("first", "fanout")
    second.bind_to(first.name)
    unrouted = driver.bound_queue("unrouted", alternate)

    driver.publish("m", first, "nobody")

    assert driver.empty(unrouted) == ["m"]
