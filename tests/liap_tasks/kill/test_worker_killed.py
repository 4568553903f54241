"""``kill -9`` of a whole worker: what it held goes to another worker, what it had done stays done."""

from __future__ import annotations

from typing import Any

import pytest

from liap_tasks import DeadLetterReason, LiapApp, dead_letters
from liap_tasks.configuration import DEFAULT_QUEUE, DELIVERY_LIMIT
from liap_tasks.testing.nodes.worker import LocalTestWorker
from liap_tasks.worker import redelivery
from tests.liap_tasks.kill import tasks
from tests.liap_tasks.kill.conftest import Runs, StartWorker

DEADLINE = 60
TASKS = 200
CONCURRENCY = 4
WINDOW = CONCURRENCY * 4  # unacknowledged messages that a worker may hold (worker_prefetch_multiplier)
KILLED_AFTER = (3, 60)  # tasks done by the first and second worker


def task_queue(app: LiapApp) -> Any:
    """What the broker says of the task queue: ``message_count`` and ``consumer_count``."""
    with app.connection_for_read() as connection, connection.channel() as channel:
        return channel.queue_declare(DEFAULT_QUEUE, passive=True)


def waiting(app: LiapApp) -> int:
    """How many messages wait in the task queue."""
    return int(task_queue(app).message_count)


def finish(worker: LocalTestWorker) -> None:
    """Let a worker end as it should; what it has not acknowledged goes back to the queue."""
    worker.kill("SIGTERM")
    worker.wait_for_end(DEADLINE)


@pytest.mark.rabbitmq
def test_a_task_whose_worker_is_killed_is_done_by_another(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs
) -> None:
    first = start_worker("-P", "prefork", "-c", "1")
    sent = tasks.waits_for_a_file.delay(str(runs.folder), "key")
    first.assert_log_exists("key: begun.", timeout=DEADLINE)
    second = start_worker("-P", "prefork", "-c", "1")

    first.kill()
    second.assert_log_exists("key: begun redelivered.", timeout=DEADLINE)
    (runs.folder / "go").touch()
    process = sent.get(timeout=DEADLINE)

    assert process in {info["pid"] for info in second.get_running_processes_info(["pid"])}
    assert runs.of("key") == ["begun", "begun redelivered", "done"]
    finish(second)
    assert (waiting(rabbit), dead_letters.count(rabbit)) == (0, 0)


@pytest.mark.rabbitmq
def test_a_message_that_has_lost_many_workers_is_a_dead_letter_when_it_loses_one_more(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs
) -> None:
    arguments = (str(runs.folder), "deadly")
    sent = tasks.waits_for_a_file.apply_async(arguments, headers={redelivery.HEADER: DELIVERY_LIMIT})
    first = start_worker("-P", "threads", "-c", "1")
    first.assert_log_exists("deadly: begun", timeout=DEADLINE)
    first.kill()
    second = start_worker("-P", "threads", "-c", "1")
    second.assert_log_exists("is a dead letter: delivery_limit", timeout=DEADLINE)
    finish(second)

    (letter,) = dead_letters.peek(rabbit)
    assert (letter.id, letter.reason) == (sent.id, DeadLetterReason.DELIVERY_LIMIT)
    assert letter.args == arguments
    assert len(runs.of("deadly")) == 1
    assert waiting(rabbit) == 0


@pytest.mark.rabbitmq
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_no_task_is_lost_when_workers_are_killed_under_load(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs, pool: str
) -> None:
    keys = {str(number) for number in range(TASKS)}
    for key in keys:
        tasks.works.delay(str(runs.folder), key, 0.005)

    def noted(worker: LocalTestWorker) -> int:
        return worker.logs().count(": done.")

    for count in KILLED_AFTER:
        worker = start_worker("-P", pool, "-c", str(CONCURRENCY), wait=False)
        assert worker.process.wait(lambda worker=worker, count=count: noted(worker) >= count, DEADLINE)
        worker.kill()
    before_the_last = runs.done()
    last = start_worker("-P", pool, "-c", str(CONCURRENCY), wait=False)
    while True:
        seen = noted(last)
        if runs.done() == keys:
            break
        assert last.process.wait(lambda seen=seen: noted(last) > seen, DEADLINE)
    finish(last)

    assert 0 < len(before_the_last) < TASKS  # it was under load that they were killed
    assert (waiting(rabbit), dead_letters.count(rabbit)) == (0, 0)
    for key in keys:  # whatever ran again was unacknowledged
        again = [event for event in runs.of(key) if event.startswith("begun")][1:]
        assert set(again) <= {"begun redelivered"}
    done_again = [key for key in keys if runs.of(key).count("done") > 1]
    assert len(done_again) <= len(KILLED_AFTER) * WINDOW
