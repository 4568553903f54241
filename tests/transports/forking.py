"""Work done in a forked child, for the tests of what a child may do with its parent's connections."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["in_child", "idle_child"]


def in_child(work: Callable[[], str]) -> str:
    """Return what ``work`` returns, or the error it raises, in a child made by os.fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a child that hangs ends, and the parent reads nothing
        try:
            answer = work()
        except BaseException as error:  # noqa: BLE001 - reported to the parent
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status} after {answer!r}"
    return answer


@contextmanager
def idle_child() -> Iterator[int]:
    """Have a child made by os.fork that does nothing; it ends when the block does, or this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # until the other end is closed
        os._exit(0)
    os.close(reading)
    try:
        yield child
    finally:
        os.close(writing)
        os.waitpid(child, 0)
