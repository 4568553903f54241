"""A broker process, the processes that the tests start beside it, and the app of the test's own process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from liap_tasks import LiapApp, create_app, load_settings
from liap_tasks.configuration import DEFAULT_QUEUE
from liap_tasks.statistics import queue_statistics
from liap_tasks.testing.nodes.process import LocalProcess
from liap_tasks.testing.nodes.watchdog import Watchdog

__all__ = ["DEADLINE", "World", "until"]

ROOT = Path(__file__).parents[3]
DEADLINE = 60.0
APP = "tests.liap_tasks.served.worker_app"


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that tells nobody when it happens."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class World:
    """What one module of tests shares. scheme: of the broker's URL."""

    def __init__(self, folder: Path, watchdog: Watchdog, scheme: str = "liap-broker") -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.url = f"{scheme}://{folder / 'broker.sock'}"
        self.store_url = f"sqlite:///{folder / 'dead.sqlite3'}"
        self._watchdog = watchdog
        self._processes: list[LocalProcess] = []
        self.app = self.new_app()
        self.broker = self.start(
            "python",
            "-m",
            "transports.broker",
            "--socket",
            str(folder / "broker.sock"),
            label="broker",
            ready="serving",
        )

    def new_app(self, **settings: object) -> LiapApp:
        """Make an app of this process on the broker."""
        from tests.liap_tasks.served import tasks  # noqa: F401 - it registers them

        chosen = {"message_queue_url": self.url, "dlq_store_url": self.store_url, **settings}
        return create_app(load_settings(**chosen), main="served", set_as_current=False)

    # -- processes ---------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "",
            "NO_COLOR": "1",
            "MESSAGE_QUEUE_URL": self.url,
            "DLQ_STORE_URL": self.store_url,
            "DLQ_MAX_RETRIES": "0",  # what is recorded stays
        }

    def start(self, *command: str, label: str, ready: str | None, **environment: str) -> LocalProcess:
        """Start a process and wait until its log says ``ready``."""
        process = LocalProcess(
            command,
            label=label,
            folder=self.folder,
            environment={**self.environment, **environment},
            watchdog=self._watchdog,
            ready_prompt=ready,
        )
        self._processes.append(process)
        process.start()
        process.wait_until_ready(DEADLINE)
        return process

    def worker(self, *arguments: str, ready: str | None = " ready.", **environment: str) -> LocalProcess:
        """Start a worker; without ``--with-mingle`` it does not take the second to look for others."""
        mingle = () if "--with-mingle" in arguments else ("--without-mingle",)
        return self.start(
            *("celery", "-A", APP, "worker", "-l", "INFO", *mingle),
            *(word for word in arguments if word != "--with-mingle"),
            label="worker",
            ready=ready,
            **environment,
        )

    def celery(self, *arguments: str, app: str = APP) -> str:
        """Run a ``celery`` command to its end and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", app, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def end_of(self, process: LocalProcess) -> int | None:
        """Wait for the end of a process and return its exit status."""
        assert process.wait(lambda: process.status == "exited", DEADLINE), process.logs().decode()
        return process.exit_code

    def close(self) -> None:
        """End everything, the broker last."""
        self.app.close()
        for process in reversed(self._processes):
            process.kill() if process.status == "running" else None

    # -- looking in --------------------------------------------------------------------------------------------

    def numbers(self, queue: str = DEFAULT_QUEUE) -> dict[str, float]:
        """Return the broker's statistics of a queue."""
        return queue_statistics(self.app, queue)[queue]

    def left(self, queue: str = DEFAULT_QUEUE) -> tuple[float, float]:
        """Return how many messages of a queue wait and how many are unacknowledged."""
        numbers = self.numbers(queue)
        return numbers["ready"], numbers["unacked"]

    def noted(self, key: str) -> list[str]:
        """Return what tasks have noted of a key."""
        path = self.notes / key
        return path.read_text().splitlines() if path.exists() else []

    def done(self, *keys: str) -> bool:
        """Tell whether all these are done."""
        return all("done" in self.noted(key) for key in keys)
