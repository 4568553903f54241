"""With Celery's event loop every request hears in the loop's thread: only there may its connections be used."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from typing import Any

from liap_tasks.pools.threads import SoloPool, TaskPool

DEADLINE = 60.0


class Loop:
    """Celery's event loop as far as a pool needs it; it turns in the test's thread."""

    def __init__(self) -> None:
        self._readers: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        self._readers.append((fd, callback, args))

    def remove_reader(self, fd: int) -> None:
        self._readers = [reader for reader in self._readers if reader[0] != fd]

    def turn_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end
            ready, _, _ = select.select([fd for fd, _, _ in self._readers], [], [], DEADLINE)
            for fd, callback, args in self._readers:
                if fd in ready:
                    callback(*args)


class Heard:
    """A request that notes what it hears, and in which thread."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.threads: set[int] = set()

    def note(self, word: str) -> None:
        self.words.append(word)
        self.threads.add(threading.get_ident())

    def give_to(self, pool: TaskPool | SoloPool, function: Callable[..., Any], timeout: float | None = None) -> None:
        pool.on_apply(
            function,
            callback=lambda _: self.note("ended"),
            accept_callback=lambda pid, at: self.note("begun"),
            timeout_callback=lambda soft, seconds: self.note("timed out"),
            timeout=timeout,
        )


def test_the_loop_s_thread_hears_of_what_the_threads_do() -> None:
    loop, heard, elsewhere = Loop(), Heard(), set()
    pool = TaskPool(4)
    pool.register_with_event_loop(loop)
    for _ in range(200):
        heard.give_to(pool, lambda: elsewhere.add(threading.get_ident()))
    loop.turn_until(lambda: len(heard.words) == 400)
    pool.on_stop()

    assert heard.threads == {threading.get_ident()}
    assert threading.get_ident() not in elsewhere
    assert (heard.words.count("begun"), heard.words.count("ended")) == (200, 200)


def test_it_hears_of_a_stuck_one_too() -> None:
    loop, heard, end = Loop(), Heard(), threading.Event()
    pool = TaskPool(1)
    pool.register_with_event_loop(loop)
    heard.give_to(pool, lambda: end.wait(DEADLINE), timeout=0.05)
    loop.turn_until(lambda: "timed out" in heard.words)
    end.set()
    pool.on_stop()

    assert heard.threads == {threading.get_ident()}
    assert heard.words == ["begun", "timed out"]


def test_what_ends_while_the_pool_stops_is_told_where_it_is_stopped() -> None:
    loop, heard, begun = Loop(), Heard(), threading.Event()
    pool = TaskPool(1)
    pool.register_with_event_loop(loop)

    def linger() -> None:
        begun.set()
        time.sleep(0.05)

    heard.give_to(pool, linger)
    assert begun.wait(DEADLINE)
    pool.on_stop()

    assert heard.words == ["begun", "ended"]
    assert heard.threads == {threading.get_ident()}


def test_the_solo_pool_s_loop_hears_of_a_stuck_one_when_it_turns_again() -> None:
    loop, heard = Loop(), Heard()
    pool = SoloPool(1)
    pool.register_with_event_loop(loop)
    heard.give_to(pool, lambda: time.sleep(0.3), timeout=0.05)
    assert heard.words == ["begun"]
    loop.turn_until(lambda: len(heard.words) == 2)
    pool.on_stop()

    assert heard.words == ["begun", "timed out"]
    assert heard.threads == {threading.get_ident()}
