"""Whatever a broker does and wherever it is killed: what was committed is there, and nothing else.

The broker itself says, after each commit, what would have to come back (it has a model of its own, see
``test_broker_model.py``). A kill leaves the files as they are or cuts the newest one at any byte; the broker that comes
back must hold exactly what the last whole commit left, and goes on from there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
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
SEEDS = st.integers(0, 2**32)
FOCUS = st.lists(st.sampled_from(list(QUEUES)), min_size=1, max_size=3, unique=True)


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
        self.focus: list[str] = []
        self.broker = StoredBroker(self.directory / "journal", segment_bytes=4096)
        self.commits: list[Committed] = []  # those that a torn tail can take back

    @initialize(focus=FOCUS)
    def declare_some(self, focus: list[str]) -> None:
        # A few queues per run, so that things happen to the same messages.
        letters = [QUEUES[name]["dead_letter_routing_key"] for name in focus if "dead_letter_exchange" in QUEUES[name]]
        self.focus = list(dict.fromkeys(focus + letters))
        for name in self.focus:
            self.declare(name)
        self.commit()

    def teardown(self) -> None:
        try:
            if self.commits:  # else it has failed already
                self.kill(seed=0, operations=1, cut=None)
        finally:
            self.broker.close()
        shutil.rmtree(self.directory)

    # -- what a broker does ------------------------------------------------------------------------------------

    def work(self, seed: int, operations: int) -> None:
        """Do a few things, often those that need others before them: a choice step by step seldom gets there."""
        rng = Random(seed)
        for _ in range(operations):
            self.serial += 1
            self.broker.clock.advance(rng.choice([0, 0.5, 0.5, 2]))
            operation = rng.choices(list(self.weights), list(self.weights.values()))[0]
            operation(rng, rng.choice(self.focus))

    @property
    def weights(self) -> dict[Callable[[Random, str], None], float]:
        return {
            self.publish: 8,
            self.get: 5,
            self.settle: 5,
            self.touch_delayed: 3,
            self.bind_or_unbind: 1,
            self.purge: 0.5,
            self.delete: 0.3,
            self.commit_or_compact: 4,
        }

    def declare(self, name: str) -> None:
        self.broker.declare(name, durable=name != "transient", **QUEUES[name])
        self.broker.engine.bind_queue(self.broker.connection, name, "amq.fanout")

    def publish(self, rng: Random, name: str) -> None:
        size = rng.choice([0, 10, 300])
        group = rng.choice([None, "a", "b"])
        for copy in range(rng.randint(1, 6)):
            with suppress(QueueFull):
                self.broker.publish(
                    name,
                    b"%d.%d" % (self.serial, copy) + b"x" * size,
                    exchange=rng.choice(["", "", "amq.fanout"]),
                    priority=rng.choice([None, 0, 3]),
                    ttl_ms=rng.choice([None, None, 3000]),
                    persistent=rng.random() < 0.8,
                    x_delay=rng.choice([None, None, 1000, 5000]),
                    x_group_id=group,
                    x_group_continues=rng.choice([None, True]),
                    x_deduplication_id=None if group is None else f"{group}{copy % 3}",
                )

    def get(self, rng: Random, name: str) -> None:
        no_ack = rng.random() < 0.2
        for _ in range(rng.randint(1, 3)):
            self.broker.engine.get(self.broker.channel, name, no_ack=no_ack)

    def settle(self, rng: Random, name: str) -> None:
        engine, channel = self.broker.engine, self.broker.channel
        if not channel.held:
            return
        tag = rng.choice(list(channel.held))
        how = rng.choice(["ack", "reject", "requeue", "requeue"])
        if how == "ack":
            engine.ack(channel, tag, multiple=rng.random() < 0.2)
        else:
            engine.reject(channel, tag, requeue=how == "requeue", multiple=rng.random() < 0.2)

    def touch_delayed(self, rng: Random, name: str) -> None:
        delayed = self.broker.engine.delayed(name)
        if delayed:
            identity = str(rng.choice(delayed)[1].identity)
            if rng.random() < 0.3:
                self.broker.engine.cancel_delayed(name, identity)
            else:
                self.broker.engine.reschedule(name, identity, 4.0)

    def bind_or_unbind(self, rng: Random, name: str) -> None:
        engine = self.broker.engine
        engine.declare_exchange("auto", "headers", durable=True, auto_delete=True)
        call = rng.choice([engine.bind_queue, engine.unbind_queue])
        call(self.broker.connection, name, "auto", "", rng.choice([{}, {"a": 1}, {"a": True}]))

    def purge(self, rng: Random, name: str) -> None:
        self.broker.engine.purge_queue(self.broker.connection, name)

    def delete(self, rng: Random, name: str) -> None:
        self.broker.engine.delete_queue(self.broker.connection, name)
        self.declare(name)

    # -- what a journal does -----------------------------------------------------------------------------------

    def commit(self) -> None:
        number = len(self.broker.files())
        self.broker.journal.commit()
        newest = self.broker.files()
        if len(newest) != number:  # what was before is in a file that is done, and on the disk
            self.commits.clear()
        size = newest[-1].stat().st_size
        self.commits.append(Committed(newest[-1], size, self.broker.clock.time(), self.broker.snapshot()))

    def commit_or_compact(self, rng: Random, name: str) -> None:
        self.commit()
        if rng.random() < 0.4:
            self.broker.journal.compact_step(rng.choice([1, 1000, 10**6]))
            self.commits.clear()  # what it wrote is on the disk before a file goes
            self.commit()

    @rule(seed=SEEDS, operations=st.integers(1, 40), cut=st.none() | st.floats(0, 1))
    def kill(self, seed: int, operations: int, cut: float | None) -> None:
        self.work(seed, operations)
        last = self.commits[-1]
        at = None
        if cut is not None:
            first = self.commits[0].size
            at = first + round(cut * (last.size - first))
            last = next(one for one in reversed(self.commits) if one.size <= at)
        # Back at the moment of the commit, so that nothing has fallen due since.
        self.come_back(self.broker.killed(cut=at, down=last.time - self.broker.clock.time(), paused=True), last.state)

    @rule(seed=SEEDS, operations=st.integers(1, 40))
    def restart(self, seed: int, operations: int) -> None:
        self.work(seed, operations)
        self.broker.engine.close_connection(self.broker.connection)
        expected = self.broker.snapshot()
        self.come_back(self.broker.restarted(paused=True), expected)

    def come_back(self, broker: StoredBroker, expected: Snapshot) -> None:
        self.broker = broker
        self.commits.clear()
        assert broker.snapshot() == expected
        held = [len(queue["entries"]) + len(queue["stranded"]) for queue in expected["queues"].values()]
        assert broker.journal.statistics().live_messages == sum(held)
        broker.go_on()
        for name in self.focus:
            self.declare(name)
        self.commit()


JournalMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=10, deadline=None)
TestJournalAgainstTheBroker = JournalMachine.TestCase
