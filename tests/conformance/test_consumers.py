"""Who gets the next message: turns, consumer priorities, windows, single active consumer (RabbitMQ docs: Consumers)."""

from __future__ import annotations

import pytest

from tests.conformance.driver import Driver


def test_consumers_of_a_queue_take_turns(driver: Driver) -> None:
    queue = driver.queue()
    inboxes = [driver.consume(queue, channel=driver.connect().channel()) for _ in range(3)]

    driver.publish_all(range(9), queue)

    received = [inbox.bodies(3) for inbox in inboxes]
    assert received == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert all(inbox.nothing_arrives() for inbox in inboxes)


def test_a_newcomer_does_not_change_whose_turn_it_is(driver: Driver) -> None:
    queue = driver.queue()
    one, other = (driver.consume(queue, channel=driver.connect().channel()) for _ in range(2))
    driver.publish("a", queue)
    assert one.bodies(1) == ["a"]

    newcomer = driver.consume(queue, channel=driver.connect().channel())
    driver.publish_all("bcd", queue)

    assert (other.bodies(1), one.bodies(1), newcomer.bodies(1)) == (["b"], ["c"], ["d"])


def test_a_consumer_that_leaves_does_not_change_whose_turn_it_is(driver: Driver) -> None:
    queue = driver.queue()
    inboxes = [driver.consume(queue, channel=driver.connect().channel()) for _ in range(3)]
    driver.publish("a", queue)
    assert inboxes[0].bodies(1) == ["a"]

    inboxes[2].cancel()
    driver.publish_all("bc", queue)

    assert (inboxes[1].bodies(1), inboxes[0].bodies(1)) == (["b"], ["c"])


@pytest.mark.requires("prefetch")
def test_a_consumer_that_has_room_again_goes_to_the_end_of_the_line(driver: Driver) -> None:
    queue = driver.queue()
    narrow = driver.consume(queue, channel=driver.connect().channel(), prefetch=1)
    wide, wider = (driver.consume(queue, channel=driver.connect().channel(), prefetch=10) for _ in range(2))
    driver.publish_all("abcd", queue)
    (message,) = narrow.receive(1)
    assert (message.payload, wide.bodies(2), wider.bodies(1)) == ("a", ["b", "d"], ["c"])

    message.ack()
    message.channel.queue_declare(queue.name, passive=True)
    driver.publish_all("efg", queue)

    assert (wider.bodies(1), wide.bodies(1), narrow.bodies(1)) == (["e"], ["f"], ["g"])


def test_a_message_goes_to_one_consumer_only(driver: Driver) -> None:
    queue = driver.queue()
    one, other = driver.consume(queue), driver.consume(queue, channel=driver.connect().channel())

    driver.publish("m", queue)

    assert one.bodies(1) == ["m"]
    assert other.nothing_arrives()


