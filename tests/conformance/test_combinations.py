"""Rules together, as an application has them: what one rule does is the next one's input."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.driver import Driver, PublishRefused

SHORT = 0.2


@pytest.mark.requires("dead_letter", "dead_letter_cycle_rule", "queue_ttl", "priority")
def test_a_delayed_retry_keeps_the_priority(driver: Driver) -> None:
    work_name = driver.name("work")
    waiting = driver.queue(
        "waiting",
        message_ttl=SHORT,
        queue_arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": work_name},
    )
    work = driver.queue(
        "work",
        max_priority=9,
        queue_arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": waiting.name},
    )
    driver.publish("low", work, priority=1)
    driver.publish("high", work, priority=8)

    for message in driver.take_many(work, 2):
        message.reject()
    driver.publish("new", work, priority=5)
    driver.advance(SHORT)

    driver.wait_for_count(work, 3)
    assert driver.empty(work) == ["high", "new", "low"]


@pytest.mark.requires("dead_letter", "overflow_drop_head", "max_length")
def test_dead_letters_overflow_from_queue_to_queue(driver: Driver) -> None:
    last = driver.queue("last")
    middle = driver.queue(
        "middle",
        queue_arguments={"x-max-length": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": last.name},
    )
    first = driver.queue(
        "first",
        queue_arguments={"x-max-length": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": middle.name},
    )

    driver.publish_all("abc", first)

    driver.wait_for_count(last, 1)
    message = driver.take(last)
    assert message.payload == "a"
    assert [(death["queue"], death["reason"]) for death in message.headers["x-death"]] == [
        (middle.name, "maxlen"),
        (first.name, "maxlen"),
    ]
    assert (driver.empty(middle), driver.empty(first)) == (["b"], ["c"])


@pytest.mark.requires("dead_letter", "topic", "exchange_to_exchange", "message_ttl")
def test_dead_letters_are_routed_through_bound_exchanges_by_pattern(driver: Driver) -> None:
    collector, sorter = driver.exchange("collector", "fanout"), driver.exchange("sorter", "topic")
    sorter.bind_to(collector.name)
    games = driver.bound_queue("games", sorter, "game.#")
    others = driver.bound_queue("others", sorter, "player.#")
    source = driver.exchange("x", "topic")
    driver.bound_queue("q", source, "#", queue_arguments={"x-dead-letter-exchange": collector.name})

    driver.publish("g", source, "game.started", expiration=SHORT)
    driver.publish("p", source, "player.joined", expiration=SHORT)
    driver.advance(SHORT)

    driver.wait_for_count(games, 1)
    driver.wait_for_count(others, 1)
    assert (driver.empty(games), driver.empty(others)) == (["g"], ["p"])


@pytest.mark.requires("single_active_consumer", "consumer_priority")
def test_a_single_active_consumer_is_kept_when_one_of_higher_priority_comes(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-single-active-consumer": True})
    active = driver.consume(queue, channel=driver.connect().channel(), priority=0)
    urgent = driver.consume(queue, channel=driver.connect().channel(), priority=10)

    driver.publish("m", queue)

    assert active.bodies(1) == ["m"]
    assert urgent.nothing_arrives()


@pytest.mark.requires("consumer_priority", "requeue_in_place", "prefetch")
def test_a_message_put_back_goes_to_the_consumer_of_highest_priority(driver: Driver) -> None:
    queue = driver.queue()
    high = driver.consume(queue, channel=driver.connect().channel(), priority=1, prefetch=1)
    low = driver.consume(queue, channel=driver.connect().channel(), prefetch=1)
    driver.publish_all("ab", queue)
    (a,) = high.receive(1)
    (b,) = low.receive(1)

    a.ack()
    driver.count(queue)
    b.requeue()

    (again,) = high.receive(1)
    assert (again.payload, again.delivery_info["redelivered"]) == ("b", True)


@pytest.mark.requires("overflow_reject_publish", "exchange_to_exchange", "alternate_exchange")
def test_a_full_queue_is_no_reason_for_the_alternate_exchange(driver: Driver) -> None:
    alternate = driver.exchange("alternate", "fanout")
    exchange = driver.exchange("x", "direct", arguments={"alternate-exchange": alternate.name})
    unrouted = driver.bound_queue("unrouted", alternate)
    full = driver.bound_queue(
        "full", exchange, "k", queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    driver.publish("a", exchange, "k")

    with pytest.raises(PublishRefused):
        driver.publish("b", exchange, "k")

    assert (driver.empty(full), driver.empty(unrouted)) == (["a"], [])


@pytest.mark.requires("mandatory_return", "message_ttl")
def test_a_mandatory_message_that_expires_at_once_was_routed(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish("m", queue, mandatory=True, expiration=0)

    assert driver.returned == []


@pytest.mark.requires("mandatory_return", "dead_letter")
def test_a_dead_letter_of_a_mandatory_message_is_not_returned(driver: Driver) -> None:
    exchange = driver.exchange("dead-x", "direct")
    queue = driver.queue("q", queue_arguments={"x-dead-letter-exchange": exchange.name})
    driver.publish("m", queue, mandatory=True)

    driver.take(queue).reject()

    assert driver.count(queue) == 0
    assert driver.returned == []


@pytest.mark.requires("exclusive", "dead_letter", "requeue_in_place")
def test_a_closed_connection_gives_back_and_takes_its_queue_along(driver: Driver) -> None:
    shared = driver.queue("shared")
    connection = driver.connect()
    channel = connection.channel()
    own = driver.queue("own", exclusive=True, channel=channel)
    driver.publish_all("ab", shared)
    driver.publish("own", own)
    driver.take(shared, channel=channel)
    driver.take(own, channel=channel)

    driver.close_connection(connection)

    driver.wait_for_count(shared, 2)
    assert driver.empty(shared) == ["a", "b"]
    driver.eventually(lambda: driver.exists(own), False)


@pytest.mark.requires("queue_ttl", "dead_letter", "max_length", "overflow_reject_publish_dlx")
def test_every_way_out_of_a_queue_leads_to_its_dead_letter_exchange(driver: Driver) -> None:
    exchange = driver.exchange("dead-x", "fanout")
    dead = driver.bound_queue("dead", exchange)
    arguments: dict[str, Any] = {
        "x-dead-letter-exchange": exchange.name,
        "x-max-length": 2,
        "x-overflow": "reject-publish-dlx",
    }
    queue = driver.queue("q", queue_arguments=arguments)
    driver.publish("rejected", queue)
    driver.publish("expired", queue, expiration=SHORT)
    with pytest.raises(PublishRefused):
        driver.publish("refused", queue)
    driver.take(queue).reject()
    driver.advance(SHORT)

    driver.wait_for_count(dead, 3)
    reasons = {m.payload: m.headers["x-death"][0]["reason"] for m in driver.take_many(dead, 3)}
    assert reasons == {"refused": "maxlen", "rejected": "rejected", "expired": "expired"}


@pytest.mark.requires("fanout", "prefetch", "requeue_in_place")
def test_subscribers_of_one_event_do_not_disturb_each_other(driver: Driver) -> None:
    exchange = driver.exchange("events", "fanout")
    good, bad = driver.bound_queue("good", exchange), driver.bound_queue("bad", exchange)
    done = driver.consume(good, prefetch=1)
    driver.publish_all(range(3), exchange)

    driver.take(bad).requeue()
    received = []
    for _ in range(3):
        (message,) = done.receive(1)
        received.append(message.payload)
        message.ack()

    assert received == [0, 1, 2]
    assert driver.empty(bad) == [0, 1, 2]
