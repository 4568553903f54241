"""Processes of the prefork pool: one that has closed its pipe and is not quite dead yet, and one that is idle."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import pytest
from celery.concurrency.asynpool import SCHED_STRATEGY_FAIR, SCHED_STRATEGY_FCFS, AsynPool

from liap_tasks.pools.prefork import PreforkPool


class Dying:
    """A process that can be collected at the so-manieth time of asking."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    @property
    def exitcode(self) -> int | None:
        self.left -= 1
        return None if self.left > 0 else -9


class Hub:
    """An event loop whose timers are called by the test."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[..., Any], tuple[Any, ...]]] = []

    def call_later(self, seconds: float, function: Callable[..., Any], *args: Any) -> None:
        self.timers.append((seconds, function, args))


@pytest.mark.parametrize(("asked", "looks"), [(1, 1), (4, 4)])
def test_it_is_looked_for_until_it_can_be_collected(monkeypatch: pytest.MonkeyPatch, asked: int, looks: int) -> None:
    processes: Any = PreforkPool.Pool.__new__(PreforkPool.Pool)
    looked: list[str] = []
    monkeypatch.setattr(processes, "maintain_pool", lambda: looked.append("look"), raising=False)
    hub, dying = Hub(), Dying(asked)
    waited = 0.0

    processes._event_process_exit(hub, dying)
    while hub.timers:
        seconds, function, args = hub.timers.pop()
        waited += seconds
        function(*args)

    assert len(looked) == looks
    assert waited < 0.1


def test_one_that_never_dies_is_left_to_celery_s_own_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    processes: Any = PreforkPool.Pool.__new__(PreforkPool.Pool)
    monkeypatch.setattr(processes, "maintain_pool", lambda: None, raising=False)
    hub, waited = Hub(), 0.0
    processes._event_process_exit(hub, Dying(1000))
    while hub.timers:
        seconds, function, args = hub.timers.pop()
        waited += seconds
        function(*args)
    assert waited < 5


class Line:
    """A pool with processes of these pipes, on an event loop that notes to which of them it is told to write."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        pipes: Set[int],
        busy: Set[int] = frozenset(),
        written: Set[int] = frozenset(),
        strategy: object = SCHED_STRATEGY_FAIR,
    ) -> None:
        self.waiting: list[Any] = []
        self.told: list[list[int]] = []
        self.dead = False

        def create(pool: Any, hub: Any) -> None:
            pool._quick_put = self.waiting.append
            hub.consolidate_callback = self.write

        monkeypatch.setattr(AsynPool, "_create_write_handlers", create)
        self.pool: Any = PreforkPool.Pool.__new__(PreforkPool.Pool)
        self.pool._all_inqueues, self.pool._busy_workers, self.pool._active_writes = pipes, busy, written
        self.pool.sched_strategy = strategy
        self.pool._create_write_handlers(Hub())

    def write(self, pipes: list[int]) -> None:
        assert self.waiting, "the call is put in line first"
        self.told.append(pipes)
        if self.dead:
            raise BrokenPipeError


def test_a_call_is_written_at_once_to_a_process_that_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(monkeypatch, pipes={3, 4, 5}, busy={3}, written={5})
    line.pool._quick_put("call")
    assert (line.waiting, line.told) == (["call"], [[4]])


@pytest.mark.parametrize(
    "state",
    [
        {"pipes": {3, 4}, "busy": {3, 4}},
        {"pipes": {3, 4}, "busy": {3}, "written": {4}},
        {"pipes": set()},
        {"pipes": {3}, "strategy": SCHED_STRATEGY_FCFS},
    ],
)
def test_it_waits_in_line_for_one_that_is_not(monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]) -> None:
    line = Line(monkeypatch, **state)
    line.pool._quick_put("call")
    assert (line.waiting, line.told) == (["call"], [])


def test_one_that_has_died_idle_is_no_error_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(monkeypatch, pipes={3})
    line.dead = True
    line.pool._quick_put("call")  # what becomes of it: see tests/liap_tasks/kill/test_child_killed.py
    assert line.told == [[3]]
