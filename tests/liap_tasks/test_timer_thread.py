"""Calls that are made later: by one thread, unless one of them takes long."""

from __future__ import annotations

import gc
import os
import queue
import random
import threading
import weakref
from time import monotonic

import pytest

from liap_tasks import timer_thread
from liap_tasks.timer_thread import start_timer
from tests.liap_tasks.conftest import DEADLINE, wait_until
from tests.transports.forking import in_child


@pytest.fixture(autouse=True)
def timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have threads of this test alone."""
    monkeypatch.setattr(timer_thread, "_timers", timer_thread._Timers())


def test_no_call_is_made_before_its_time_or_twice() -> None:
    made: queue.Queue[tuple[float, float]] = queue.Queue()

    def note(due: float) -> None:
        made.put((due, monotonic()))

    for wait in (0.03, 0.01, 0.04, 0.0, 0.02):
        start_timer(wait, note, (monotonic() + wait,))
    found = [made.get(timeout=DEADLINE) for _ in range(5)]
    assert all(at >= due for due, at in found)
    assert made.empty()


def test_a_call_that_is_sooner_than_the_others_waits_for_none_of_them() -> None:
    made = threading.Event()
    far = [start_timer(3600, print) for _ in range(3)]
    start_timer(0.01, made.set)
    assert made.wait(DEADLINE)
    for timer in far:
        timer.cancel()


def test_calls_one_after_the_other_are_made_by_few_threads_which_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer_thread, "IDLE_SECONDS", 0.2)
    made: queue.Queue[threading.Thread] = queue.Queue()
    threads = set()
    for _ in range(50):
        start_timer(0, lambda: made.put(threading.current_thread()))
        threads.add(made.get(timeout=DEADLINE))
    assert len(threads) <= 10  # two, if no thread is held up
    assert threading.current_thread() not in threads
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


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
    last = start_timer(0.06, made.put, ("last",))
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
    wait_until(lambda: gone() is None)  # as soon as the thread has come back from the call
    timer.cancel()


def test_the_error_of_a_call_is_told_and_the_next_one_is_made(caplog: pytest.LogCaptureFixture) -> None:
    made = threading.Event()

    def fail() -> None:
        raise LookupError("no such room")

    start_timer(0, fail)
    start_timer(0.01, made.set)
    assert made.wait(DEADLINE)
    wait_until(lambda: "no such room" in caplog.text)  # another thread may be writing it still


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


def test_the_thread_can_be_there_before_the_first_call() -> None:
    timer_thread.get_ready()
    wait_until(lambda: timer_thread._timers._watched)
    threads = set(threading.enumerate())
    made: queue.Queue[threading.Thread] = queue.Queue()
    start_timer(0, lambda: made.put(threading.current_thread()))
    assert made.get(timeout=DEADLINE) in threads
