"""Brokers and clients as real processes, each ended by whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from types import TracebackType

from tests.transports.served.raw import DEADLINE, eventually

__all__ = ["BrokerProcess", "ClientProcess"]


class BrokerProcess:
    """``python -m transports.broker`` on a socket; a context manager that waits until it serves."""

    def __init__(self, path: str, *options: str, umask: int = -1, environment: dict[str, str] | None = None) -> None:
        self.path = path
        self._command = [sys.executable, "-m", "transports.broker", "--socket", path, *options]
        self._umask = umask
        self._environment = {**os.environ, **(environment or {})}
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            umask=self._umask,
            env=self._environment,
        )

    def __enter__(self) -> BrokerProcess:
        eventually(self.serves)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    def serves(self) -> bool:
        """Tell whether somebody listens; fails when the process has ended."""
        assert self.process.poll() is None, self.ended()[1]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self.path)
            except OSError:
                return False
        return True

    def ended(self) -> tuple[int, str]:
        """Wait for the end of the process and return its exit code and what it logged."""
        _, log = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, log

    def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate(timeout=DEADLINE)

    def again(self) -> BrokerProcess:
        """Start another in its place."""
        self.kill()
        self.process = self._spawn()
        eventually(self.serves)
        return self


class ClientProcess:
    """A program that says a line when it has come somewhere."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> ClientProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=DEADLINE)

    def says(self, expected: str) -> None:
        """Wait until it says this."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == expected

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)
