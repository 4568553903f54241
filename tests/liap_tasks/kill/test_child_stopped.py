"""A call that a process of the prefork pool has been given, and has not begun, when its worker is told to stop."""

from __future__ import annotations

import os
import signal

import pytest

from liap_tasks import LiapApp, dead_letters
from tests.liap_tasks.conftest import wait_until
from tests.liap_tasks.kill import tasks
from tests.liap_tasks.kill.conftest import Runs, StartWorker
from tests.liap_tasks.kill.test_child_killed import DEADLINE, only_child
from tests.liap_tasks.kill.test_worker_killed import task_queue, waiting


@pytest.mark.rabbitmq
def test_it_is_done_and_its_message_does_not_go_back(rabbit: LiapApp, start_worker: StartWorker, runs: Runs) -> None:
    worker = start_worker("-P", "prefork", "-c", "1")
    (runs.folder / "go").touch()
    child = only_child(worker)
    os.kill(child, signal.SIGSTOP)
    for number in range(3):  # one for the process, and others that are not given to it
        tasks.waits_for_a_file.delay(str(runs.folder), f"call-{number}")
    assert worker.process.wait(lambda: worker.logs().count(" received") == 3, DEADLINE), worker.logs()

    worker.kill("SIGTERM")
    wait_until(lambda: task_queue(rabbit).consumer_count == 0)
    os.kill(child, signal.SIGCONT)

    worker.wait_for_end(DEADLINE)
    assert [runs.of(f"call-{number}") for number in range(3)] == [["begun", "done"], [], []]
    assert (waiting(rabbit), dead_letters.count(rabbit)) == (2, 0)
