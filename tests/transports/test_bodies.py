"""Bodies travel as they are: the publisher's very bytes, into every queue and every dead letter."""

from __future__ import annotations

import pytest
from kombu import Exchange, Producer, Queue

from tests.transports.conftest import Connect
from tests.transports.in_process_client import declare, drain_all, publish


def test_a_consumer_gets_the_very_object_that_was_published(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    body = bytes(range(256)) * 10
    got: list[bytes] = []
    for name in ("one", "two"):
        declare(channel, name)
        channel.queue_bind(name, "amq.fanout")
        channel.basic_consume(name, callback=lambda m: got.append(m.body))

    publish(channel, "", body, exchange="amq.fanout")
    drain_all(connection)

    assert [one is body for one in got] == [True, True]


def test_a_dead_letter_has_it_too(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "letters")
    declare(channel, "q", dead_letter_exchange="", dead_letter_routing_key="letters")
    body = b"\x00\xff not text"
    publish(channel, "q", body)

    channel.basic_get("q").reject()

    assert channel.basic_get("letters").body is body


@pytest.mark.parametrize(
    "body", [b"", b"\x00\xff\xfe", "text äöü", {"a": [1, None]}, bytearray(b"bytes"), memoryview(b"view")]
)
def test_any_body_arrives_as_it_was_sent(connect: Connect, body: object) -> None:
    connection = connect()
    channel = connection.channel()
    queue = Queue("bodies", Exchange("bodies"), "key")
    queue(channel).declare()
    raw = isinstance(body, bytearray | memoryview)
    options = {"content_type": "application/octet-stream", "content_encoding": "binary"} if raw else {}

    Producer(channel).publish(body, exchange="bodies", routing_key="key", **options)

    message = queue(channel).get(no_ack=True)
    assert message.payload == (bytes(body) if raw else body)


def test_an_empty_body_is_read_as_empty_text_as_from_rabbitmq(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "q")

    publish(channel, "q", b"")

    assert channel.basic_get("q").payload == ""


def test_a_compressed_body_is_stored_compressed_and_read_plain(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "q")

    Producer(channel).publish({"long": "x" * 10_000}, routing_key="q", compression="zlib")

    assert channel.queue_stats("q")["q"]["bytes"] < 1000
    assert channel.basic_get("q").payload == {"long": "x" * 10_000}


def test_what_a_consumer_does_to_its_message_is_not_seen_by_others(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "q")
    headers = {"nested": {"list": [1]}}
    publish(channel, "q", headers=headers, properties={"correlation_id": "c"})
    headers["nested"]["list"].append(2)

    for _ in range(2):
        message = channel.basic_get("q")
        assert message.headers == {"nested": {"list": [1]}}
        assert message.properties["correlation_id"] == "c"
        message.headers["nested"]["list"].append(3)
        message.properties["correlation_id"] = "changed"
        message.requeue()
