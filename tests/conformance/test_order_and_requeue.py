"""Order of delivery, and where a message goes that was delivered and not acknowledged."""

from __future__ import annotations

import pytest

from tests.conformance.driver import Driver


@pytest.mark.requires("fifo")
def test_messages_leave_in_the_order_they_came(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish_all(range(50), queue)

    assert driver.empty(queue) == list(range(50))


@pytest.mark.requires("fifo")
def test_messages_by_several_ways_keep_the_order_of_publishing(driver: Driver) -> None:
    topic, fanout = driver.exchange("topic", "topic"), driver.exchange("fanout", "fanout")
    queue = driver.bound_queue("q", topic, "#")
    queue.bind_to(fanout.name)

    for number in range(9):
        driver.publish(number, (queue, topic, fanout)[number % 3], "k")

    assert driver.empty(queue) == list(range(9))


@pytest.mark.requires("requeue_in_place")
@pytest.mark.parametrize("how", ["requeue", "reject", "channel closed", "connection closed", "recover"])
def test_a_message_put_back_is_at_the_head_again(driver: Driver, how: str) -> None:
    queue = driver.queue()
    driver.publish_all("abc", queue)
    connection = driver.connect()
    channel = connection.channel()
    message = driver.take(queue, channel=channel)

    if how == "requeue":
        message.requeue()
    elif how == "reject":
        message.reject(requeue=True)
    elif how == "recover":
        channel.basic_recover(requeue=True)
    elif how == "channel closed":
        channel.close()
    else:
        driver.close_connection(connection)

    driver.wait_for_count(queue, 3)
    assert driver.empty(queue) == ["a", "b", "c"]


@pytest.mark.requires("requeue_in_place")
def test_messages_put_back_out_of_order_take_their_own_places(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abcdef", queue)
    held = dict(zip("abcd", driver.take_many(queue, 4), strict=True))

    for body in "cadb":
        held[body].requeue()

    assert driver.empty(queue) == list("abcdef")


@pytest.mark.requires("requeue_in_place")
def test_a_message_is_put_back_between_messages_that_others_hold(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abcde", queue)
    a, b, c = driver.take_many(queue, 3)

    b.requeue()

    assert driver.take(queue).payload == "b"
    assert driver.take(queue).payload == "d"
    c.requeue()
    a.requeue()
    assert driver.empty(queue) == ["a", "c", "e"]


@pytest.mark.requires("requeue_in_place")
def test_messages_of_a_closed_consumer_go_to_the_next_in_order(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all(range(6), queue)
    connection = driver.connect()
    first = driver.consume(queue, channel=connection.channel())
    held = first.receive(6)
    held[2].ack()

    driver.close_connection(connection)

    second = driver.consume(queue)
    assert second.bodies(5) == [0, 1, 3, 4, 5]


@pytest.mark.requires("requeue_in_place")
def test_messages_published_meanwhile_stay_behind_those_put_back(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("ab", queue)
    held = driver.take_many(queue, 2)
    driver.publish_all("cd", queue)

    for message in reversed(held):
        message.requeue()

    assert driver.empty(queue) == list("abcd")


@pytest.mark.requires("redelivered_flag")
def test_the_first_delivery_is_not_marked_redelivered(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("ab", queue)

    assert driver.take(queue).delivery_info["redelivered"] is False
    (message,) = driver.consume(queue).receive(1)
    assert message.delivery_info["redelivered"] is False


@pytest.mark.requires("redelivered_flag")
@pytest.mark.parametrize("how", ["requeue", "reject", "channel closed", "connection closed", "recover"])
def test_every_later_delivery_is_marked_redelivered(driver: Driver, how: str) -> None:
    queue = driver.queue()
    driver.publish_all("ab", queue)
    connection = driver.connect()
    channel = connection.channel()
    message = driver.take(queue, channel=channel)

    if how == "requeue":
        message.requeue()
    elif how == "reject":
        message.reject(requeue=True)
    elif how == "recover":
        channel.basic_recover(requeue=True)
    elif how == "channel closed":
        channel.close()
    else:
        driver.close_connection(connection)

    driver.wait_for_count(queue, 2)
    again, other = driver.take_many(queue, 2)
    assert (again.payload, again.delivery_info["redelivered"]) == ("a", True)
    assert (other.payload, other.delivery_info["redelivered"]) == ("b", False)


@pytest.mark.requires("redelivered_flag", "dead_letter")
def test_a_dead_letter_starts_unmarked_in_its_new_queue(driver: Driver) -> None:
    dead = driver.queue("dead")
    queue = driver.queue(
        "q", queue_arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": driver.name("dead")}
    )
    driver.publish("m", queue)
    driver.take(queue).requeue()

    driver.take(queue).reject()

    assert driver.take(dead).delivery_info["redelivered"] is False


def test_a_message_put_back_keeps_its_body_headers_and_properties(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish({"n": 1}, queue, headers={"h": [1, {"x": None}]}, correlation_id="c", priority=3)
    first = driver.take(queue)

    first.requeue()

    again = driver.take(queue)
    assert again.payload == first.payload
    assert again.headers == first.headers
    assert again.properties == first.properties
