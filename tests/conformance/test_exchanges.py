"""What each type of exchange does with a message (AMQP 0-9-1, 3.1; RabbitMQ docs: Exchanges)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.driver import Driver


@pytest.mark.requires("direct")
def test_direct_exchange_routes_by_the_exact_key(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct")
    red, blue = driver.bound_queue("red", exchange, "red"), driver.bound_queue("blue", exchange, "blue")

    for key in ("red", "blue", "redd", "re", "Red", "", "*", "#"):
        driver.publish(key, exchange, key)

    assert driver.empty(red) == ["red"]
    assert driver.empty(blue) == ["blue"]


@pytest.mark.requires("direct")
def test_direct_exchange_gives_every_queue_bound_with_the_key_a_copy(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct")
    queues = [driver.bound_queue(f"q{n}", exchange, "k") for n in range(3)]

    driver.publish("m", exchange, "k")

    assert [driver.empty(queue) for queue in queues] == [["m"]] * 3


@pytest.mark.requires("direct")
def test_direct_exchange_takes_topic_wildcards_literally(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct")
    queue = driver.bound_queue("q", exchange, "a.*")

    driver.publish_all(["no"], exchange, "a.b")
    driver.publish_all(["yes"], exchange, "a.*")

    assert driver.empty(queue) == ["yes"]


@pytest.mark.requires("direct")
def test_one_queue_may_be_bound_with_many_keys(driver: Driver) -> None:
    exchange = driver.exchange("x", "direct")
    queue = driver.bound_queue("q", exchange, "a")
    queue.bind_to(exchange.name, routing_key="b")
    queue.bind_to(exchange.name, routing_key="")

    for key in ("a", "b", "", "c"):
        driver.publish([key], exchange, key)

    assert driver.empty(queue) == [["a"], ["b"], [""]]


@pytest.mark.requires("fanout")
def test_fanout_exchange_gives_every_bound_queue_a_copy_whatever_the_key(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    one, other = driver.bound_queue("one", exchange, "ignored"), driver.bound_queue("other", exchange)
    unbound = driver.queue("unbound")

    driver.publish("m", exchange, "any.key")

    assert (driver.empty(one), driver.empty(other), driver.empty(unbound)) == (["m"], ["m"], [])


@pytest.mark.requires("fanout")
def test_copies_of_a_message_are_settled_apart(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    one, other = driver.bound_queue("one", exchange), driver.bound_queue("other", exchange)
    driver.publish("m", exchange)

    driver.take(one).ack()
    driver.take(other).requeue()

    assert driver.get(one) is None
    assert driver.take(other).delivery_info["redelivered"]


@pytest.mark.requires("default_exchange")
def test_default_exchange_routes_to_the_queue_named_by_the_key(driver: Driver) -> None:
    queue, other = driver.queue("q"), driver.queue("other")

    driver.publish("m", "", queue.name)

    assert driver.empty(queue) == ["m"]
    assert driver.empty(other) == []


@pytest.mark.requires("default_exchange")
def test_default_exchange_cannot_be_bound_to_a_queue(driver: Driver) -> None:
    queue = driver.queue("q")

    with driver.refuses(403) as channel:
        channel.queue_bind(queue.name, "", "k")


@pytest.mark.requires("default_exchange")
def test_default_exchange_cannot_be_unbound_from_a_queue(driver: Driver) -> None:
    queue = driver.queue("q")

    with driver.refuses(403) as channel:
        channel.queue_unbind(queue.name, "", queue.name)


@pytest.mark.requires("default_exchange", "exchange_to_exchange")
@pytest.mark.parametrize("end", ["source", "destination"])
def test_default_exchange_cannot_be_bound_to_an_exchange(driver: Driver, end: str) -> None:
    exchange = driver.exchange("x")
    ends = {"source": exchange.name, "destination": exchange.name, end: ""}

    with driver.refuses(403) as channel:
        channel.exchange_bind(ends["destination"], ends["source"], "k")


@pytest.mark.requires("default_exchange")
def test_default_exchange_cannot_be_deleted(driver: Driver) -> None:
    with driver.refuses(403) as channel:
        channel.exchange_delete("")


ALL: dict[str, Any] = {"x-match": "all", "kind": "move", "player": 2}
ANY: dict[str, Any] = {"x-match": "any", "kind": "move", "player": 2}

# (what is asked for, the binding's arguments, the message's headers, whether they match)
HEADERS_TABLE = [
    ("all: each is there", ALL, {"kind": "move", "player": 2}, True),
    ("all: more is there", ALL, {"kind": "move", "player": 2, "room": "a"}, True),
    ("all: one is missing", ALL, {"kind": "move"}, False),
    ("all: one differs", ALL, {"kind": "move", "player": 3}, False),
    ("all: another type", ALL, {"kind": "move", "player": "2"}, False),
    ("all: no headers", ALL, {}, False),
    ("all is the default", {"kind": "move", "player": 2}, {"kind": "move"}, False),
    ("all is the default, matching", {"kind": "move"}, {"kind": "move"}, True),
    ("all of nothing", {"x-match": "all"}, {"kind": "move"}, True),
    ("all of nothing, no headers", {"x-match": "all"}, {}, True),
    ("no arguments", {}, {"kind": "move"}, True),
    ("any: each is there", ANY, {"kind": "move", "player": 2}, True),
    ("any: one is there", ANY, {"kind": "move"}, True),
    ("any: the other is there", ANY, {"kind": "talk", "player": 2}, True),
    ("any: none is there", ANY, {"kind": "talk", "player": 3}, False),
    ("any: no headers", ANY, {}, False),
    ("any of nothing", {"x-match": "any"}, {"kind": "move"}, False),
    ("all: x- keys are not compared", {"x-match": "all", "x-room": "a", "kind": "move"}, {"kind": "move"}, True),
    ("any: x- keys are not compared", {"x-match": "any", "x-room": "a", "kind": "move"}, {"x-room": "a"}, False),
    ("all-with-x: x- keys are", {"x-match": "all-with-x", "x-room": "a", "kind": "m"}, {"kind": "m"}, False),
    ("all-with-x: each", {"x-match": "all-with-x", "x-room": "a", "kind": "m"}, {"x-room": "a", "kind": "m"}, True),
    ("any-with-x: one", {"x-match": "any-with-x", "x-room": "a", "kind": "m"}, {"x-room": "a"}, True),
    ("any-with-x: none", {"x-match": "any-with-x", "x-room": "a", "kind": "m"}, {"x-room": "b"}, False),
    ("None: present", {"x-match": "all", "kind": None}, {"kind": "anything"}, True),
    ("None: present with None", {"x-match": "all", "kind": None}, {"kind": None}, True),
    ("None: absent", {"x-match": "all", "kind": None}, {"other": 1}, False),
    ("bool", {"x-match": "all", "won": True}, {"won": True}, True),
    ("bool differs", {"x-match": "all", "won": True}, {"won": False}, False),
    ("bool is no int", {"x-match": "all", "won": True}, {"won": 1}, False),
    ("int of 0 is not False", {"x-match": "all", "won": 0}, {"won": False}, False),
    ("float", {"x-match": "all", "score": 1.5}, {"score": 1.5}, True),
    ("an int equals its float", {"x-match": "all", "score": 1}, {"score": 1.0}, True),
    ("big int", {"x-match": "all", "id": 2**40}, {"id": 2**40}, True),
    ("bytes", {"x-match": "all", "raw": b"\x00\xff"}, {"raw": b"\x00\xff"}, True),
    ("list", {"x-match": "all", "l": ["a", 1]}, {"l": ["a", 1]}, True),
    ("list in another order", {"x-match": "all", "l": ["a", 1]}, {"l": [1, "a"]}, False),
    ("table", {"x-match": "all", "t": {"a": 1}}, {"t": {"a": 1}}, True),
    ("text is compared with its case", {"x-match": "all", "kind": "move"}, {"kind": "Move"}, False),
]


@pytest.mark.requires("headers")
def test_headers_exchange_routes_by_the_table(driver: Driver) -> None:
    # One exchange and queue a row: the rows then cannot help each other.
    rows = []
    for number, (what, arguments, headers, _) in enumerate(HEADERS_TABLE):
        exchange = driver.exchange(f"x{number}", "headers")
        queue = driver.queue(f"q{number}")
        queue.bind_to(exchange.name, routing_key="", arguments=arguments)
        driver.publish(what, exchange, headers=headers)
        rows.append((what, queue))

    assert {what: bool(driver.empty(queue)) for what, queue in rows} == {row[0]: row[3] for row in HEADERS_TABLE}


@pytest.mark.requires("headers")
def test_headers_exchange_ignores_the_routing_key(driver: Driver) -> None:
    exchange = driver.exchange("x", "headers")
    queue = driver.queue("q")
    queue.bind_to(exchange.name, routing_key="k", arguments={"x-match": "all", "kind": "move"})

    driver.publish("m", exchange, "other", headers={"kind": "move"})

    assert driver.empty(queue) == ["m"]


@pytest.mark.requires("headers")
def test_headers_exchange_refuses_an_unknown_match_rule(driver: Driver) -> None:
    exchange, queue = driver.exchange("x", "headers"), driver.queue("q")

    with driver.refuses(406) as channel:
        channel.queue_bind(queue.name, exchange.name, "", arguments={"x-match": "most", "kind": "move"})


@pytest.mark.requires("headers")
def test_a_headers_binding_is_removed_by_its_arguments(driver: Driver) -> None:
    exchange, queue = driver.exchange("x", "headers"), driver.queue("q")
    move, talk = {"x-match": "all", "kind": "move"}, {"x-match": "all", "kind": "talk"}
    for arguments in (move, talk):
        queue.bind_to(exchange.name, routing_key="", arguments=arguments)

    queue.unbind_from(exchange, routing_key="", arguments=move)

    driver.publish("move", exchange, headers={"kind": "move"})
    driver.publish("talk", exchange, headers={"kind": "talk"})
    assert driver.empty(queue) == ["talk"]
