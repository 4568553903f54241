"""Whatever a broker does and wherever it is killed: what was committed is there, and nothing else.

The broker itself says, after each commit, what would have to come back (it has a model of its own, see
``test_broker_model.py``). A kill leaves the files as they are or cuts the newest one at any byte; the broker that comes
back must hold exactly what the last whole commit left, and goes on from there.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.transports.journal.stored_broker import Snapshot, StoredBroker
from transports.engine import QueueFull

DEAD = {"dead_letter_exchange": "", "dead_letter_routing_key": "dead"}
QUEUES: dict[str, dict[str, Any]] = {
    "plain": {},
    "short": {"max_length": 2, **DEAD},
    "priority": {"max_priority": 3, "priority_aging": 5, "message_ttl": 9000},
    "groups": {"message_groups": True, "delivery_limit": 2, **DEAD},
    "once": {"deduplication_window": 5000},
    "sure": {"dead_letter_exchange": "", "dead_letter_routing_key": "full", "dead_letter_strategy": "at-least-once"},
    "full": {"max_length": 1, "overflow": "reject-publish"},
    "dead": {},
    "transient": {},
}
PICK = st.integers(0, 10**6)
NAMES = st.sampled_from(list(QUEUES))


class Committed(NamedTuple):
    """The newest file after a commit, its size, the time, and what must come back after a kill."""

    newest: Path
    size: int
    time: float
    state: Snapshot


class JournalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.serial = 0
        self.broker = StoredBroker(self.directory / "journal", segment_bytes=4096)
        self.commits: list[Committed] = []  # those that a torn tail can take back

    @initialize(names=st.lists(NAMES, min_size=1, unique=True))
    def declare_some(self, names: list[str]) -> None:
        for name in names:
            self.declare(name)
        self.commit()

    def teardown(self) -> None:
        self.broker.close()
        shutil.rmtree(self.directory)

    def tick(self) -> None:
        self.serial += 1
        self.broker.clock.advance(0.5)

    def there(self, name: str) -> bool:
        return name in self.broker.engine.queues

    # -- what a broker does ------------------------------------------------------------------------------------

    @rule(name=NAMES)
    def declare(self, name: str) -> None:
        self.broker.declare(name, durable=name != "transient", **QUEUES[name])
        self.broker.engine.bind_queue(self.broker.connection, name, "amq.fanout")

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.tick()
        self.broker.engine.delete_queue(self.broker.connection, name)

    @rule(name=NAMES, bind=st.booleans(), table=st.sampled_from([{}, {"a": 1}, {"a": True}]))
    def bind_or_unbind(self, name: str, bind: bool, table: dict[str, Any]) -> None:
        if self.there(name):
            engine = self.broker.engine
            engine.declare_exchange("auto", "headers", durable=True, auto_delete=True)
            call = engine.bind_queue if bind else engine.unbind_queue
            call(self.broker.connection, name, "auto", "", table)

    @rule(
        name=NAMES,
        everywhere=st.booleans(),
        copies=st.integers(1, 4),
        size=st.sampled_from([0, 0, 10, 300]),
        priority=st.sampled_from([None, 0, 3]),
        ttl=st.sampled_from([None, None, 3000]),
        delay=st.sampled_from([None, None, 1000, 5000]),
        group=st.sampled_from([None, "a", "b"]),
        continues=st.sampled_from([None, True]),
        persistent=st.sampled_from([True, True, False]),
    )
    def publish(
        self,
        name: str,
        everywhere: bool,
        copies: int,
        size: int,
        priority: int | None,
        ttl: int | None,
        delay: int | None,
        group: str | None,
        continues: bool | None,
        persistent: bool,
    ) -> None:
        self.tick()
        for copy in range(copies):
            with suppress(QueueFull):
                self.broker.publish(
                    name,
                    b"%d.%d" % (self.serial, copy) + b"x" * size,
                    exchange="amq.fanout" if everywhere else "",
                    priority=priority,
                    ttl_ms=ttl,
                    persistent=persistent,
                    x_delay=delay,
                    x_group_id=group,
                    x_group_continues=continues,
                    x_deduplication_id=None if group is None else f"{group}{self.serial % 3}",
                )

    @rule(name=NAMES, no_ack=st.sampled_from([False, False, True]), count=st.integers(1, 3))
    def get(self, name: str, no_ack: bool, count: int) -> None:
        self.tick()
        if self.there(name):
            for _ in range(count):
                self.broker.engine.get(self.broker.channel, name, no_ack=no_ack)

    @rule(pick=PICK, how=st.sampled_from(["ack", "ack", "dead letter", "requeue"]), multiple=st.booleans())
    def settle(self, pick: int, how: str, multiple: bool) -> None:
        self.tick()
        held = list(self.broker.channel.held)
        if not held:
            return
        tag = held[pick % len(held)]
        if how == "ack":
            self.broker.engine.ack(self.broker.channel, tag, multiple=multiple)
        else:
            self.broker.engine.reject(self.broker.channel, tag, requeue=how == "requeue", multiple=multiple)

    @rule(name=NAMES)
    def purge(self, name: str) -> None:
        self.tick()
        if self.there(name):
            self.broker.engine.purge_queue(self.broker.connection, name)

    @rule(name=NAMES, pick=PICK, cancel=st.booleans())
    def cancel_or_reschedule(self, name: str, pick: int, cancel: bool) -> None:
        self.tick()
        delayed = self.broker.engine.delayed(name) if self.there(name) else []
        if delayed:
            identity = str(delayed[pick % len(delayed)][1].identity)
            if cancel:
                self.broker.engine.cancel_delayed(name, identity)
            else:
                self.broker.engine.reschedule(name, identity, 2.0)

    @rule(seconds=st.sampled_from([1, 2, 10]))
    def advance(self, seconds: int) -> None:
        self.broker.clock.advance(seconds)

    # -- what a journal does -----------------------------------------------------------------------------------

    @rule()
    def commit(self) -> None:
        number = len(self.broker.files())
        self.broker.journal.commit()
        newest = self.broker.files()
        if len(newest) != number:  # what was before is in a file that is done, and on the disk
            self.commits.clear()
        size = newest[-1].stat().st_size
        self.commits.append(Committed(newest[-1], size, self.broker.clock.time(), self.broker.snapshot()))

    @rule(budget=st.sampled_from([1, 1000, 10**6]))
    def compact(self, budget: int) -> None:
        self.commit()
        self.broker.journal.compact_step(budget)
        self.commits.clear()
        self.commit()

    @rule(cut=st.none() | st.floats(0, 1))
    def kill(self, cut: float | None) -> None:
        last = self.commits[-1]
        at = None
        if cut is not None:
            first = self.commits[0].size
            at = first + round(cut * (last.size - first))
            last = next(one for one in reversed(self.commits) if one.size <= at)
        # Back at the moment of the commit, so that nothing has fallen due since.
        self.broker = self.broker.killed(cut=at, down=last.time - self.broker.clock.time())
        self.compare(last.state)

    @rule()
    def restart(self) -> None:
        self.tick()
        self.broker.engine.close_connection(self.broker.connection)
        expected = self.broker.snapshot()
        self.broker.journal.close()
        self.broker = StoredBroker(
            self.broker.path, clock=self.broker.clock, family=self.broker.family, segment_bytes=4096
        )
        self.compare(expected)

    def compare(self, expected: Snapshot) -> None:
        assert self.broker.snapshot() == expected
        statistics = self.broker.journal.statistics()
        held = [len(queue["entries"]) + len(queue["stranded"]) for queue in expected["queues"].values()]
        assert statistics.live_messages == sum(held)
        self.commits.clear()
        self.commit()


JournalMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestJournalAgainstTheBroker = JournalMachine.TestCase
