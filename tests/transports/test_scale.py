"""A long queue costs per message what a short one costs, measured by counting steps and not by the clock."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import pytest

from transports.engine import Entry, Message, TopicTrie
from transports.engine.ready import FifoStore, PriorityStore, ReadyStore

MANY = 1_000_000


def lines_run(work: Callable[[], object]) -> int:
    """Return how many lines of Python ``work`` ran."""
    counted = 0

    def trace(frame: object, event: str, argument: object) -> Callable[..., object]:
        nonlocal counted
        counted += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return counted


@pytest.mark.parametrize("new", [FifoStore, lambda: PriorityStore(9)], ids=["fifo", "priority"])
def test_the_millionth_message_costs_what_the_first_does(new: Callable[[], ReadyStore]) -> None:
    store = new()
    messages = [Message(b"", {"priority": level}, None, "", "") for level in range(10)]

    def fill(start: int, count: int) -> None:
        for seq in range(start, start + count):
            store.push(Entry(messages[seq % 10], seq, 0.0))

    def empty(count: int) -> list[Entry | None]:
        return [store.pop() for _ in range(count)]

    first_in = lines_run(lambda: fill(0, 100))
    fill(100, MANY - 200)
    last_in = lines_run(lambda: fill(MANY - 100, 100))
    assert store.live == MANY

    first_out = lines_run(lambda: empty(100))
    taken = empty(1000)
    for entry in taken:
        assert entry is not None
    restored = lines_run(lambda: [store.restore(entry) for entry in taken[::-1] if entry is not None])
    empty(MANY - 200)
    last_out = lines_run(lambda: empty(100))

    assert store.live == 0
    assert last_in <= first_in * 1.2
    assert last_out <= first_out * 1.2
    assert restored < 1000 * 20


def test_a_topic_lookup_does_not_follow_the_number_of_bindings() -> None:
    def lookup_among(count: int) -> int:
        trie: TopicTrie[int] = TopicTrie()
        for number in range(count):
            trie.add(f"room.{number}.event.*", number)
        return lines_run(lambda: trie.match("room.7.event.started"))

    assert lookup_among(10_000) == lookup_among(10)


def test_a_queued_message_without_headers_costs_less_than_a_kilobyte() -> None:
    store = FifoStore()
    body = b"x"
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for seq in range(10_000):
            store.push(Entry(Message(body, {"delivery_mode": 2}, {}, "exchange", "key"), seq, 0.0))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (after - before) / 10_000 < 1024
