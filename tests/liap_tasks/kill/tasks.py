"""The tasks of the workers that are killed. Each notes its runs in a file, which the death of a process cannot undo."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from celery import shared_task
from celery.exceptions import Reject, SoftTimeLimitExceeded

from liap_tasks import BatchItem, BatchTask, DeadLetter, RetryPolicy, Unique

ONCE = RetryPolicy(max_retries=0)
TWICE = RetryPolicy(max_retries=1, initial_delay=0.05, jitter=False)


def note(folder: str, key: str, event: str) -> None:
    """Add a line to the file of the message, in one write, and then to the worker's log, which tests can wait for."""
    with (Path(folder) / key).open("ab", buffering=0) as file:
        file.write(f"{event}\n".encode())
    print(f"{key}: {event}.", flush=True)


def begun(request: Any) -> str:
    return "begun redelivered" if (request.delivery_info or {}).get("redelivered") else "begun"


@shared_task(bind=True, name="kill.works", retry_policy=ONCE)
def works(self: Any, folder: str, key: str, seconds: float = 0.0) -> str:
    """Take a while and be done."""
    note(folder, key, begun(self.request))
    time.sleep(seconds)
    note(folder, key, "done")
    return key


@shared_task(bind=True, name="kill.waits_for_a_file", ignore_result=False, retry_policy=TWICE)
def waits_for_a_file(self: Any, folder: str, key: str) -> int:
    """Be done once there is a file ``go``; return the process that was."""
    note(folder, key, begun(self.request))
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    note(folder, key, "done")
    return os.getpid()


@shared_task(bind=True, name="kill.kills_its_process", retry_policy=TWICE)
def kills_its_process(self: Any, folder: str, key: str) -> NoReturn:
    """End as a process does that the kernel kills for its memory."""
    note(folder, key, begun(self.request))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


@shared_task(bind=True, name="kill.ignores_its_limit", retry_policy=ONCE, timeout=0.2, grace=0.3)
def ignores_its_limit(self: Any, folder: str, key: str) -> NoReturn:
    """Go on after the limit has passed, and after the grace."""
    note(folder, key, begun(self.request))
    while True:
        with suppress(SoftTimeLimitExceeded):
            while True:
                time.sleep(0.01)


@shared_task(base=BatchTask, name="kill.in_batches", batch_size=3, batch_timeout=0.5, retry_policy=TWICE)
def in_batches(items: list[BatchItem]) -> None:
    """Note the size of the batch for each item; an item that says so kills the process."""
    for item in items:
        folder, key, deadly = item.args
        note(folder, key, f"in a batch of {len(items)}")
        if deadly:
            os.kill(os.getpid(), signal.SIGKILL)


@shared_task(bind=True, name="kill.fails", retry_policy=TWICE)
def fails(self: Any, folder: str, key: str) -> NoReturn:
    note(folder, key, begun(self.request))
    raise LookupError(key)


@shared_task(bind=True, name="kill.overruns", retry_policy=ONCE, timeout=0.3)
def overruns(self: Any, folder: str, key: str) -> None:
    """Go on until it is interrupted, and note after how many seconds."""
    began = time.monotonic()
    try:
        while True:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        note(folder, key, f"{time.monotonic() - began:.3f}")
        raise


@shared_task(bind=True, name="kill.overruns_in_a_coroutine", retry_policy=ONCE, timeout=0.3)
async def overruns_in_a_coroutine(self: Any, folder: str, key: str) -> None:
    began = time.monotonic()
    try:
        await asyncio.Event().wait()
    except SoftTimeLimitExceeded:
        note(folder, key, f"{time.monotonic() - began:.3f}")
        raise


@shared_task(bind=True, name="kill.unique", retry_policy=TWICE, unique=Unique(key="key"))
def unique(self: Any, folder: str, key: str, how: str = "waits") -> None:
    """Note the fencing token, then wait for a file ``go``, or end by the death of the process."""
    note(folder, key, f"token {self.unique_lock.token}")
    if how == "kills its process":
        os.kill(os.getpid(), signal.SIGKILL)
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    note(folder, key, "done")


@shared_task(name="kill.ends_as_told", retry_policy=RetryPolicy(max_retries=0, give_up_on=(LookupError,)))
def ends_as_told(how: str) -> NoReturn:
    """End by Celery's Reject, by an error that is never retried, or by a verdict."""
    if how == "rejected":
        raise Reject("not mine", requeue=False)
    if how == "processing_failed":
        raise LookupError(how)
    raise DeadLetter(how)
