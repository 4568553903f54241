"""A server process of the tests: start it under a guardian, wait until it answers, stop it.

``started`` is the one way in. A server that does not get ready is an error with the end of its log, never a skip: only
a *missing* program is skipped (see :mod:`tests.servers.fixtures`).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers import guardian

__all__ = ["ServerFailed", "answers", "free_ports", "private_folder", "started"]

READY_SECONDS = 60.0
POLL_SECONDS = 0.05


class ServerFailed(Exception):
    """A server that is installed did not get ready; the text holds the end of its log."""


def free_ports(count: int) -> list[int]:
    """Return that many distinct TCP ports which are free on the loopback interface now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def private_folder(name: str, owner: str | None = None) -> Path:
    """Make a new folder that only ``owner`` (None: this user) can enter; the server's guardian removes it."""
    folder = Path(tempfile.mkdtemp(prefix=f"liap-{name}-"))
    if owner:
        shutil.chown(folder, owner, owner)
    return folder


def answers(port: int, question: bytes, answer: bytes) -> bool:
    """Tell whether a server on a loopback port answers a question with bytes that start as expected."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(question)
            return connection.recv(len(answer)) == answer
    except OSError:
        return False


@contextmanager
def started(
    command: Sequence[str | Path],
    *,
    folder: Path,
    ready: Callable[[], bool],
    environment: dict[str, str] | None = None,
    user: str | None = None,
    stop_signal: str = "SIGTERM",
) -> Iterator[None]:
    """Run a server inside the ``with`` block, from when ``ready()`` is true; raises ServerFailed when it never is.

    folder: the server's private folder, its working directory; it is removed at the end, by the guardian if need be.
    environment: variables that are added to this process's own.
    """
    log = folder / "output.log"
    order: guardian.Order = {
        "command": [str(part) for part in command],
        "environment": {**os.environ, **(environment or {})},
        "folder": str(folder),
        "log": str(log),
        "user": user,
        "stop_signal": stop_signal,
    }
    process = subprocess.Popen(
        [sys.executable, guardian.__file__, json.dumps(order)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until(ready, process, log)
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        # A forked child of the tests may still hold the pipe open: say it by signal as well.
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            output = log.read_text(errors="replace")[-2000:] if log.exists() else "(no output)"
            raise ServerFailed(f"{log.parent.name} did not get ready:\n{output}")
        time.sleep(POLL_SECONDS)  # another process's readiness: there is no event to wait for
