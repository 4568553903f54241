"""What a process of many threads can do so that an event waits for little else of it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["promptly"]

SWITCH_SECONDS = 0.0005
"""How long a thread that computes keeps the others waiting for the interpreter (Python's own choice: 5 ms)."""
COLLECTIONS = (5_000, 20, 100)
"""When Python looks for garbage (its own choice, 700, 10 and 10, is 230 times a game, each tenth time for 2 ms)."""


@contextmanager
def promptly(*, alone: bool) -> Iterator[None]:
    """Have the threads that are started in this block take short turns, and collect garbage seldom.

    alone: nothing but this process takes part; where the system can, its threads keep to one processor then. Only one
    of them has the interpreter at a time, and to wake another processor for the next takes longer than a turn on a
    machine that shares its processors with others. What such a thread starts, a process too, keeps to it.
    """
    turns, collections = sys.getswitchinterval(), gc.get_threshold()
    processors = os.sched_getaffinity(0) if alone and hasattr(os, "sched_getaffinity") else set()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(*COLLECTIONS)
    if processors:
        os.sched_setaffinity(0, {max(processors)})
    try:
        yield
    finally:
        if processors:
            os.sched_setaffinity(0, processors)
        sys.setswitchinterval(turns)
        gc.set_threshold(*collections)
