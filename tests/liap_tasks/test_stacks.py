"""Looking at what another thread does, while garbage is collected whose finalizers start threads."""

from __future__ import annotations

import subprocess
import sys
import threading

from liap_tasks.stacks import stack_of
from tests.liap_tasks.conftest import DEADLINE

LOOKING = """
import gc, threading, time, weakref
from liap_tasks.stacks import stack_of

class Dropped:
    def __init__(self):
        self.itself = self
        weakref.finalize(self, lambda: threading.Thread(target=int).start())

def pause():
    time.sleep(0.0002)

def work():
    while not over.is_set():
        pause()

over = threading.Event()
threads = [threading.Thread(target=work) for _ in range(20)]
for thread in threads:
    thread.start()
for _ in range(200):
    Dropped()
    gc.set_threshold(gc.get_count()[0] + 5)
    assert "work" in stack_of(threads[0].ident, 10)
    time.sleep(0.0005)
assert gc.isenabled()
over.set()
"""


def test_the_stack_of_a_thread_ends_with_what_it_does() -> None:
    begun, release = threading.Event(), threading.Event()

    def waits_here() -> None:
        begun.set()
        release.wait(DEADLINE)

    thread = threading.Thread(target=waits_here)
    thread.start()
    assert begun.wait(DEADLINE)
    ident = thread.ident or 0
    assert "waits_here" in stack_of(ident, 10)
    assert stack_of(ident, 1).count("File ") == 1
    release.set()
    thread.join(DEADLINE)
    assert stack_of(ident, 10) == ""


def test_a_finalizer_that_starts_a_thread_meanwhile_stops_nothing() -> None:
    subprocess.run([sys.executable, "-c", LOOKING], timeout=60, check=True)
