"""A unique task whose calls wait until the test lets them end, and what its locks look like from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from liap_tasks import LiapApp, RetryPolicy, Unique
from liap_tasks.unique.lock import Lock
from tests.liap_tasks.conftest import DEADLINE

ONCE = RetryPolicy(max_retries=0)


class Settling:
    """The task ``settle(room, ends)`` of an app: it notes its token, waits for the gate, and fails if it is to.

    begun: a permit for each attempt that has begun. gate: open unless a test closes it. tokens: of the attempts.
    """

    def __init__(self, app: LiapApp) -> None:
        self.app = app
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.seen: list[str] = []
        self.tokens: list[int] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self.task: Any = None

    def make(self, **options: Any) -> Any:
        """Give the app the task."""
        options = {"unique": Unique(key="room"), "retry_policy": ONCE, **options}

        @self.app.task(name="tests.settle", shared=False, bind=True, ignore_result=False, **options)
        def settle(task: Any, room: str, how: str = "well") -> str:
            if task.unique_lock is not None:
                self.tokens.append(task.unique_lock.token)
            with self._lock:
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            self.begun.release()
            try:
                assert self.gate.wait(DEADLINE)
                self.seen.append(how)
                if how == "badly" or how == f"badly on attempt {task.attempt}":
                    raise LookupError(room)
                return how
            finally:
                with self._lock:
                    self.at_once -= 1

        self.task = settle
        return settle

    def wait_until_begun(self) -> None:
        assert self.begun.acquire(timeout=DEADLINE)

    def lock(self, room: str = "r1") -> Lock | None:
        """Return the lock of a room."""
        return self.app.unique_locks.store.find(f'tests.settle:{{"room":"{room}"}}')


@pytest.fixture
def settling_on() -> Iterator[Callable[[LiapApp], Settling]]:
    made: list[Settling] = []

    def make(app: LiapApp) -> Settling:
        made.append(Settling(app))
        return made[-1]

    yield make
    for settling in made:
        settling.gate.set()


@pytest.fixture
def settling(app: LiapApp, settling_on: Callable[[LiapApp], Settling]) -> Settling:
    return settling_on(app)
