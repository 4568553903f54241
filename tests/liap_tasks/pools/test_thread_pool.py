"""The pool of threads is ready before its first task."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from liap_tasks import LiapApp
from liap_tasks.pools import threads
from liap_tasks.pools.threads import TaskPool
from tests.liap_tasks.conftest import DEADLINE, wait_until


def test_the_first_tasks_wait_neither_for_threads_nor_for_their_result_backends(app: LiapApp) -> None:
    pool = TaskPool(3, app=app)
    pool.start()
    threads = {thread.ident for thread in pool._threads}
    assert pool.counts()["threads"] == len(threads) == 3
    assert any(thread.name == "liap-timeouts" for thread in threading.enumerate())
    made_in: Any = app
    together, seen = threading.Barrier(3), {}

    def look() -> None:
        together.wait(DEADLINE)
        seen[threading.get_ident()] = getattr(
            made_in._local, "backend", None
        )  # what this thread has; asking app.backend would make it

    jobs = [pool.apply_async(look, callback=lambda _: None) for _ in range(3)]
    for job in jobs:
        job.wait(DEADLINE)
    pool.stop()
    assert seen.keys() == threads
    assert None not in seen.values()


def test_a_thread_outlives_a_result_backend_that_cannot_be_made(app: LiapApp) -> None:
    app.conf.update(result_backend="there_is_no_such_module:Backend")
    pool = TaskPool(1, app=app)
    pool.start()
    ran = threading.Event()
    pool.apply_async(ran.set, callback=lambda _: None).wait(DEADLINE)
    pool.stop()
    assert ran.is_set()


def test_who_lets_a_call_begin_goes_on_when_a_thread_has_taken_it(
    app: LiapApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "HAND_OVER_SECONDS", DEADLINE)
    pool = TaskPool(1, app=app)
    pool.start()
    wait_until(lambda: pool._idle)
    release = threading.Event()
    running = pool.apply_async(release.wait, args=(DEADLINE,), callback=lambda _: None)
    pool.let_begin()
    assert not pool._waiting
    waits = pool.apply_async(lambda: None, callback=lambda _: None)
    pool.let_begin()  # no thread is idle: it is not waited for
    assert list(pool._waiting) == [waits]
    release.set()
    running.wait(DEADLINE)
    waits.wait(DEADLINE)
    pool.stop()
