"""The tasks of the workers. Each notes its runs in a file of its own, which the death of a process cannot undo."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from celery import shared_task

from liap_tasks import LiapTask, RetryPolicy

ONCE = RetryPolicy(max_retries=0)
TWICE = RetryPolicy(max_retries=1, initial_delay=0.05, jitter=False)


def note(folder: str, key: str, event: str) -> None:
    """Add a line to the file of the message, in one write, and then to the worker's log, which tests can wait for."""
    with (Path(folder) / key).open("ab", buffering=0) as file:
        file.write(f"{event}\n".encode())
    print(f"{key}: {event}.", flush=True)


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it cannot say what it is")


UNUSUAL: dict[str, Callable[[str], BaseException]] = {
    "MemoryError": MemoryError,
    "MuteError": MuteError,
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
}


@shared_task(name="served.add", ignore_result=False)
def add(first: int, second: int) -> int:
    return first + second


@shared_task(name="served.process", ignore_result=False)
def process() -> int:
    """Return the process it runs in."""
    return os.getpid()


@shared_task(bind=True, name="served.works", retry_policy=ONCE)
def works(self: Any, folder: str, key: str, seconds: float = 0.0) -> None:
    """Take a while and be done."""
    again = (self.request.delivery_info or {}).get("redelivered")
    note(folder, key, "begun again" if again else "begun")
    time.sleep(seconds)
    note(folder, key, "done")


@shared_task(name="served.waits", retry_policy=TWICE, ignore_result=False)
def waits(folder: str, key: str) -> int:
    """Be done once there is a file ``go``; return the process that was."""
    note(folder, key, f"begun in {os.getpid()}")
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    note(folder, key, "done")
    return os.getpid()


@shared_task(name="served.in_order", retry_policy=ONCE)
def in_order(folder: str, key: str, number: int) -> None:
    """Note the number, and when it is done with it."""
    note(folder, key, f"{number} begun")
    time.sleep(0.005)
    note(folder, key, f"{number} done")


@shared_task(bind=True, name="served.fails", retry_policy=TWICE)
def fails(self: Any, folder: str, key: str) -> NoReturn:
    note(folder, key, f"attempt {self.attempt}")
    raise LookupError(key)


@shared_task(bind=True, name="served.raises", retry_policy=TWICE)
def raises(self: Any, folder: str, key: str, error: str) -> NoReturn:
    """End with one of the errors that are unlike others."""
    note(folder, key, f"attempt {self.attempt}")
    raise UNUSUAL[error](key)


class Unprepared(LiapTask):
    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> NoReturn:
        raise LookupError(args[0])


@shared_task(base=Unprepared, name="served.unprepared", retry_policy=ONCE)
def unprepared(key: str) -> None:
    """Fail before the first attempt has begun."""


@shared_task(name="served.answers_no_json", ignore_result=False, retry_policy=ONCE)
def answers_no_json(key: str) -> object:
    return {key}


@shared_task(name="served.sleeps", ignore_result=False, retry_policy=ONCE, timeout=60, grace=0.2, fallback=lambda *_: 0)
def sleeps(folder: str, key: str) -> int:
    """Be done after three seconds in which no thread can be interrupted."""
    began = time.monotonic()
    try:
        time.sleep(3)
    finally:
        note(folder, key, "interrupted" if time.monotonic() - began < 2 else "slept")
    return 1


@shared_task(name="served.inner", retry_policy=ONCE, timeout=60)
def inner() -> None:
    """Go on until it is interrupted."""
    while True:
        time.sleep(0.01)


@shared_task(name="served.outer", retry_policy=ONCE, timeout=0.3)
def outer() -> None:
    """Call another task here and now, for longer than the time there is."""
    inner.apply()
