"""The stores of ready entries against a list that is sorted again for every question."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transports.engine import Entry, Message
from transports.engine.message import GONE, READY, UNACKED
from transports.engine.ready import SWEEP_AT, FifoStore, PriorityStore, ReadyStore

HIGHEST = 4
AGING = 10.0
Key = Callable[[Entry], tuple[float, ...]]


def level(entry: Entry) -> int:
    return min(entry.message.priority, HIGHEST)


KINDS: dict[str, tuple[Callable[[], ReadyStore], Key, Key]] = {
    # name: (new store, order of leaving, order in which the lowest is chosen)
    "fifo": (FifoStore, lambda e: (e.seq,), lambda e: (e.seq,)),
    "priority": (lambda: PriorityStore(HIGHEST), lambda e: (-level(e), e.seq), lambda e: (level(e), e.seq)),
    "ageing": (
        lambda: PriorityStore(HIGHEST, AGING),
        lambda e: (e.since - level(e) * AGING, -level(e), e.seq),
        lambda e: (level(e), e.seq),
    ),
}

STEPS = st.one_of(
    st.tuples(st.just("push"), st.integers(0, HIGHEST + 2)),
    st.tuples(st.sampled_from(["pop", "drop_lowest"]), st.just(0)),
    st.tuples(st.sampled_from(["restore", "forget"]), st.integers(0, 30)),
    st.tuples(st.just("wait"), st.integers(1, 30)),
)


@pytest.mark.parametrize("kind", KINDS)
@given(steps=st.lists(STEPS, max_size=60))
def test_a_store_does_what_a_sorted_list_does(kind: str, steps: list[tuple[str, int]]) -> None:
    new, order, lowest = KINDS[kind]
    store = new()
    ready: list[Entry] = []
    out: list[Entry] = []
    now, seq = 0.0, 0
    for action, number in steps:
        if action == "push":
            seq += 1
            entry = Entry(Message(b"", {"priority": number}, None, "", ""), seq, now)
            store.push(entry)
            ready.append(entry)
        elif action in ("pop", "drop_lowest"):
            expected = min(ready, key=order if action == "pop" else lowest, default=None)
            popped = store.pop() if action == "pop" else store.drop_lowest()
            assert popped is expected
            if popped is not None:
                popped.state = UNACKED
                ready.remove(popped)
                out.append(popped)
        elif action == "restore" and out:
            entry = out.pop(number % len(out))
            entry.state = READY
            store.restore(entry)
            ready.append(entry)
        elif action == "forget" and ready:
            entry = ready.pop(number % len(ready))
            entry.state = GONE
            store.forget(entry)
        elif action == "wait":
            now += number

        assert store.live == len(ready)
        assert list(store) == sorted(ready, key=order)
        oldest = store.oldest()
        assert (None if oldest is None else oldest.since) == min((entry.since for entry in ready), default=None)


@pytest.mark.parametrize("kind", KINDS)
def test_marked_entries_are_swept_when_they_outnumber_the_living(kind: str) -> None:
    store = KINDS[kind][0]()
    entries = [Entry(Message(b"", {}, None, "", ""), seq, 0.0) for seq in range(10 * SWEEP_AT)]
    for entry in entries:
        store.push(entry)
    kept = entries[0]

    for entry in entries[1:]:
        entry.state = GONE
        store.forget(entry)

    assert list(store) == [kept]
    assert stored(store) <= 2 * SWEEP_AT


@pytest.mark.parametrize("kind", KINDS)
def test_marked_entries_among_the_returned_are_swept_too(kind: str) -> None:
    store = KINDS[kind][0]()
    entries = [Entry(Message(b"", {}, None, "", ""), seq, 0.0) for seq in range(10 * SWEEP_AT)]
    for entry in entries:
        store.push(entry)
    taken = [store.pop() for _ in entries[:-1]]
    for entry in taken:
        assert entry is not None
        store.restore(entry)

    for entry in entries[:-1]:
        entry.state = GONE
        store.forget(entry)

    assert list(store) == [entries[-1]]
    assert stored(store) <= 2 * SWEEP_AT


def stored(store: ReadyStore) -> int:
    levels = [store] if isinstance(store, FifoStore) else [one for one in store.levels if one is not None]
    return sum(len(one.fresh) + len(one.returned) for one in levels)


@settings(max_examples=30)
@given(waited=st.integers(0, 100), priority=st.integers(0, HIGHEST))
def test_ageing_lets_a_low_priority_overtake_after_its_levels_times_the_seconds(waited: int, priority: int) -> None:
    store = PriorityStore(HIGHEST, AGING)
    old = Entry(Message(b"", {"priority": priority}, None, "", ""), 1, 0.0)
    urgent = Entry(Message(b"", {"priority": HIGHEST}, None, "", ""), 2, float(waited))
    store.push(old)
    store.push(urgent)

    first = store.pop()

    missing = (HIGHEST - priority) * AGING
    assert first is (old if waited > missing or priority == HIGHEST else urgent)
