"""The first process that finds nobody on the user's own socket starts a broker there, in the background.

Why a lock file: a hundred workers that start at once must not start a hundred brokers. Whoever holds the lock starts
one and waits until it serves; the others wait for the lock, and find it serving. The broker itself holds another lock
as long as it lives, so that whatever happens here there is one broker on one socket.

A broker may be there and not answer: it reads a long journal, it is just ending, or its socket was removed and it has
not noticed yet. The one that was started says so and ends; whoever holds the lock then waits for the other, and starts
one again only now and then.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket

from transports.engine.errors import EngineError
from transports.errors import BrokerUnavailableError, from_engine
from transports.wire.address import UnixAddress
from transports.wire.lock_file import LockFile, read_holder
from transports.wire.places import default_journal, default_log, is_own, journal_lock, private_directory
from transports.wire.program import ALREADY_SERVED

__all__ = ["IDLE_EXIT", "START_SECONDS", "own_places", "start_broker"]

START_SECONDS = 30.0
#: Seconds without any client after which a broker that was started by itself ends; its journal stays.
IDLE_EXIT = 600
POLL = 0.02
#: Seconds between two starts while a broker is there that does not answer: it may be ending, or reading its journal.
FIRST_PAUSE, MOST_PAUSE = 0.2, 5.0

logger = logging.getLogger("transports.served")


def own_places(address: UnixAddress) -> list[UnixAddress]:
    """Return where the user's own broker can be: on its socket, or on that of the broker that has the user's journal.

    Only in directories where nobody else can have put a socket.
    """
    named = read_holder(journal_lock(default_journal())).socket
    places = [address] if named is None else [address, UnixAddress(named)]
    return [place for place in places if is_own(Path(place.path).parent)]


def start_broker(address: UnixAddress, deadline: float, reach: Callable[[], socket | None]) -> socket | None:
    """Start the user's broker in the background and return a connection to it; None when another process has done it.

    deadline: monotonic time. reach: returns a connection, or None where nobody answers.
    Raises BrokerUnavailableError with what the broker said when it could not start, or does not answer.
    """
    try:
        private_directory(Path(address.path).parent)
        private_directory(Path(default_log()).parent)
        with _alone(f"{address.path}.starting", deadline) as first:
            return _start_and_reach(address, deadline, reach) if first else None
    except EngineError as error:
        raise from_engine(error) from error
    except OSError as error:
        raise BrokerUnavailableError(
            f"no broker on {address}, and none can be started: {error}; let XDG_RUNTIME_DIR and XDG_STATE_HOME name "
            "directories of yours, or name a socket in the URL and start a broker there: "
            "python -m transports.broker --socket PATH"
        ) from error


def _start_and_reach(address: UnixAddress, deadline: float, reach: Callable[[], socket | None]) -> socket:
    """Start a broker. Where there is one that does not answer yet, wait for it, and start another if it has gone."""
    pause = FIRST_PAUSE
    while True:
        there_is = _start(address, deadline)
        again = min(time.monotonic() + pause, deadline)
        while (sock := reach()) is None and time.monotonic() < again:
            time.sleep(POLL)
        if sock is not None:
            return sock
        if time.monotonic() >= deadline:
            raise BrokerUnavailableError(
                f"{there_is or f'a broker was started on {address}'}; nobody answers there: it may be reading a long "
                f"journal (see {default_log()}), or hang; wait for it, or kill it"
            )
        if there_is and pause == 2 * FIRST_PAUSE:
            logger.warning(
                "%s, but does not answer; waiting for it up to %.0f s", there_is, deadline - time.monotonic()
            )
        pause = min(2 * pause, MOST_PAUSE)


@contextmanager
def _alone(path: str, deadline: float) -> Iterator[bool]:
    """Hold a lock file; give False when another process held it meanwhile, and so has started the broker."""
    lock = LockFile(path)
    waited, log = False, default_log()
    try:
        while not lock.take():
            waited = True
            if time.monotonic() >= deadline:
                raise BrokerUnavailableError(
                    f"another process has been starting a broker for too long (it holds {path}); see {log}"
                )
            time.sleep(POLL)
        yield not waited
    finally:
        lock.release()


def _start(address: UnixAddress, deadline: float) -> str | None:
    """Start a broker; return what it says of another one that is there already, None when it serves."""
    log = default_log()
    command = [_python(), "-m", "transports.broker", "--background"]
    command += ["--socket", address.path, "--journal", default_journal(), "--log", log, "--idle-exit", str(IDLE_EXIT)]
    home = str(Path(__file__).parent.parent.parent)  # where this very package is found, installed or not
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=max(1.0, deadline - time.monotonic()),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BrokerUnavailableError(f"a broker was started for {address} and does not serve yet; see {log}") from None
    if done.returncode == 0:
        pid = done.stdout.strip()
        logger.warning(
            "started a broker for the processes of this user: process %s, socket %s, log %s; it ends after %d s "
            "without clients, or now: kill %s",
            pid,
            address,
            log,
            IDLE_EXIT,
            pid,
        )
        return None
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode == ALREADY_SERVED:
        return said
    raise BrokerUnavailableError(f"no broker on {address}, and none could be started: {said} (log: {log})")


def _python() -> str:
    """Return the interpreter: a program that embeds Python (uWSGI) has its own name in ``sys.executable``."""
    if "python" in Path(sys.executable or "").name or "pypy" in Path(sys.executable or "").name:
        return sys.executable
    return str(Path(sys.prefix, "bin", "python3"))
