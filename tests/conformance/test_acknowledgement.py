"""Acknowledging and rejecting deliveries (AMQP 0-9-1, basic.ack; RabbitMQ docs: Consumer Acknowledgements)."""

from __future__ import annotations

from tests.conformance.driver import Driver


def test_an_acknowledged_message_is_gone(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("ab", queue)
    connection = driver.connect()
    channel = connection.channel()

    driver.take(queue, channel=channel).ack()
    driver.take(queue, channel=channel)
    driver.close_connection(connection)

    driver.wait_for_count(queue, 1)
    assert driver.empty(queue) == ["b"]


def test_a_rejected_message_is_gone_where_there_is_no_dead_letter_exchange(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue)

    driver.take(queue).reject()

    assert driver.get(queue) is None


def test_a_message_got_without_acknowledgement_is_gone_at_once(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue)
    connection = driver.connect()

    driver.take(queue, no_ack=True, channel=connection.channel())
    driver.close_connection(connection)

    assert driver.get(queue) is None


def test_a_consumer_without_acknowledgement_gets_everything_for_good(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all(range(5), queue)
    connection = driver.connect()
    channel = connection.channel()

    # A prefetch limit does not bind it.
    inbox = driver.consume(queue, channel=channel, no_ack=True, prefetch=1)

    assert inbox.bodies(5) == [0, 1, 2, 3, 4]
    driver.close_connection(connection)
    assert driver.count(queue) == 0


def test_acknowledging_several_settles_all_up_to_that_one(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abcd", queue)
    connection = driver.connect()
    held = driver.take_many(queue, 4, channel=connection.channel())

    held[2].ack(multiple=True)
    driver.close_connection(connection)

    driver.wait_for_count(queue, 1)
    assert driver.empty(queue) == ["d"]


def test_acknowledging_several_spans_the_queues_of_the_channel(driver: Driver) -> None:
    one, other = driver.queue("one"), driver.queue("other")
    driver.publish_all("ac", one)
    driver.publish_all("bd", other)
    connection = driver.connect()
    channel = connection.channel()
    held = [driver.take(queue, channel=channel) for queue in (one, other, one, other)]

    held[2].ack(multiple=True)
    driver.close_connection(connection)

    driver.wait_for_count(other, 1)
    assert (driver.empty(one), driver.empty(other)) == ([], ["d"])


def test_acknowledging_several_with_tag_zero_settles_everything(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abc", queue)
    connection = driver.connect()
    channel = connection.channel()
    driver.take_many(queue, 3, channel=channel)

    channel.basic_ack(0, multiple=True)
    driver.close_connection(connection)

    assert driver.count(queue) == 0


def test_delivery_tags_count_from_one_on_each_channel(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abcd", queue)
    first, second = driver.connection.channel(), driver.connection.channel()

    tags = [driver.take(queue, channel=channel).delivery_tag for channel in (first, first, second, first)]

    assert tags == [1, 2, 1, 3]


def test_an_unknown_delivery_tag_is_refused(driver: Driver) -> None:
    with driver.refuses(406) as channel:
        channel.basic_ack(1)


def test_a_delivery_tag_is_good_for_one_settlement(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue)

    with driver.refuses(406) as channel:
        tag = driver.take(queue, channel=channel).delivery_tag
        channel.basic_ack(tag)
        channel.basic_reject(tag, requeue=True)

    assert driver.count(queue) == 0


def test_a_delivery_tag_of_another_channel_is_refused(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue)
    tag = driver.take(queue).delivery_tag

    with driver.refuses(406) as channel:
        channel.basic_ack(tag)


def test_acknowledging_several_with_nothing_unsettled_up_to_there_is_refused(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue)

    with driver.refuses(406) as channel:
        tag = driver.take(queue, channel=channel).delivery_tag
        channel.basic_ack(tag)
        channel.basic_ack(tag, multiple=True)


def test_a_message_can_be_settled_after_its_consumer_was_cancelled(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue)
    inbox = driver.consume(queue)
    (message,) = inbox.receive(1)

    inbox.cancel()
    message.requeue()

    assert driver.take(queue).payload == "m"


def test_a_message_can_be_settled_after_its_queue_was_deleted(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue)
    message = driver.take(queue)

    queue.delete()
    message.ack()

    assert not driver.exists(queue)


def test_a_message_put_back_into_a_deleted_queue_is_gone(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish("m", queue)
    message = driver.take(queue)
    queue.delete()
    queue.declare()

    message.requeue()

    assert driver.count(queue) == 0
