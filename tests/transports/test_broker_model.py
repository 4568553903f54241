"""The whole engine against a naive model, through any sequence of operations that hypothesis can think of.

Every queue rule is on some queue, dead letters run in chains and cycles, two connections have several channels. After
each step every queue must hold exactly what the model says, in its order and with its numbers, and the books balance.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.transports.naive_broker import NaiveBroker, NaiveConsumer, NaiveMessage, NaiveQueue, Pushed
from transports import VirtualClock
from transports.engine import Broker, Channel, ClientConnection, Consumer, Entry, Message, QueueFull, Sink, WouldBlock
from transports.engine.statistics import QueueCounters


def dead_to(name: str) -> dict[str, Any]:
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": name}


QUEUES: dict[str, dict[str, Any]] = {
    "plain": {},
    "priority": {"x-max-priority": 3},
    "ttl": {"x-message-ttl": 5000, **dead_to("dead")},
    "dead": {"x-message-ttl": 7000, **dead_to("ttl")},  # ttl and dead are a cycle
    "head": {"x-max-length": 3, **dead_to("dead")},
    "head-priority": {"x-max-length": 2, "x-max-priority": 3, "x-overflow": "drop-head", **dead_to("bytes")},
    "lowest": {"x-max-length": 3, "x-max-priority": 3, "x-overflow": "drop-lowest", **dead_to("bytes")},
    "bytes": {"x-max-length-bytes": 12},
    "reject": {"x-max-length": 2, "x-overflow": "reject-publish"},
    "reject-dlx": {"x-max-length": 2, "x-overflow": "reject-publish-dlx", **dead_to("dead")},
    "block": {"x-max-length": 2, "x-overflow": "block"},
    "limit": {"x-delivery-limit": 1, **dead_to("reject-dlx")},
    "single": {"x-single-active-consumer": True, **dead_to("single")},
    "groups": {"x-message-groups": True, "x-message-ttl": 9000, **dead_to("groups-limit")},
    "groups-limit": {"x-message-groups": True, "x-delivery-limit": 1, "x-max-priority": 3, **dead_to("dead")},
    "groups-head": {"x-message-groups": True, "x-max-length": 3, "x-max-priority": 3, **dead_to("groups")},
    "groups-lowest": {
        "x-message-groups": True,
        "x-max-length": 3,
        "x-max-priority": 3,
        "x-overflow": "drop-lowest",
        "x-single-active-consumer": True,
    },
    "kept": {"x-message-ttl": 1000, "x-dead-letter-strategy": "at-least-once", **dead_to("reject")},
}
PAIR = ("head", "reject", "lowest")  # bound to the fanout exchange "pair"
COUNTERS = QueueCounters.__slots__
TICK = 1 / 1024  # every operation has its own instant, so no two queues are due at the same one

PICK = st.integers(0, 1000)


class Log(Sink):
    """Keeps pushes by queue until the model asks for them."""

    def __init__(self) -> None:
        self.pushed: defaultdict[str, deque[Pushed]] = defaultdict(deque)
        self.cancelled_tags: list[str] = []

    def deliver(self, channel: Channel, consumer: Consumer, delivery_tag: int, entry: Entry) -> None:
        push = Pushed(consumer.tag, channel, delivery_tag, entry.message.body, entry.redelivered)
        self.pushed[consumer.queue.name].append(push)

    def cancelled(self, channel: Channel, consumer: Consumer) -> None:
        self.cancelled_tags.append(consumer.tag)


class BrokerMachine(RuleBasedStateMachine):
    choice: tuple[str, ...] = (*sorted(QUEUES), "pair")

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.engine = Broker(clock=self.clock)
        self.clock.attach(self.engine)
        self.log = Log()
        self.model = NaiveBroker(lambda queue: self.log.pushed[queue.name].popleft())
        self.connections: list[ClientConnection] = []
        self.serial = 0

    @initialize(
        focus=st.runner().flatmap(
            lambda machine: st.lists(st.sampled_from(machine.choice), min_size=1, max_size=2, unique=True)
        ),
        prefetches=st.lists(st.integers(0, 3), max_size=3),
    )
    def set_up(self, focus: list[str], prefetches: list[int]) -> None:
        # A few queues per run, so that things happen to the same messages.
        self.focus = focus
        queues = [name for one in focus for name in (PAIR if one == "pair" else (one,))]
        letters = [QUEUES[name].get("x-dead-letter-routing-key", name) for name in queues]
        self.focus_queues = list(dict.fromkeys(queues + letters))
        self.connections = [self.engine.connect(), self.engine.connect()]
        for name in QUEUES:
            self.declare(name)
        self.engine.declare_exchange("pair", "fanout")
        for name in PAIR:
            self.engine.bind_queue(self.connections[0], name, "pair")
        for connection in self.connections:
            self.open_channel_on(connection)
        for number, prefetch in enumerate(prefetches):
            self.consume(0, number, prefetch, no_ack=False, priority=0)

    def declare(self, name: str) -> None:
        self.engine.declare_queue(self.connections[0], name, arguments=QUEUES[name])
        self.model.queues[name] = NaiveQueue(name, QUEUES[name])

    def open_channel_on(self, connection: ClientConnection) -> None:
        self.model.held[self.engine.open_channel(connection, self.log)] = {}

    def tick(self) -> None:
        self.serial += 1
        self.clock.advance(TICK)
        self.model.advance(TICK)

    def queue(self, pick: int) -> NaiveQueue:
        return self.model.queues[self.focus_queues[pick % len(self.focus_queues)]]

    def channel(self, pick: int) -> Channel:
        channels = list(self.model.held)
        return channels[pick % len(channels)]

    def holding(self, pick: int) -> tuple[Channel, int]:
        held = [(channel, tag) for channel, tags in self.model.held.items() for tag in tags]
        return held[pick % len(held)]

    def consumers(self) -> list[NaiveConsumer]:
        return [consumer for queue in self.model.queues.values() for consumer in queue.consumers]

    def delayed(self) -> list[tuple[str, bytes]]:
        return [(queue.name, one.message.body) for queue in self.model.queues.values() for one in queue.delayed]

    def anything_held(self) -> bool:
        return any(self.model.held.values())

    # -- operations --------------------------------------------------------------------------------------------

    @rule(
        where=PICK,
        priority=st.integers(0, 5),
        ttl=st.sampled_from([None, None, None, 0, 2000, 8000]),
        delay=st.sampled_from([None, None, None, 0, 1000, 3000]),
        size=st.integers(0, 5),
        copies=st.sampled_from([1, 1, 2, 5]),
        group=st.sampled_from([None, "a", "a", "b"]),
        continues=st.sampled_from([False, False, True]),
    )
    def publish(
        self,
        where: int,
        priority: int,
        ttl: int | None,
        delay: int | None,
        size: int,
        copies: int,
        group: str | None,
        continues: bool,
    ) -> None:
        self.tick()
        name = self.focus[where % len(self.focus)]
        for copy in range(copies):  # at the same instant
            body = b"%d.%d" % (self.serial, copy) + b"x" * size
            properties: dict[str, Any] = {"priority": priority}
            if ttl is not None:
                properties["expiration"] = str(ttl)
            headers: dict[str, Any] = {"id": body.decode()}
            if delay is not None:
                headers["x-delay"] = delay
            if group is not None:
                headers["x-group-id"] = group
            if continues:
                headers["x-group-continues"] = True
            exchange, key = ("pair", "") if name == "pair" else ("", name)
            try:
                self.engine.publish(Message(body, properties, headers, exchange, key))
                answer = "taken"
            except WouldBlock:
                answer = "blocked"
            except QueueFull as full:
                answer = f"full: {full.queue}"

            message = NaiveMessage(
                body,
                priority,
                None if ttl is None else ttl / 1000,
                (delay or 0) / 1000,
                group=group,
                continues=continues,
            )
            names = [one for one in PAIR if self.bound(one)] if name == "pair" else [name]
            assert self.model.publish(message, names) == answer

    def bound(self, name: str) -> bool:
        return any(one.destination is self.engine.queues[name] for one in self.engine.exchanges["pair"].bindings)

    @rule(
        where=PICK,
        pick=PICK,
        prefetch=st.integers(0, 3),
        no_ack=st.sampled_from([False, False, False, True]),
        priority=st.sampled_from([0, 0, 5]),
    )
    def consume(self, where: int, pick: int, prefetch: int, no_ack: bool, priority: int) -> None:
        self.tick()
        channel, tag = self.channel(pick), f"c{self.serial}"
        self.engine.qos(channel, prefetch)
        naive = self.queue(where)
        consumer = self.engine.consume(channel, naive.name, tag, no_ack=no_ack, arguments={"x-priority": priority})
        self.engine.begin(consumer)

        naive.consumers.append(NaiveConsumer(tag, channel, naive, prefetch, no_ack, priority))
        self.model.dispatch(naive)

    @rule(where=PICK, pick=PICK, no_ack=st.booleans())
    def get(self, where: int, pick: int, no_ack: bool) -> None:
        self.tick()
        channel = self.channel(pick)
        naive = self.queue(where)
        got = self.engine.get(channel, naive.name, no_ack=no_ack)

        if got is None:
            assert not naive.deliverable()
            return
        entry = self.model.take(naive, channel, got.delivery_tag, no_ack)
        assert (got.entry.message.body, got.entry.redelivered) == (entry.message.body, entry.redelivered)
        assert got.message_count == len(naive.ready)

    @precondition(anything_held)
    @rule(pick=PICK, multiple=st.booleans())
    def ack(self, pick: int, multiple: bool) -> None:
        self.tick()
        channel, tag = self.holding(pick)
        tags = [one for one in sorted(self.model.held[channel]) if one <= tag] if multiple else [tag]
        self.engine.ack(channel, tag, multiple=multiple)
        self.model.ack(channel, tags)

    @precondition(anything_held)
    @rule(pick=PICK, multiple=st.booleans(), requeue=st.booleans())
    def reject(self, pick: int, multiple: bool, requeue: bool) -> None:
        self.tick()
        channel, tag = self.holding(pick)
        tags = [one for one in sorted(self.model.held[channel]) if one <= tag] if multiple else [tag]
        self.engine.reject(channel, tag, requeue=requeue, multiple=multiple)
        (self.model.give_back if requeue else self.model.reject)(channel, tags)

    @precondition(anything_held)
    @rule(pick=PICK)
    def recover(self, pick: int) -> None:
        self.tick()
        channel, _ = self.holding(pick)
        self.engine.recover(channel)
        self.model.give_back(channel, sorted(self.model.held[channel]))

    @precondition(consumers)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        self.tick()
        consumer = self.consumers()[pick % len(self.consumers())]
        self.engine.cancel(consumer.channel, consumer.tag)
        self.model.cancel(consumer)
        self.model.dispatch(consumer.queue)

    @rule(pick=PICK)
    def open_channel(self, pick: int) -> None:
        if len(self.model.held) < 5:
            self.open_channel_on(self.connections[pick % len(self.connections)])

    @rule(pick=PICK)
    def close_channel(self, pick: int) -> None:
        self.tick()
        channel = self.channel(pick)
        self.engine.close_channel(channel)
        self.model.close_channel(channel)
        self.open_channel_on(channel.connection)

    @rule()
    def close_connection(self) -> None:
        self.tick()
        connection = self.connections[1]
        channels = list(connection.channels)
        self.engine.close_connection(connection)
        for channel in channels:
            self.model.close_channel(channel)
        self.connections[1] = self.engine.connect()
        self.open_channel_on(self.connections[1])

    @rule(where=PICK)
    def purge(self, where: int) -> None:
        self.tick()
        naive = self.queue(where)
        assert self.engine.purge_queue(self.connections[0], naive.name) == self.model.purge(naive)

    @rule(where=PICK)
    def delete_and_declare(self, where: int) -> None:
        self.tick()
        naive = self.queue(where)
        cancelled = [consumer.tag for consumer in naive.consumers]
        self.log.cancelled_tags.clear()

        assert self.engine.delete_queue(self.connections[0], naive.name) == len(naive.ready)

        assert self.log.cancelled_tags == cancelled
        self.model.delete(naive)
        self.declare(naive.name)

    @precondition(delayed)
    @rule(pick=PICK)
    def cancel_delayed(self, pick: int) -> None:
        self.tick()
        if not self.delayed():
            return
        queue, body = self.delayed()[pick % len(self.delayed())]
        mine = [entry for entry in self.model.queues[queue].delayed if entry.message.body == body]
        assert self.engine.cancel_delayed(queue, body.decode()) == len(mine)
        for entry in mine:
            self.model.cancel_delayed(entry)

    @precondition(delayed)
    @rule(pick=PICK, seconds=st.sampled_from([1, 2, 10]))
    def reschedule(self, pick: int, seconds: int) -> None:
        self.tick()
        if not self.delayed():
            return
        queue, body = self.delayed()[pick % len(self.delayed())]
        mine = [entry for entry in self.model.queues[queue].delayed if entry.message.body == body]
        assert self.engine.reschedule(queue, body.decode(), seconds) == len(mine)
        for entry in mine:
            entry.due = self.model.now + seconds

    @rule(seconds=st.sampled_from([0, 1, 2, 6, 6]))
    def advance(self, seconds: int) -> None:
        self.tick()
        self.clock.advance(seconds)
        self.model.advance(seconds)

    # -- what must hold after every step -----------------------------------------------------------------------

    @invariant()
    def nothing_was_pushed_that_the_model_did_not_expect(self) -> None:
        assert not any(self.log.pushed.values())

    @invariant()
    def every_queue_holds_what_the_model_says_in_its_order(self) -> None:
        for name, naive in self.model.queues.items():
            ready = [message.body for message in self.engine.peek(name, 10**6)]
            assert ready == [entry.message.body for entry in naive.in_order()]
            delayed = [message.body for _, message in self.engine.delayed(name)]
            assert sorted(delayed) == sorted(entry.message.body for entry in naive.delayed)

    @invariant()
    def every_message_is_in_exactly_one_place(self) -> None:
        for channel, tags in self.model.held.items():
            # By tag: which of two queues is served first when one operation lets both go on is nobody's promise.
            held_by_tag = {tag: held.entry.message.body for tag, held in channel.held.items()}
            assert list(held_by_tag.items()) == [(tag, entry.message.body) for tag, (entry, _) in sorted(tags.items())]
        for name, queue in self.engine.queues.items():
            held = [one.entry for channel in self.model.held for one in channel.held.values() if one.queue is queue]
            entries = [*queue.ready, *queue.delays.entries(), *held]
            assert len({id(entry) for entry in entries}) == len(entries) == queue.ready.live + queue.delayed + len(held)
            assert len(held) == queue.unacked, name

    @invariant()
    def the_numbers_are_those_of_the_model_and_balance(self) -> None:
        for name, numbers in self.engine.statistics().items():
            naive = self.model.queues[name]
            counted = {counter: getattr(numbers, counter) for counter in COUNTERS}
            assert counted == {counter: naive.counted[counter] for counter in COUNTERS}, name
            assert (numbers.ready, numbers.unacked, numbers.delayed, numbers.consumers) == (
                len(naive.ready),
                len(naive.unacked),
                len(naive.delayed),
                len(naive.consumers),
            )
            everything = naive.ready + naive.unacked + naive.delayed
            assert numbers.bytes == sum(len(entry.message.body) for entry in everything)
            assert numbers.dead_letter_pending == len(naive.stranded)
            oldest = min((entry.since for entry in naive.ready), default=self.model.now)
            assert numbers.oldest_ready_age == self.model.now - oldest
            assert numbers.enqueued == (
                numbers.ready
                + numbers.unacked
                + numbers.delayed
                + numbers.acknowledged
                + numbers.rejected
                + numbers.expired
                + numbers.dropped
                + numbers.purged
            )

    @invariant()
    def no_consumer_holds_more_than_its_prefetch_and_none_with_credit_waits(self) -> None:
        for queue in self.engine.queues.values():
            for consumer in queue.rota:
                assert consumer.no_ack or not consumer.prefetch or consumer.unacked <= consumer.prefetch
            serving = [queue.rota.active] if queue.arguments.single_active_consumer else list(queue.rota)
            assert not (
                queue.ready.live > queue.ready.waiting and any(one is not None and one.has_credit() for one in serving)
            )

    @invariant()
    def one_message_of_a_group_is_in_flight_and_no_group_is_remembered_without_need(self) -> None:
        for name, queue in self.engine.queues.items():
            if queue.groups is None:
                continue
            naive = self.model.queues[name]
            in_flight = [entry.message.group for entry in naive.unacked if entry.message.group is not None]
            assert len(in_flight) == len(set(in_flight))
            to_come = [entry.message.group for entry in naive.delayed if entry.message.continues]
            needed = {entry.message.group for entry in naive.ready} | set(in_flight) | set(to_come)
            assert set(queue.groups.lines) == needed - {None}

    @invariant()
    def no_expired_message_is_ready(self) -> None:
        for queue in self.engine.queues.values():
            assert all(one.expires_at is None or one.expires_at > self.clock.now() for one in queue.ready)


class GroupsMachine(BrokerMachine):
    """The same with nothing but message groups."""

    choice = tuple(name for name in QUEUES if name.startswith("groups"))


BrokerMachine.TestCase.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
TestBrokerAgainstTheModel = BrokerMachine.TestCase
GroupsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestGroupsAgainstTheModel = GroupsMachine.TestCase
