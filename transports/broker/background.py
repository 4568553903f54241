"""Going on in the background once the broker serves.

The process that was started stays until the broker says that it serves, or why it cannot, and ends with that: whoever
waits for it knows. The broker goes on in a session of its own, with no terminal and none of its caller's files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

__all__ = ["go_to_background"]

Report = Callable[[int, str], None]


def go_to_background() -> Report:
    """Fork. In the broker return the function that reports (exit code, text) to the process that waits, once.

    The other process prints the text (to stdout for code 0, else to stderr) and exits with the code.
    """
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        _wait(reading)
    os.close(reading)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it outlives the terminal of whoever started it
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)

    ends = [writing]

    def report(code: int, text: str) -> None:
        if not ends:
            return  # told already; its number may be another file's by now
        with os.fdopen(ends.pop(), "wb", buffering=0) as end, contextlib.suppress(OSError):  # nobody waits any more
            end.write(f"{code} {text}".encode())

    return report


def _wait(reading: int) -> None:
    with os.fdopen(reading, encoding="utf-8", errors="replace") as told:
        code, _, text = told.read().partition(" ")
    if not code:
        code, text = "1", "the broker ended before it served"
    print(text, file=sys.stdout if code == "0" else sys.stderr, flush=True)
    os._exit(int(code))
