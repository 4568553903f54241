"""Many threads at once: nothing is lost, and nothing comes twice unless it says so."""

from __future__ import annotations

import contextlib
import queue
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from amqp.exceptions import RecoverableConnectionError

from tests.transports.conftest import Connect
from tests.transports.in_process_client import DEADLINE, declare, in_thread, publish

PUBLISHERS = 4
MESSAGES = 1500  # by each publisher


@pytest.fixture(autouse=True)
def threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Ledger:
    """Who got what, and whether it was settled."""

    def __init__(self, expected: int) -> None:
        self.everything = threading.Event()
        self._lock = threading.Lock()
        self._left = expected
        self.first_deliveries: Counter[bytes] = Counter()
        self.settled: Counter[bytes] = Counter()

    def got(self, message: Any) -> None:
        if not message.delivery_info["redelivered"]:
            with self._lock:
                self.first_deliveries[message.body] += 1

    def settle(self, message: Any) -> None:
        """Acknowledge; a message whose channel has closed is somebody else's now."""
        try:
            message.ack()
        except RecoverableConnectionError:
            return
        with self._lock:
            self.settled[message.body] += 1
            self._left -= 1
            if not self._left:
                self.everything.set()


def publish_many(connect: Connect, name: str) -> None:
    channel = connect().channel()
    for number in range(MESSAGES):
        publish(channel, "q", f"{name}-{number}".encode())


def all_bodies() -> Counter[bytes]:
    return Counter(f"{name}-{number}".encode() for name in range(PUBLISHERS) for number in range(MESSAGES))


def balanced(numbers: dict[str, float]) -> bool:
    places = ("ready", "unacked", "delayed", "acknowledged", "rejected", "expired", "dropped", "purged")
    return numbers["enqueued"] == sum(numbers[place] for place in places)


@pytest.mark.parametrize("prefetch", [1, 10, 0])
def test_every_message_reaches_one_consumer_of_several(connect: Connect, prefetch: int) -> None:
    observer = connect().channel()
    declare(observer, "q")
    ledger = Ledger(PUBLISHERS * MESSAGES)
    connections = [connect() for _ in range(3)]

    def drain(connection: Any) -> None:
        channel = connection.channel()
        channel.basic_qos(0, prefetch)

        def callback(message: Any) -> None:
            ledger.got(message)
            ledger.settle(message)

        channel.basic_consume("q", callback=callback)
        established = connection.connection
        while True:
            established.drain_events(DEADLINE)

    consumers = [in_thread(lambda one=one: drain(one)) for one in connections]
    publishers = [in_thread(lambda name=name: publish_many(connect, str(name))) for name in range(PUBLISHERS)]
    for end in publishers:
        end()
    assert ledger.everything.wait(DEADLINE)
    for connection in connections:
        connection.close()
    for end in consumers:
        with pytest.raises(RecoverableConnectionError):
            end()

    assert ledger.first_deliveries == ledger.settled == all_bodies()
    numbers = observer.queue_stats("q")["q"]
    assert balanced(numbers)
    assert numbers["delivered"] == numbers["acknowledged"] == PUBLISHERS * MESSAGES


def test_messages_of_one_publisher_stay_in_order_for_one_consumer(connect: Connect) -> None:
    consumer = connect()
    channel = consumer.channel()
    declare(channel, "q")
    got: list[bytes] = []
    channel.basic_consume("q", no_ack=True, callback=lambda m: got.append(m.body))
    publishers = [in_thread(lambda name=name: publish_many(connect, str(name))) for name in range(PUBLISHERS)]

    while len(got) < PUBLISHERS * MESSAGES:
        consumer.drain_events(timeout=DEADLINE)
    for end in publishers:
        end()

    for name in range(PUBLISHERS):
        mine = [int(body.split(b"-")[1]) for body in got if body.startswith(b"%d-" % name)]
        assert mine == list(range(MESSAGES))


