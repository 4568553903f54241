"""``kill -9`` of a prefork child in its task, once: the next attempt does it."""

from __future__ import annotations

import os
import signal

import pytest

from liap_tasks import LiapApp, dead_letters
from tests.liap_tasks.kill import tasks
from tests.liap_tasks.kill.conftest import Runs, StartWorker
from tests.liap_tasks.kill.test_worker_killed import finish, waiting

DEADLINE = 60


@pytest.mark.rabbitmq
def test_a_task_that_loses_its_process_once_is_done_by_the_next_attempt(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs
) -> None:
    worker = start_worker("-P", "prefork", "-c", "1")
    sent = tasks.waits_for_a_file.delay(str(runs.folder), "key")
    worker.assert_log_exists("key: begun.", timeout=DEADLINE)
    (child,) = {info["pid"] for info in worker.get_running_processes_info(["pid"])} - {worker.process.pid}

    os.kill(child, signal.SIGKILL)
    assert worker.process.wait(lambda: worker.logs().count("key: begun.") == 2, DEADLINE)
    (runs.folder / "go").touch()

    assert sent.get(timeout=DEADLINE) != child
    finish(worker)
    assert runs.of("key") == ["begun", "begun", "done"]  # a retry: a new message, not a redelivered one
    assert (waiting(rabbit), dead_letters.count(rabbit)) == (0, 0)
