"""Calls that are made later: by one thread, unless one of them takes long."""

from __future__ import annotations

import gc
import os
import queue
import random
import threading
import weakref
from collections.abc import Iterator

import pytest

from liap_tasks import timer_thread
from liap_tasks.timer_thread import start_timer
from tests.liap_tasks.conftest import DEADLINE
from tests.transports.forking import in_child

NAME = "liap-timers"


@pytest.fixture(autouse=True)
def timers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have threads of this test alone, and see them go."""
    before = set(threading.enumerate())
    monkeypatch.setattr(timer_thread, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(timer_thread, "_timers", timer_thread._Timers())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name == NAME:
            thread.join(DEADLINE)
            assert not thread.is_alive()


def test_calls_are_made_in_the_order_of_their_times_by_one_thread() -> None:
    made: queue.Queue[tuple[int, int]] = queue.Queue()

    def note(number: int) -> None:
        made.put((number, threading.get_ident()))

    for number in (3, 1, 4, 0, 2):
        start_timer(0.05 + number / 100, note, (number,))
    found = [made.get(timeout=DEADLINE) for _ in range(5)]
    assert [number for number, _ in found] == [0, 1, 2, 3, 4]
    assert (
        len({thread for _, thread in found}) <= 2
    )  # who is called to watch may be there before who made the last call
    assert threading.get_ident() not in {thread for _, thread in found}


def test_a_call_that_takes_long_holds_up_no_other() -> None:
    go_on, made = threading.Event(), threading.Semaphore(0)
    start_timer(0, go_on.wait, (DEADLINE,))
    start_timer(0.01, go_on.wait, (DEADLINE,))
    start_timer(0.02, made.release)
    assert made.acquire(timeout=DEADLINE)
    start_timer(0, made.release)
    assert made.acquire(timeout=DEADLINE)
    go_on.set()


def test_a_call_that_is_taken_back_is_not_made_and_keeps_nothing() -> None:
    class Kept:
        pass

    kept = Kept()
    gone = weakref.ref(kept)
    made: queue.Queue[object] = queue.Queue()
    first, second = start_timer(0.05, made.put, (kept,)), start_timer(3600, made.put, (kept,))
    del kept
    first.cancel()
    second.cancel()
    gc.collect()
    assert gone() is None
    last = start_timer(0.06, made.put, ("last",))  # also wakes the thread, which slept for the others
    assert made.get(timeout=DEADLINE) == "last"
    last.cancel()
    assert made.empty()


def test_what_has_been_called_is_not_kept() -> None:
    class Kept:
        pass

    kept = Kept()
    gone = weakref.ref(kept)
    called = threading.Event()

    def note(_: Kept) -> None:
        called.set()

    timer = start_timer(0, note, (kept,))
    del kept
    assert called.wait(DEADLINE)
    start_timer(0, called.clear)
    while called.is_set():
        pass
    gc.collect()
    assert gone() is None
    timer.cancel()


def test_the_error_of_a_call_is_told_and_the_next_one_is_made(caplog: pytest.LogCaptureFixture) -> None:
    made = threading.Event()

    def fail() -> None:
        raise LookupError("no such room")

    start_timer(0, fail)
    start_timer(0.01, made.set)
    assert made.wait(DEADLINE)
    assert "no such room" in caplog.text


def test_of_many_from_many_threads_each_is_made_once() -> None:
    made: queue.Queue[tuple[int, int]] = queue.Queue()
    chance = random.Random(1)
    waits = [[chance.random() / 50 for _ in range(100)] for _ in range(4)]

    def start(thread: int) -> None:
        timers = []
        for number, wait in enumerate(waits[thread]):
            timers.append(start_timer(wait, made.put, ((thread, number),)))
            timers.append(start_timer(3600, made.put, ((thread, -number),)))
        for timer in timers[1::2]:
            timer.cancel()

    starting = [threading.Thread(target=start, args=(thread,)) for thread in range(4)]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()
    found = [made.get(timeout=DEADLINE) for _ in range(400)]
    assert sorted(found) == [(thread, number) for thread in range(4) for number in range(100)]
    assert made.empty()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_thread_of_its_own() -> None:
    far = start_timer(3600, print)

    def call_one() -> str:
        made = threading.Event()
        start_timer(0, made.set)
        return str(made.wait(DEADLINE))

    assert in_child(call_one) == "True"
    far.cancel()
    start_timer(0, int)  # wakes the thread, which has nothing to wait for any more
