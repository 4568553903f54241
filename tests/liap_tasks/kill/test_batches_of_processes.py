"""Batches in the prefork pool: outcomes travel back to the worker, and a lost process loses no item."""

from __future__ import annotations

import pytest

from liap_tasks import DeadLetterReason, LiapApp, dead_letters
from liap_tasks.testing.nodes.worker import LocalTestWorker
from tests.liap_tasks.kill import tasks
from tests.liap_tasks.kill.conftest import Runs, StartWorker

DEADLINE = 60


def assert_batched(worker: LocalTestWorker, runs: Runs) -> None:
    """Send four items, of which three fill a batch."""
    for key in "abcd":
        tasks.in_batches.delay(str(runs.folder), key, False)
    worker.assert_log_exists("d: in a batch of 1.", timeout=DEADLINE)
    assert [runs.of(key) for key in "abcd"] == [["in a batch of 3"]] * 3 + [["in a batch of 1"]]


@pytest.mark.rabbitmq
def test_batches_are_run_in_greenlets(rabbit: LiapApp, start_worker: StartWorker, runs: Runs) -> None:
    assert_batched(start_worker("-P", "gevent", "-c", "2", wait=False), runs)


@pytest.mark.rabbitmq
def test_batches_are_run_in_processes_and_lost_ones_are_attempts(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs
) -> None:
    folder = str(runs.folder)
    worker = start_worker("-P", "prefork", "-c", "2")
    assert_batched(worker, runs)

    tasks.in_batches.delay(folder, "e", False)
    deadly = tasks.in_batches.delay(folder, "f", True)
    worker.assert_log_exists(f"[{deadly.id}] is a dead letter", timeout=DEADLINE)
    tasks.in_batches.delay(folder, "g", False)
    worker.assert_log_exists("g: in a batch of 1.", timeout=DEADLINE)
    letters = {letter.id: letter for letter in dead_letters.peek(rabbit)}
    assert letters[deadly.id].reason is DeadLetterReason.WORKER_LOST
    assert [attempt.error for attempt in letters[deadly.id].attempts] == ["WorkerLostError"] * 2
