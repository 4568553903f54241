"""A process of the prefork pool that has closed its pipe and is not quite dead yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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
