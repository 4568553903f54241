"""The first process that finds nobody on the user's own socket starts a broker there, in the background.

Why a lock file: a hundred workers that start at once must not start a hundred brokers. Whoever holds the lock starts
one and waits until it serves; the others wait for the lock, and find it serving. The broker itself holds another lock
as long as it lives, so that whatever happens here there is one broker on one socket.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transports.engine.errors import EngineError
from transports.errors import BrokerUnavailableError, from_engine
from transports.wire.address import UnixAddress
from transports.wire.lock_file import LockFile
from transports.wire.places import default_journal, default_log, private_directory
from transports.wire.program import ALREADY_SERVED

__all__ = ["IDLE_EXIT", "START_SECONDS", "start_broker"]

START_SECONDS = 30.0
#: Seconds without any client after which a broker that was started by itself ends; its journal stays.
IDLE_EXIT = 600
LOCK_POLL = 0.02

logger = logging.getLogger("transports.served")


def start_broker(address: UnixAddress, deadline: float) -> None:
    """Start the user's broker in the background, unless another process does; return when one serves the socket.

    deadline: monotonic time. Raises BrokerUnavailableError with what the broker said when it could not start.
    """
    try:
        private_directory(Path(address.path).parent)
        private_directory(Path(default_log()).parent)
    except EngineError as error:
        raise from_engine(error) from error
    with _alone(f"{address.path}.starting", deadline) as first:
        if first:
            _start(address, deadline)


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
            time.sleep(LOCK_POLL)
        yield not waited
    finally:
        lock.release()


def _start(address: UnixAddress, deadline: float) -> None:
    log = default_log()
    command = [sys.executable, "-m", "transports.broker", "--background"]
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
    elif done.returncode != ALREADY_SERVED:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BrokerUnavailableError(f"no broker on {address}, and none could be started: {said} (log: {log})")
