"""The heap of what is due: against a sorted list, and its memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transports.engine import Entry, Message
from transports.engine.due import REBUILD_AT, DueHeap
from transports.engine.message import DELAYED, GONE

STEPS = st.one_of(
    st.tuples(st.just("push"), st.integers(0, 20)),
    st.tuples(st.just("leave"), st.integers(0, 20)),
    st.tuples(st.just("move"), st.integers(0, 20)),
    st.tuples(st.just("advance"), st.integers(0, 5)),
)


def waiting_heap() -> DueHeap:
    return DueHeap(lambda entry, due: entry.state == DELAYED and entry.due == due)


def delayed(seq: int, due: float) -> Entry:
    entry = Entry(Message(b"", {}, None, "", ""), seq, 0.0)
    entry.state = DELAYED
    entry.due = due
    return entry


@given(steps=st.lists(STEPS, max_size=80))
def test_the_heap_does_what_a_sorted_list_does(steps: list[tuple[str, int]]) -> None:
    heap = waiting_heap()
    waiting: list[Entry] = []
    now = 0.0
    for seq, (action, number) in enumerate(steps):
        if action == "push":
            entry = delayed(seq, now + number)
            heap.push(entry.due, entry)
            waiting.append(entry)
        elif action == "leave" and waiting:
            entry = waiting.pop(number % len(waiting))
            entry.state = GONE
            heap.left_early()
        elif action == "move" and waiting:
            entry = waiting[number % len(waiting)]
            heap.left_early()
            entry.due = now + number
            heap.push(entry.due, entry)
        elif action == "advance":
            now += number
            due = sorted((entry for entry in waiting if entry.due <= now), key=lambda entry: (entry.due, entry.seq))
            for expected in due:
                popped = heap.pop_due(now)
                assert popped is expected
                expected.state = GONE
                waiting.remove(expected)
            assert heap.pop_due(now) is None

        assert heap.next_due() == min((entry.due for entry in waiting), default=None)
        assert sorted(entry.seq for entry in heap.entries()) == sorted(entry.seq for entry in waiting)


def test_leftovers_are_thrown_out_when_they_outnumber_what_waits() -> None:
    heap = waiting_heap()
    entries = [delayed(seq, 1000.0 + seq) for seq in range(20 * REBUILD_AT)]
    for entry in entries:
        heap.push(entry.due, entry)

    for entry in entries[1:]:
        entry.state = GONE
        heap.left_early()

    assert heap.entries() == [entries[0]]
    assert len(heap._heap) <= 2 * REBUILD_AT
