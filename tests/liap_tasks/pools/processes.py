"""A real ``celery worker`` process on RabbitMQ, of an app written by the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from liap_tasks import LiapApp

ROOT = Path(__file__).resolve().parents[3]
DEADLINE = 30.0


class Worker:
    """A running worker process and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(DEADLINE)


@contextmanager
def running(app: LiapApp, source: str, folder: Path, *arguments: str, **environment: str) -> Iterator[Worker]:
    """Run ``celery worker`` for the app in ``source`` on the broker of ``app``; kill it in the end if need be."""
    (folder / "worker_app.py").write_text(source, encoding="utf-8")
    log = folder / "worker.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "worker_app",
                "worker",
                "-l",
                "INFO",
                "--without-mingle",
                *arguments,
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
                "PYTHONWARNINGS": "",
                "MESSAGE_QUEUE_URL": str(app.conf.broker_url),
                **environment,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Worker(process, log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
