"""``kill -9`` of a prefork child in its task, once: the next attempt does it."""

from __future__ import annotations

import os
import signal

import pytest

from liap_tasks import LiapApp, dead_letters
from liap_tasks.testing.nodes.worker import LocalTestWorker
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
    child = only_child(worker)

    os.kill(child, signal.SIGKILL)
    assert worker.process.wait(lambda: worker.logs().count("key: begun.") == 2, DEADLINE)
    (runs.folder / "go").touch()

    assert sent.get(timeout=DEADLINE) != child
    finish(worker)
    assert runs.of("key") == ["begun", "begun", "done"]  # a retry: a new message, not a redelivered one
    assert (waiting(rabbit), dead_letters.count(rabbit)) == (0, 0)


@pytest.mark.rabbitmq
def test_a_call_that_is_given_to_a_process_which_has_just_died_idle_is_done_by_another(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs
) -> None:
    worker = start_worker("-P", "prefork", "-c", "1")
    (runs.folder / "go").touch()
    for number in range(5):
        child = only_child(worker)
        os.kill(worker.process.pid, signal.SIGSTOP)  # it shall hear of the death and of the call at once
        os.kill(child, signal.SIGKILL)
        sent = tasks.waits_for_a_file.delay(str(runs.folder), f"call-{number}")
        os.kill(worker.process.pid, signal.SIGCONT)
        assert sent.get(timeout=DEADLINE) != child
    finish(worker)
    assert [runs.of(f"call-{number}") for number in range(5)] == [["begun", "done"]] * 5
    assert (waiting(rabbit), dead_letters.count(rabbit)) == (0, 0)


def only_child(worker: LocalTestWorker) -> int:
    """Wait until the worker has one process that lives, and return its id."""

    def children() -> set[int]:
        running = worker.get_running_processes_info(["pid", "status"])
        return {info["pid"] for info in running if info["status"] != "zombie"} - {worker.process.pid}

    assert worker.process.wait(lambda: len(children()) == 1, DEADLINE)
    return children().pop()
