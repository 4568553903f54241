"""The served channel where several things happen at once, or in the wrong order."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
from amqp.exceptions import NotFound, PreconditionFailed, RecoverableConnectionError

from tests.transports.in_process_client import declare, drain_all, in_thread, publish, ready
from tests.transports.served.conftest import Connect
from tests.transports.served.raw import eventually
from transports import InvalidArgumentError, QueueFullError
from transports.broker import BrokerThread


def waiting(served: BrokerThread) -> int:
    return served.call(lambda server: len(server.waiting_publishers))


# -- publishing ------------------------------------------------------------------------------------------------


def test_a_message_too_large_is_refused_and_the_pipeline_goes_on(connect: Connect, served: BrokerThread) -> None:
    channel = connect().channel()
    declare(channel, "q")
    large = b"x" * channel.connection.frame_max

    with channel.pipeline():
        publish(channel, "q", b"1")
        with pytest.raises(InvalidArgumentError, match="message size"):
            publish(channel, "q", large)
    with channel.pipeline():
        publish(channel, "q", b"2")

    assert ready(channel, "q") == [b"1", b"2"]


@pytest.mark.parametrize(
    "options",
    [
        {"priority": object()},
        {"priority": 2**70},
        {"properties": {"expiration": object()}},
        {"headers": {"x-delay": object()}},
        {"headers": {"x-group-id": object()}},
        {"headers": {"deep": [object()]}},
        {"properties": {"reply_to": object()}},
    ],
)
def test_what_cannot_travel_is_an_invalid_argument_and_leaves_no_gap(connect: Connect, options: dict[str, Any]) -> None:
    channel = connect().channel()
    declare(channel, "q")

    with pytest.raises(InvalidArgumentError):
        publish(channel, "q", **options)
    with channel.pipeline(), pytest.raises(InvalidArgumentError):
        publish(channel, "q", **options)

    publish(channel, "q", b"next")
    assert ready(channel, "q") == [b"next"]


def test_a_pipeline_that_an_error_left_keeps_its_refusals_to_itself(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "q")

    with pytest.raises(KeyError), channel.pipeline() as broken:  # noqa: PT012 - the refused publish belongs to it
        publish(channel, "nowhere", exchange="missing")
        raise KeyError
    with channel.pipeline() as following:
        publish(channel, "q")

    assert len(broken.refusals) == 1
    assert following.refusals == []


def test_a_pipeline_does_not_take_the_refusal_of_another_thread_s_publish(
    connect: Connect, served: BrokerThread
) -> None:
    channel = connect().channel()
    declare(channel, "full", max_length=1, overflow="block")
    declare(channel, "q")
    publish(channel, "full")
    alone = in_thread(lambda: publish(channel, "full", timeout=0.2))
    eventually(lambda: waiting(served), 1)

    with channel.pipeline() as pipeline:  # it stands in line behind the other
        publish(channel, "q")

    assert pipeline.refusals == []
    with pytest.raises(QueueFullError):
        alone()


def test_a_line_that_finds_no_room_is_refused_as_one(connect: Connect) -> None:
    """Not each after the other: the last of 2,000 would wait for hours."""
    channel = connect(block_timeout=0.3).channel()
    declare(channel, "full", max_length=3, overflow="block")

    with pytest.raises(QueueFullError), channel.pipeline() as pipeline:  # noqa: PT012 - as above
        for _ in range(50):
            publish(channel, "full")

    assert len(pipeline.refusals) == 47


def test_a_line_that_moves_may_take_longer_than_each_in_it_may_wait(connect: Connect, served: BrokerThread) -> None:
    channel, consumer = connect(block_timeout=2.0).channel(), connect().channel()
    declare(channel, "tight", max_length=1, overflow="block")

    def fill() -> None:
        with channel.pipeline():
            for number in range(40):
                publish(channel, "tight", b"%d" % number)

    filling = in_thread(fill)
    got = []
    while len(got) < 40:
        message = consumer.basic_get("tight", no_ack=True)
        if message is not None:
            got.append(int(message.body))
    filling()
    assert got == list(range(40))


def test_closing_a_channel_ends_the_wait_of_its_publishers(connect: Connect, served: BrokerThread) -> None:
    connection = connect()
    channel, other = connection.channel(), connection.channel()
    declare(channel, "full", max_length=0, overflow="block")
    publishers = [in_thread(lambda: publish(channel, "full", timeout=60)) for _ in range(3)]
    eventually(lambda: waiting(served), 1)

    channel.close()

    for publisher in publishers:
        with pytest.raises(RecoverableConnectionError):
            publisher()
    assert waiting(served) == 0
    assert ready(other, "full") == []


def test_deleting_the_queue_lets_its_publishers_go_on(connect: Connect, served: BrokerThread) -> None:
    channel, other = connect().channel(), connect().channel()
    declare(channel, "full", max_length=0, overflow="block")
    returned = []
    channel.events["basic_return"].add(lambda error, exchange, key, message: returned.append((key, message.body)))
    publisher = in_thread(
        lambda: channel.basic_publish(channel.prepare_message(b"late"), "", "full", mandatory=True, timeout=60)
    )
    eventually(lambda: waiting(served), 1)

    other.queue_delete("full")

    publisher()
    assert returned == [("full", b"late")]
    assert waiting(served) == 0


def test_a_publisher_that_is_gone_leaves_the_line(connect: Connect, served: BrokerThread) -> None:
    publishing, other = connect(), connect().channel()
    channel = publishing.channel()
    declare(channel, "full", max_length=0, overflow="block")
    publisher = in_thread(lambda: publish(channel, "full", timeout=60))
    eventually(lambda: waiting(served), 1)

    publishing.connection.collect()

    with pytest.raises(ConnectionError):
        publisher()
    eventually(lambda: waiting(served), 0)
    other.queue_purge("full")


def test_a_message_without_confirmation_that_finds_no_queue_comes_back_in_a_drain(connect: Connect) -> None:
    connection = connect(confirm_publish=False)
    channel = connection.channel()
    returned = []
    channel.events["basic_return"].add(lambda error, exchange, key, message: returned.append((key, message.body)))

    channel.basic_publish(channel.prepare_message(b"lost"), "", "nowhere", mandatory=True)
    connection.drain_events(timeout=60)

    assert returned == [("nowhere", b"lost")]


# -- consuming -------------------------------------------------------------------------------------------------


def test_a_tag_may_be_used_again_before_the_end_of_its_first_consumer_was_drained(connect: Connect) -> None:
    connection, other = connect(), connect().channel()
    channel = connection.channel()
    declare(channel, "first")
    declare(channel, "second")
    seen: list[tuple[str, Any]] = []
    channel.basic_consume(
        "first", "tag", callback=lambda m: seen.append(("first", m.body)), on_cancel=lambda t: seen.append(("end", t))
    )
    publish(other, "first", b"1")
    other.queue_delete("first")
    publish(other, "second", b"2")

    channel.basic_consume("second", "tag", callback=lambda m: seen.append(("second", m.body)))
    publish(other, "second", b"3")
    while len(seen) < 4:
        connection.drain_events(timeout=60)

    assert seen == [("first", b"1"), ("end", "tag"), ("second", b"2"), ("second", b"3")]


def test_a_tag_in_use_is_refused_and_its_consumer_goes_on(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got: list[bytes] = []
    channel.basic_consume("q", "tag", callback=lambda m: got.append(m.body))

    with pytest.raises(Exception, match="attempt to reuse consumer tag 'tag'"):
        channel.basic_consume("q", "tag", no_ack=True, callback=print)

    publish(channel, "q", b"mine")
    connection.drain_events(timeout=60)
    assert got == [b"mine"]
    assert channel.no_ack_consumers == set()


def test_recovering_keeps_the_news_of_an_ended_consumer(connect: Connect) -> None:
    connection, other = connect(), connect().channel()
    channel = connection.channel()
    declare(channel, "q")
    ended: list[str] = []
    channel.basic_consume("q", "tag", callback=print, on_cancel=ended.append)
    other.queue_delete("q")

    channel.basic_recover()
    connection.drain_events(timeout=60)

    assert ended == ["tag"]


def test_recovering_does_not_start_a_stopped_flow(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    channel.basic_consume("q", callback=print)
    channel.flow(False)

    channel.basic_recover()
    publish(channel, "q", b"stays")

    assert ready(channel, "q") == [b"stays"]


def test_a_consumer_whose_callback_fails_gets_the_messages_behind_it(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got: list[bytes] = []

    def take(message: Any) -> None:
        if message.body == b"1":
            raise LookupError
        got.append(message.body)

    for body in (b"1", b"2", b"3"):
        publish(channel, "q", body)
    channel.basic_consume("q", callback=take)
    with pytest.raises(LookupError):
        connection.drain_events(timeout=60)
    drain_all(connection)

    assert got == [b"2", b"3"]


def test_only_one_of_two_threads_settles_a_delivery(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "q")
    for _ in range(200):
        publish(channel, "q")
    tags = [channel.basic_get("q").delivery_tag for _ in range(200)]
    refused: list[int] = []

    def settle() -> None:
        for tag in tags:
            try:
                channel.basic_ack(tag)
            except PreconditionFailed:
                refused.append(tag)

    threads = [in_thread(settle) for _ in range(2)]
    for thread in threads:
        thread()

    assert sorted(refused) == tags
    assert channel.queue_stats("q")["q"]["acknowledged"] == 200


def test_settling_on_a_channel_that_another_thread_closes_does_not_end_the_connection(connect: Connect) -> None:
    connection = connect()
    witness = connection.channel()
    declare(witness, "q")
    for _ in range(20):
        channel = connection.channel()
        publish(witness, "q", b"x")
        message = channel.basic_get("q")
        frame = channel._number
        channel.close()
        connection.connection.send((3, frame, message.delivery_tag, False))  # as a thread that had looked before
        assert witness.basic_get("q").delivery_info["redelivered"]
        witness.basic_recover()
        witness.queue_purge("q")
    with pytest.raises(NotFound):
        witness.queue_declare("missing", passive=True)


def test_all_that_is_delayed_is_listed_page_by_page(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, served: BrokerThread
) -> None:
    monkeypatch.setattr("transports.broker.operations.MOST_DELAYED", 7)
    channel = connect().channel()
    declare(channel, "q")
    with channel.pipeline():
        for number in range(50):
            publish(channel, "q", b"%d" % number, headers={"x-delay": 100_000 + 1000 * (number // 10)})

    found = channel.delayed("q")

    assert [int(message.body) for _, message in found] == list(range(50))
    assert channel.delayed("q")[0][0] <= 100


def test_a_look_into_a_queue_is_bounded_in_bytes(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "q")
    with channel.pipeline():
        for _ in range(20):
            publish(channel, "q", b"x" * 1_000_000)

    assert 8 <= len(channel.peek("q", 20)) <= 10


# -- many threads ----------------------------------------------------------------------------------------------


def test_eight_threads_on_one_connection_publish_consume_call_and_close(connect: Connect) -> None:
    connection = connect()
    shared = connection.channel()
    rounds, names = 40, [f"q{number}" for number in range(8)]
    for name in names:
        declare(shared, name)
    got: dict[str, list[bytes]] = {name: [] for name in names}
    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set():
            drain_all(connection)
            try:
                connection.drain_events(timeout=0.05)
            except TimeoutError:
                continue

    def work(name: str) -> None:
        own = connection.channel()
        own.basic_qos(0, 3, False)

        def take(message: Any) -> None:
            got[name].append(message.body)
            message.ack()

        own.basic_consume(name, callback=take)
        for turn in range(rounds):
            publish(shared if turn % 2 else own, name, b"%d" % turn)
            if turn % 10 == 0:
                own.queue_declare(name, passive=True)
                connection.channel().close()
        eventually(lambda: len(got[name]), rounds)
        own.close()

    draining = [in_thread(drain) for _ in range(2)]
    for worker in [in_thread(lambda name=name: work(name)) for name in names]:
        worker()
    stop.set()
    for drainer in draining:
        drainer()

    assert {name: sorted(map(int, bodies)) for name, bodies in got.items()} == {
        name: list(range(rounds)) for name in names
    }
    assert all(numbers["unacked"] == 0 for numbers in shared.queue_stats().values())


def test_a_consumer_that_comes_and_goes_while_another_thread_drains_loses_and_doubles_nothing(connect: Connect) -> None:
    connection, publishing = connect(), connect().channel()
    channel = connection.channel()
    channel.basic_qos(0, 7, False)
    declare(channel, "q")
    count = 600
    got: list[int] = []
    stop = threading.Event()

    def take(message: Any) -> None:
        got.append(int(message.body))
        message.ack()

    def drain() -> None:
        while not stop.is_set():
            try:
                connection.drain_events(timeout=0.05)
            except TimeoutError:
                continue

    def fill() -> None:
        for number in range(count):
            publish(publishing, "q", b"%d" % number)

    draining = [in_thread(drain) for _ in range(2)]
    filling = in_thread(fill)
    while len(got) < count:
        tag = channel.basic_consume("q", callback=take)
        seen = len(got)
        eventually(lambda seen=seen: len(got) > seen or len(got) == count)
        channel.basic_cancel(tag)
    filling()
    stop.set()
    for drainer in draining:
        drainer()

    assert sorted(got) == list(range(count))
    numbers = channel.queue_stats("q")["q"]
    assert (numbers["ready"], numbers["unacked"], numbers["requeued"]) == (0, 0, 0)


@pytest.mark.parametrize(("no_ack", "drained"), [(True, [b"1"]), (False, [b"1", b"2", b"3"])])
def test_one_drain_hands_out_one_message_that_is_not_to_be_acknowledged(
    connect: Connect, served: BrokerThread, no_ack: bool, drained: list[bytes]
) -> None:
    # Whoever counts messages counts drains: remote control with ``limit=2`` drains twice, and waits no longer.
    channel = connect().channel()
    declare(channel, "q")
    received: list[Any] = []
    for body in (b"1", b"2", b"3"):
        publish(channel, "q", body)
    channel.basic_consume("q", no_ack=no_ack, callback=received.append)
    served.settle()

    channel.connection.drain_events(timeout=30)

    assert [bytes(message.body) for message in received] == drained


def test_a_signals_handler_may_close_the_connection_that_its_thread_waits_on(connect: Connect) -> None:
    connection = connect(call_timeout=3600)
    channel = connection.channel()
    declare(channel, "q")
    channel.basic_consume("q", callback=lambda message: None)

    def end(*_: object) -> None:
        connection.close()
        raise SystemExit

    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(SystemExit):
            connection.drain_events()
    finally:
        signal.signal(signal.SIGALRM, before)

    with connect() as other:  # what it held is let go of
        assert other.default_channel.queue_declare("q", passive=True).consumer_count == 0
