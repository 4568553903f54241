"""What a message carries arrives as it was sent: body, headers, properties (AMQP 0-9-1, 4.2.5, 4.2.6)."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.conformance.driver import Driver

HEADERS: dict[str, Any] = {
    "text": "pièce ♟",
    "empty": "",
    "int": 42,
    "negative": -7,
    "byte": 255,
    "large": 2**40,
    "largest": 2**63 - 1,
    "smallest": -(2**63),
    "float": 0.1,
    "yes": True,
    "no": False,
    "none": None,
    "bytes": b"\x00\xfe\xff",
    "time": datetime(2024, 2, 29, 12, 0, 1),
    "decimal": Decimal("12.50"),
    "list": [1, "two", 3.5, None, True, [4, {"deep": [5]}]],
    "table": {"a": {"b": {"c": [None, {"d": False}]}}},
    "nothing": {},
    "empty list": [],
    "a long name " + "n" * 200: 1,
    "long text": "x" * 70_000,
}


@pytest.mark.parametrize(
    "body",
    [
        {"n": 1, "l": [1, 2.5, None, True], "t": "♟"},
        [1, 2, 3],
        "text",
        "♟ pièce",
        "",
        0,
        None,
        True,
        1.5,
        b"\x00\xff\x80",
    ],
    ids=repr,
)
def test_a_body_arrives_as_it_was_sent(driver: Driver, body: Any) -> None:
    queue = driver.queue()

    driver.publish(body, queue)

    assert driver.take(queue).payload == body


@pytest.mark.parametrize("size", [131_064, 131_065, 3_000_000])
def test_a_big_body_arrives_whole(driver: Driver, size: int) -> None:
    queue = driver.queue()
    body = (b"0123456789abcdef" * (size // 16 + 1))[:size]

    driver.publish(body, queue)

    assert driver.take(queue).payload == body


def test_headers_arrive_as_they_were_sent(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish("m", queue, headers=HEADERS)

    received = driver.take(queue).headers
    assert received == HEADERS
    assert {key: type(value) for key, value in received.items()} == {k: type(v) for k, v in HEADERS.items()}


def test_what_happens_to_headers_after_publishing_and_receiving_stays_at_home(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    one, other = driver.bound_queue("one", exchange), driver.bound_queue("other", exchange)
    headers: dict[str, Any] = {"list": [1], "table": {"a": 1}}

    driver.publish("m", exchange, headers=headers)
    headers["list"].append("too late")
    received = driver.take(one).headers
    received["table"]["b"] = "mine"
    received["new"] = "mine"

    assert driver.take(other).headers == {"list": [1], "table": {"a": 1}}


PROPERTIES: dict[str, Any] = {
    "correlation_id": "c-1",
    "reply_to": "answers",
    "message_id": "m-1",
    "app_id": "liap",
    "type": "game.started",
    "priority": 7,
    "delivery_mode": 1,
    "timestamp": 1_709_208_001,
}


def test_properties_arrive_as_they_were_sent(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish("m", queue, **PROPERTIES)

    message = driver.take(queue)
    assert {key: message.properties[key] for key in PROPERTIES} == PROPERTIES


def test_a_message_has_only_the_properties_it_was_sent_with(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish("m", queue)

    properties = set(driver.take(queue).properties) - {"application_headers"}  # py-amqp keeps the headers there
    assert properties == {"content_type", "content_encoding", "delivery_mode", "priority"}


@pytest.mark.parametrize(
    ("body", "options", "content_type", "content_encoding"),
    [
        ({"n": 1}, {}, "application/json", "utf-8"),
        ("text", {}, "text/plain", "utf-8"),
        (b"raw", {}, "application/data", "binary"),
        (b"raw", {"content_type": "application/x-mine", "content_encoding": "binary"}, "application/x-mine", "binary"),
    ],
    ids=["json", "text", "bytes", "own"],
)
def test_the_content_type_and_encoding_arrive(
    driver: Driver, body: Any, options: dict[str, str], content_type: str, content_encoding: str
) -> None:
    queue = driver.queue()

    driver.publish(body, queue, **options)

    message = driver.take(queue)
    assert (message.content_type, message.content_encoding) == (content_type, content_encoding)


def test_a_compressed_body_arrives_decompressed(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish({"text": "x" * 1000}, queue, compression="zlib")

    message = driver.take(queue)
    assert message.payload == {"text": "x" * 1000}
    assert message.headers["compression"] == "application/x-gzip"


def test_a_body_may_be_pickled_where_both_sides_want_it(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish({"set": {1, 2}}, queue, serializer="pickle")

    message = driver.get(queue)
    assert message is not None
    message.accept = {"application/x-python-serialize"}
    assert message.decode() == {"set": {1, 2}}


def test_a_get_tells_how_many_messages_are_left(driver: Driver) -> None:
    queue = driver.queue()
    driver.publish_all("abc", queue)

    assert [message.delivery_info["message_count"] for message in driver.take_many(queue, 3)] == [2, 1, 0]


@pytest.mark.requires("publisher_confirms")
def test_a_confirmed_message_is_in_its_queue(driver: Driver) -> None:
    exchange = driver.exchange("x", "fanout")
    queues = [driver.bound_queue(f"q{n}", exchange) for n in range(5)]
    other = driver.connect().channel()

    driver.publish("m", exchange)

    assert [other.queue_declare(queue.name, passive=True).message_count for queue in queues] == [1] * 5


def test_a_simple_queue_puts_gets_and_counts(driver: Driver) -> None:
    driver.exchange("simple", durable=True)  # both as SimpleQueue declares them
    name = driver.queue("simple", durable=True).name
    with closing(driver.connection.SimpleQueue(name)) as simple:
        simple.put({"n": 1}, headers={"h": 1})
        assert simple.qsize() == 1

        first = simple.get(timeout=5)
        assert (first.payload, first.headers) == ({"n": 1}, {"h": 1})
        first.requeue()
        again = simple.get(timeout=5)
        assert again.payload == {"n": 1}
        again.ack()
        simple.put("two")
        simple.get(timeout=5).reject()
        with pytest.raises(simple.Empty):
            simple.get_nowait()


def test_a_simple_buffer_forgets_what_it_gave(driver: Driver) -> None:
    with closing(driver.connection.SimpleBuffer(driver.name("buffer"))) as buffer:
        buffer.put([1])

        assert buffer.get(timeout=5).payload == [1]
        with pytest.raises(buffer.Empty):
            buffer.get_nowait()


def test_what_is_no_property_of_amqp_is_left_out(driver: Driver) -> None:
    queue = driver.queue()

    driver.publish("m", queue, correlation_id="c", colour="red", handler=object())

    assert {"correlation_id": "c"}.items() <= driver.take(queue).properties.items()
    driver.publish("m", queue, colour="red")
    assert "colour" not in driver.take(queue).properties
