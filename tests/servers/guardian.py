"""Run one server for as long as somebody holds the other end of our standard input; then end it and tidy up.

The guardian is a process of its own between pytest and the server. Whatever happens to pytest (its end, an exception,
Ctrl-C, ``kill -9``) the operating system closes the pipe, the guardian reads end-of-file, ends the server and removes
its folder. It lives in its own session, so Ctrl-C in the terminal does not reach it or the server.

Why not ``PR_SET_PDEATHSIG``: it is Linux only, follows the death of a thread instead of the process, is cleared where a
server changes its user (PostgreSQL must), and cannot remove the folder.

Usage: ``guardian.py JSON`` with the keys of :class:`Order`. Runs as a script, so it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from typing import TypedDict

GRACE_SECONDS = 10.0


class Order(TypedDict):
    """What to run and how to end it."""

    command: list[str]
    environment: dict[str, str]
    folder: str
    log: str
    user: str | None  # run as this user (only root can ask for it)
    stop_signal: str  # name of the signal that ends the server quickly and cleanly


def guard(order: Order) -> bool:
    """Run the server until it exits (False) or until we are told to end it (True)."""
    wakeups, wake = os.pipe()
    os.set_blocking(wake, False)
    for signum in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(signum, lambda *_: None)
    signal.set_wakeup_fd(wake)
    with open(order["log"], "ab") as log:
        server = subprocess.Popen(
            order["command"],
            env=order["environment"],
            cwd=order["folder"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=order["user"],
            group=order["user"],
            extra_groups=[] if order["user"] else None,
        )
    try:
        while server.poll() is None:
            ready, _, _ = select.select([0, wakeups], [], [])
            if 0 in ready and not os.read(0, 1024):
                return True
            if wakeups in ready and signal.SIGTERM in os.read(wakeups, 1024):
                return True
        return False
    finally:
        _end(server, getattr(signal, order["stop_signal"]))


def _end(server: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    if server.poll() is None:
        server.send_signal(stop_signal)
        try:
            server.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)  # what the server left behind in its session


if __name__ == "__main__":
    order: Order = json.loads(sys.argv[1])
    if not guard(order):
        sys.exit("the server ended by itself")  # its folder stays: somebody will want to read the log
    shutil.rmtree(order["folder"], ignore_errors=True)
