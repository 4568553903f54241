"""A process that dies in the middle of a task, or is killed for not ending: an attempt like any other that fails."""

from __future__ import annotations

import pytest

from liap_tasks import DeadLetterReason, LiapApp, dead_letters
from tests.liap_tasks.kill import tasks
from tests.liap_tasks.kill.conftest import Runs, StartWorker

DEADLINE = 60


@pytest.mark.rabbitmq
def test_a_task_that_kills_its_process_is_tried_as_often_as_its_policy_says(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs
) -> None:
    worker = start_worker("-P", "prefork", "-c", "2")
    killer = tasks.kills_its_process.delay(str(runs.folder), "killer")
    worker.assert_log_exists(f"[{killer.id}] is a dead letter", timeout=DEADLINE)
    innocent = tasks.works.delay(str(runs.folder), "innocent")
    worker.assert_log_exists("innocent: done.", timeout=DEADLINE)

    (letter,) = dead_letters.peek(rabbit)
    assert (letter.reason, letter.id) == (DeadLetterReason.WORKER_LOST, killer.id)
    assert [(attempt.number, attempt.error) for attempt in letter.attempts] == [
        (1, "WorkerLostError"),
        (2, "WorkerLostError"),
    ]
    assert letter.args == (str(runs.folder), "killer")
    assert runs.of("killer") == ["begun", "begun"]
    assert innocent.id != killer.id


@pytest.mark.rabbitmq
def test_a_task_that_ignores_its_limit_is_killed_after_the_grace(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs
) -> None:
    worker = start_worker("-P", "prefork", "-c", "2")
    stubborn = tasks.ignores_its_limit.delay(str(runs.folder), "stubborn")
    worker.assert_log_exists(f"[{stubborn.id}] is a dead letter", timeout=DEADLINE)
    tasks.works.delay(str(runs.folder), "next")
    worker.assert_log_exists("next: done.", timeout=DEADLINE)

    (letter,) = dead_letters.peek(rabbit)
    assert (letter.reason, letter.exception) == (DeadLetterReason.TIMED_OUT, "TimeLimitExceeded")
    assert runs.of("stubborn") == ["begun"]