def test_a_consumer_gets_what_was_there_before_it_came(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abc", queue)

    assert driver.consume(queue).bodies(3) == ["a", "b", "c"]


def test_one_consumer_may_consume_several_queues(driver: Driver) -> None:
    one, other = driver.queue("one"), driver.queue("other")
    inboxes = [driver.consume(one), driver.consume(other)]

    driver.publish("a", one)
    driver.publish("b", other)

    assert [inbox.bodies(1) for inbox in inboxes] == [["a"], ["b"]]


def test_a_delivery_names_its_consumer_its_exchange_and_its_key(driver: Driver) -> None:
    exchange = driver.exchange("x", "topic")
    queue = driver.bound_queue("q", exchange, "a.#")
    inbox = driver.consume(queue)

    driver.publish("m", exchange, "a.b")

    (message,) = inbox.receive(1)
    info = message.delivery_info
    assert info["consumer_tag"] in inbox.consumer._active_tags.values()
    assert {key: info[key] for key in ("exchange", "routing_key", "redelivered")} == {
        "exchange": exchange.name,
        "routing_key": "a.b",
        "redelivered": False,
    }


def test_a_consumer_tag_can_be_chosen_and_must_be_unique_on_its_channel(driver: Driver) -> None:
    queue = driver.queue()

    # RabbitMQ ends the connection for this one.
    with driver.refuses(530) as channel:
        assert channel.basic_consume(queue.name, "mine", callback=print) == "mine"
        channel.basic_consume(queue.name, "mine", callback=print)


@pytest.mark.requires("requeue_in_place")
def test_a_cancelled_consumer_leaves_the_rest_to_others(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abc", queue)
    inbox = driver.consume(queue, prefetch=1)
    (first,) = inbox.receive(1)

    inbox.cancel()
    first.ack()

    assert driver.empty(queue) == ["b", "c"]


@pytest.mark.requires("requeue_in_place")
def test_messages_that_a_cancelled_consumer_never_saw_are_not_lost(driver: Driver) -> None:
    queue = driver.queue()
    connection = driver.connect()
    inbox = driver.consume(queue, channel=connection.channel())
    driver.publish_all("abc", queue)  # sent to the consumer, which does not look

    inbox.cancel()
    driver.close_connection(connection)

    driver.wait_for_count(queue, 3)
    assert driver.empty(queue) == ["a", "b", "c"]


def test_cancelling_an_unknown_consumer_is_no_error(driver: Driver) -> None:
    driver.channel.basic_cancel("nobody")

    assert driver.exists(driver.queue())


@pytest.mark.requires("prefetch")
def test_a_window_limits_what_is_unsettled(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all(range(5), queue)

    inbox = driver.consume(queue, prefetch=2)

    first, second = inbox.receive(2)
    assert inbox.nothing_arrives()
    assert driver.count(queue) == 3
    first.ack()
    assert inbox.bodies(1) == [2]
    second.reject()
    assert inbox.bodies(1) == [3]
    assert inbox.nothing_arrives()


@pytest.mark.requires("prefetch")
def test_each_consumer_of_a_channel_has_its_own_window(driver: Driver) -> None:
    queue = driver.queue()
    one, other = driver.consume(queue, prefetch=1), driver.consume(queue, prefetch=2)

    driver.publish_all(range(5), queue)

    assert len(one.receive(1)) == 1
    assert len(other.receive(2)) == 2
    assert one.nothing_arrives()
    assert other.nothing_arrives()


@pytest.mark.requires("prefetch")
def test_a_full_consumer_is_passed_over(driver: Driver) -> None:
    queue = driver.queue()
    narrow = driver.consume(queue, prefetch=1)
    wide = driver.consume(queue, channel=driver.connect().channel(), prefetch=10)

    driver.publish_all(range(5), queue)

    assert narrow.bodies(1) == [0]
    assert wide.bodies(4) == [1, 2, 3, 4]


@pytest.mark.requires("prefetch")
def test_a_change_of_window_holds_for_consumers_that_come_later(driver: Driver) -> None:
    queue = driver.queue()
    early = driver.consume(queue, prefetch=1)
    driver.channel.basic_qos(0, 3, False)

    driver.publish_all(range(3), queue)
    assert len(early.receive(1)) == 1
    assert early.nothing_arrives()

    late = driver.consume(queue)
    driver.publish_all(range(3), queue)
    assert len(late.receive(3)) == 3
    assert late.nothing_arrives()


@pytest.mark.requires("prefetch")
def test_a_window_of_zero_is_no_limit(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all(range(50), queue)

    assert driver.consume(queue, prefetch=0).bodies(50) == list(range(50))


@pytest.mark.requires("prefetch")
def test_getting_is_not_limited_by_the_window(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abc", queue)
    driver.channel.basic_qos(0, 1, False)

    assert [message.payload for message in driver.take_many(queue, 3)] == ["a", "b", "c"]


@pytest.mark.requires("global_prefetch")
def test_a_channel_wide_window_is_shared_by_its_consumers(driver: Driver) -> None:
    queue, other_queue = driver.queue("one"), driver.queue("other")
    driver.channel.basic_qos(0, 3, True)
    one, other = driver.consume(queue), driver.consume(other_queue)
    driver.publish_all(range(2), queue)
    held = one.receive(2)

    driver.publish_all(range(3), other_queue)

    assert other.bodies(1) == [0]
    assert other.nothing_arrives()
    held[0].ack()
    assert other.bodies(1) == [1]
    assert other.nothing_arrives()


@pytest.mark.requires("global_prefetch")
def test_no_queue_starves_for_another_in_a_channel_wide_window(driver: Driver) -> None:
    driver.channel.basic_qos(0, 1, True)
    queues = [driver.queue(label) for label in ("one", "other", "third")]
    inboxes = [driver.consume(queue) for queue in queues]
    for number, queue in enumerate(queues):
        driver.publish_all([number] * 40, queue)

    order: list[int] = []
    for _ in range(10_000):
        arrived = [message for inbox in inboxes for message in inbox.all_of_it()]
        for message in arrived:
            order.append(message.payload)
            message.ack()
        if len(order) >= 60:
            break

    assert min(order.count(number) for number in range(3)) >= 5, order


@pytest.mark.requires("global_prefetch", "prefetch")
def test_both_windows_hold(driver: Driver) -> None:
    queue, other_queue = driver.queue("one"), driver.queue("other")
    # In this order: RabbitMQ 3.10 lifts the channel's limit where one for consumers is asked for after it.
    driver.channel.basic_qos(0, 2, False)
    driver.channel.basic_qos(0, 3, True)
    one, other = driver.consume(queue), driver.consume(other_queue)
    driver.publish_all(range(5), queue)
    assert one.bodies(2) == [0, 1]

    driver.publish_all(range(5), other_queue)

    assert other.bodies(1) == [0]
    assert one.nothing_arrives()
    assert other.nothing_arrives()


@pytest.mark.requires("global_prefetch")
def test_widening_the_channels_window_lets_more_through_at_once(driver: Driver) -> None:
    queue = driver.queue()
    driver.channel.basic_qos(0, 1, True)
    inbox = driver.consume(queue)
    driver.publish_all(range(5), queue)
    assert inbox.bodies(1) == [0]
    assert inbox.nothing_arrives()

    driver.channel.basic_qos(0, 3, True)

    assert inbox.bodies(2) == [1, 2]
    assert inbox.nothing_arrives()


@pytest.mark.requires("consumer_priority")
def test_a_consumer_of_higher_priority_gets_everything_it_can_take(driver: Driver) -> None:
    queue = driver.queue()
    low = driver.consume(queue, channel=driver.connect().channel(), priority=-5)
    normal = driver.consume(queue, channel=driver.connect().channel())
    high = driver.consume(queue, channel=driver.connect().channel(), priority=10, prefetch=2)

    driver.publish_all(range(2), queue)
    held = high.receive(2)
    driver.publish_all(range(2, 4), queue)

    assert normal.bodies(2) == [2, 3]  # the high one is full
    held[0].ack()
    driver.count(queue)
    driver.publish("again", queue)
    assert high.bodies(1) == ["again"]
    assert low.nothing_arrives()


@pytest.mark.requires("consumer_priority")
def test_consumers_of_equal_priority_take_turns(driver: Driver) -> None:
    queue = driver.queue()
    low = driver.consume(queue, channel=driver.connect().channel())
    one, other = (driver.consume(queue, channel=driver.connect().channel(), priority=1) for _ in range(2))

    driver.publish_all(range(4), queue)

    assert (one.bodies(2), other.bodies(2)) == ([0, 2], [1, 3])
    assert low.nothing_arrives()


@pytest.mark.requires("consumer_priority")
def test_an_impossible_consumer_priority_is_refused(driver: Driver) -> None:
    queue = driver.queue()

    with driver.refuses(406) as channel:
        channel.basic_consume(queue.name, callback=print, arguments={"x-priority": "high"})


@pytest.mark.requires("single_active_consumer")
def test_a_single_active_consumer_gets_everything(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-single-active-consumer": True})
    first, second = (driver.consume(queue, channel=driver.connect().channel()) for _ in range(2))

    driver.publish_all(range(4), queue)

    assert first.bodies(4) == [0, 1, 2, 3]
    assert second.nothing_arrives()


@pytest.mark.requires("single_active_consumer", "prefetch")
def test_a_full_window_does_not_make_another_consumer_active(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-single-active-consumer": True})
    first, second = (driver.consume(queue, channel=driver.connect().channel(), prefetch=1) for _ in range(2))

    driver.publish_all(range(2), queue)

    assert first.bodies(1) == [0]
    assert second.nothing_arrives()


@pytest.mark.requires("single_active_consumer")
@pytest.mark.parametrize("how", ["cancel", "connection"])
def test_the_next_in_line_takes_over_from_a_single_active_consumer(driver: Driver, how: str) -> None:
    queue = driver.queue(queue_arguments={"x-single-active-consumer": True})
    connection = driver.connect()
    first = driver.consume(queue, channel=connection.channel())
    second, third = (driver.consume(queue, channel=driver.connect().channel()) for _ in range(2))
    driver.publish_all("ab", queue)
    assert first.bodies(2) == ["a", "b"]

    if how == "cancel":
        first.cancel()
        driver.publish("c", queue)
        expected = ["c"]  # the first still holds its two
    else:
        driver.close_connection(connection)
        expected = ["a", "b"]

    assert second.bodies(len(expected)) == expected
    assert third.nothing_arrives()


@pytest.mark.requires("single_active_consumer", "exclusive")
def test_a_single_active_queue_has_no_exclusive_consumers(driver: Driver) -> None:
    queue = driver.queue(queue_arguments={"x-single-active-consumer": True})

    with driver.refuses(403) as channel:
        channel.basic_consume(queue.name, callback=print, exclusive=True)


@pytest.mark.parametrize("value", ["yes", 1], ids=repr)
def test_an_impossible_single_active_flag_is_refused(driver: Driver, value: object) -> None:
    with driver.refuses(406) as channel:
        channel.queue_declare(driver.name("bad"), durable=False, arguments={"x-single-active-consumer": value})


def test_a_message_put_back_goes_to_the_next_consumer_in_turn(driver: Driver) -> None:
    queue = driver.queue()
    one, other = (driver.consume(queue, channel=driver.connect().channel()) for _ in range(2))
    driver.publish("m", queue)
    (message,) = one.receive(1)

    message.requeue()

    (again,) = other.receive(1)
    assert (again.payload, again.delivery_info["redelivered"]) == ("m", True)


def test_a_consumer_may_be_started_again_after_it_was_cancelled(driver: Driver) -> None:
    queue = driver.queue()
    inbox = driver.consume(queue)

    inbox.cancel()
    driver.publish("m", queue)
    assert inbox.nothing_arrives()
    inbox.consumer.consume()

    assert inbox.bodies(1) == ["m"]