class Settler:
    """Acknowledges on a thread of its own what a consumer hands over."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._end = in_thread(self._run)

    def take(self, message: Any) -> None:
        self._ledger.got(message)
        self._messages.put(message)

    def finish(self) -> None:
        self._messages.put(None)
        self._end()

    def _run(self) -> None:
        while (message := self._messages.get()) is not None:
            self._ledger.settle(message)


@pytest.mark.parametrize("seed", range(3))
def test_acks_from_other_threads_while_consumers_come_and_go(connect: Connect, seed: int) -> None:
    observer = connect().channel()
    declare(observer, "q")
    ledger = Ledger(PUBLISHERS * MESSAGES)
    endings: Counter[str] = Counter()

    def consume_for_a_while(chance: random.Random) -> None:
        connection = connect()
        channel = connection.channel()
        channel.basic_qos(0, chance.choice([1, 5, 0]))
        settler = Settler(ledger)
        tag = channel.basic_consume("q", callback=settler.take)
        try:
            for _ in range(chance.randrange(1, 20)):
                connection.drain_events(timeout=0.01)
        except TimeoutError:
            pass
        ending = chance.choice(["cancel", "channel", "connection"])
        endings[ending] += 1
        if ending == "cancel":
            channel.basic_cancel(tag)
        elif ending == "channel":
            channel.close()
        else:
            connection.close()
        settler.finish()
        connection.close()

    def consume(number: int) -> None:
        chance = random.Random(f"{seed}-{number}")
        while not ledger.everything.is_set():
            consume_for_a_while(chance)

    consumers = [in_thread(lambda number=number: consume(number)) for number in range(3)]
    publishers = [in_thread(lambda name=name: publish_many(connect, str(name))) for name in range(PUBLISHERS)]
    for end in publishers + consumers:
        end()

    assert ledger.settled == all_bodies()
    assert ledger.first_deliveries == all_bodies()
    assert endings.total() > 3
    numbers = observer.queue_stats("q")["q"]
    assert balanced(numbers)
    assert (numbers["ready"], numbers["unacked"], numbers["consumers"]) == (0, 0, 0)


@pytest.mark.parametrize("what", ["channel", "connection"])
def test_consumers_that_another_thread_closes_lose_nothing(connect: Connect, what: str) -> None:
    observer = connect().channel()
    declare(observer, "q")
    ledger = Ledger(PUBLISHERS * MESSAGES)
    opened: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def callback(message: Any) -> None:
        ledger.got(message)
        ledger.settle(message)

    def consume() -> None:
        while not ledger.everything.is_set():
            connection = connect()
            established = connection.connection
            channel = connection.channel()
            channel.basic_consume("q", callback=callback)
            opened.put(channel if what == "channel" else connection)
            try:
                while not channel.closed:
                    established.drain_events(0.01)
            except (TimeoutError, RecoverableConnectionError):
                pass
            connection.close()

    consumers = [in_thread(consume) for _ in range(2)]
    publishers = [in_thread(lambda name=name: publish_many(connect, str(name))) for name in range(PUBLISHERS)]
    chance = random.Random(1)
    while not ledger.everything.wait(chance.random() / 500):
        with contextlib.suppress(queue.Empty):
            opened.get(block=False).close()
    for end in publishers + consumers:
        end()

    assert ledger.settled == all_bodies()
    # One that was on its way to the callback when its channel closed is marked, though nobody has seen it.
    assert set(ledger.first_deliveries.values()) == {1}
    numbers = observer.queue_stats("q")["q"]
    assert balanced(numbers)
    assert (numbers["ready"], numbers["unacked"], numbers["consumers"]) == (0, 0, 0)


def test_cancelling_from_another_thread_while_it_is_drained(connect: Connect) -> None:
    observer = connect().channel()
    declare(observer, "q")
    connection = connect()
    channel = connection.channel()
    ledger = Ledger(PUBLISHERS * MESSAGES)

    def callback(message: Any) -> None:
        ledger.got(message)
        ledger.settle(message)

    def drain() -> None:
        established = connection.connection
        while True:
            established.drain_events(DEADLINE)

    drained = in_thread(drain)
    publishers = [in_thread(lambda name=name: publish_many(connect, str(name))) for name in range(PUBLISHERS)]
    for _ in range(100):
        tag = channel.basic_consume("q", callback=callback)
        channel.basic_cancel(tag)
    channel.basic_consume("q", callback=callback)
    for end in publishers:
        end()
    assert ledger.everything.wait(DEADLINE)
    connection.close()
    with pytest.raises(RecoverableConnectionError):
        drained()

    assert ledger.settled == ledger.first_deliveries == all_bodies()
    numbers = observer.queue_stats("q")["q"]
    assert balanced(numbers)
    assert numbers["requeued"] == 0


def test_blocked_publishers_and_slow_consumers_lose_nothing(connect: Connect) -> None:
    observer = connect().channel()
    declare(observer, "q", overflow="block", max_length=5)
    ledger = Ledger(PUBLISHERS * MESSAGES)
    connection = connect(block_timeout=DEADLINE)
    channel = connection.channel()
    channel.basic_qos(0, 3)

    def callback(message: Any) -> None:
        ledger.got(message)
        ledger.settle(message)

    publishers = [
        in_thread(lambda name=name: publish_many(lambda: connect(block_timeout=DEADLINE), str(name)))
        for name in range(PUBLISHERS)
    ]
    channel.basic_consume("q", callback=callback)
    while not ledger.everything.is_set():
        connection.drain_events(timeout=DEADLINE)
    for end in publishers:
        end()

    assert ledger.settled == all_bodies()
    assert observer.queue_stats("q")["q"]["refused"] == 0


def test_timers_and_operations_at_the_same_time_balance_the_books(connect: Connect) -> None:
    observer = connect().channel()
    declare(observer, "letters")
    declare(observer, "q", dead_letter_exchange="", dead_letter_routing_key="letters", max_length=50)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        channel = connect().channel()
        for _ in range(300):
            action = chance.randrange(5)
            if action < 3:
                options: dict[str, Any] = {}
                if chance.random() < 0.5:
                    options["properties"] = {"expiration": str(chance.randrange(4))}
                if chance.random() < 0.3:
                    options["headers"] = {"x-delay": chance.randrange(4)}
                publish(channel, "q", b"x", **options)
            elif (message := channel.basic_get("q")) is not None:
                chance.choice([message.ack, message.reject, message.requeue])()
        channel.close()

    for end in [in_thread(lambda seed=seed: work(seed)) for seed in range(4)]:
        end()
    consumer = connect()
    channel = consumer.channel()
    while observer.queue_stats("q")["q"]["delayed"]:
        with pytest.raises(TimeoutError):
            consumer.drain_events(timeout=0.005)
    channel.queue_purge("q")

    numbers = observer.queue_stats("q")["q"]
    assert balanced(numbers)
    assert (numbers["ready"], numbers["unacked"], numbers["bytes"]) == (0, 0, 0)
    letters = observer.queue_stats("letters")["letters"]
    assert letters["enqueued"] == letters["ready"] == numbers["dead_lettered"]
    assert numbers["dead_lettered"] == numbers["expired"] + numbers["dropped"] + numbers["rejected"]
