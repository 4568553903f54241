"""The demo's process while it plays, and afterwards."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import Any

import pytest

from game_tasks.demo.promptness import promptly


def habits() -> tuple[Any, ...]:
    return sys.getswitchinterval(), gc.get_threshold(), sorted(os.sched_getaffinity(0))


def test_threads_take_short_turns_on_one_processor() -> None:
    before = habits()
    seen: list[set[int]] = []
    with promptly(alone=True):
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        turns, collections, _ = habits()
    assert [len(processors) for processors in seen] == [1]
    assert (turns < before[0], collections > before[1]) == (True, True)
    assert habits() == before


def test_all_is_as_before_when_the_game_breaks_off() -> None:
    before = habits()
    with pytest.raises(ZeroDivisionError), promptly(alone=True):
        raise ZeroDivisionError
    assert habits() == before


def test_a_process_beside_others_keeps_all_processors() -> None:
    before = habits()
    with promptly(alone=False):
        assert habits()[2] == before[2]
    assert habits() == before
