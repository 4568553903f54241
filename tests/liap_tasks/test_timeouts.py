"""Interrupting a block that overruns in its thread."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from functools import partial

import pytest

from liap_tasks import timeouts
from liap_tasks.timeouts import call_after, interrupt_after
from tests.liap_tasks.conftest import DEADLINE, wait_until


class OverrunError(Exception):
    pass


class InnerError(Exception):
    pass


def run_for_ever() -> None:
    while True:
        pass


def test_a_block_that_overruns_is_interrupted() -> None:
    with pytest.raises(OverrunError), interrupt_after(0.01, OverrunError):
        run_for_ever()


def test_a_block_that_ends_in_time_is_left_alone_and_so_is_what_follows() -> None:
    with interrupt_after(0.02, OverrunError):
        pass
    # A later block of the same thread fires after the first one would have; nothing else may arrive before it.
    with pytest.raises(InnerError), interrupt_after(0.05, InnerError):
        run_for_ever()


def test_the_outer_of_nested_blocks_fires_inside_the_inner() -> None:
    with pytest.raises(OverrunError), interrupt_after(0.01, OverrunError):
        with interrupt_after(DEADLINE, InnerError):
            run_for_ever()


def test_the_inner_of_nested_blocks_leaves_the_outer_running() -> None:
    def inner_then_outer() -> None:
        with suppress(InnerError), interrupt_after(0.01, InnerError):
            run_for_ever()
        run_for_ever()

    with pytest.raises(OverrunError), interrupt_after(0.05, OverrunError):
        inner_then_outer()


def test_each_thread_gets_its_own_interruption() -> None:
    interrupted: list[str] = []

    def overrun(name: str, seconds: float) -> None:
        try:
            with interrupt_after(seconds, OverrunError):
                run_for_ever()
        except OverrunError:
            interrupted.append(name)

    threads = [threading.Thread(target=overrun, args=(str(n), 0.01 * n)) for n in (3, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(interrupted) == ["1", "2", "3"]


def test_many_blocks_in_time_leave_nothing_behind() -> None:
    for _ in range(2000):
        with interrupt_after(DEADLINE, OverrunError):
            pass
    assert not timeouts._watchdog._blocks


def test_a_block_that_was_looked_at_is_not_kept_alive() -> None:
    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)
    with call_after(3600, partial(str, held)):
        wait_until(lambda: timeouts._watchdog._looks_at < math.inf)
    del held
    assert gone() is None


ENDING_AS_IT_FIRES = """
import sys
from liap_tasks.timeouts import interrupt_after

class Overrun(Exception):
    pass

fired = late = 0
for attempt in range(60):
    try:
        with interrupt_after(0.005, Overrun):
            for _ in range(60_000 + 10_000 * attempt):
                pass
    except Overrun:
        fired += 1
    try:
        for _ in range(1000):
            pass
    except Overrun:
        late += 1

seen = []
sys.settrace(lambda frame, event, argument: seen.append(event))
(lambda: None)()
sys.settrace(None)
print(fired > 0, late, len(seen))
"""


def test_a_block_that_ends_as_it_fires_leaves_nothing_behind() -> None:
    # In a process of its own: what could be left behind is an eval loop that never comes to rest under a tracer.
    done = subprocess.run([sys.executable, "-c", ENDING_AS_IT_FIRES], capture_output=True, text=True, timeout=60)
    assert done.stdout.split()[:2] == ["True", "0"], done.stderr
