"""Beat, the ``celery`` commands and both kinds of results, each a process that shares nothing but the broker."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from liap_tasks import MessagePriority, QueueFullError
from liap_tasks.dead_letter_store import LetterFilter, LetterState
from liap_tasks.testing.nodes.process import LocalProcess
from tests.liap_tasks.served.world import DEADLINE, World, until

GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent
from tests.liap_tasks.served import tasks
from tests.liap_tasks.served.worker_app import app

def call(number):
    return app.tasks["served.add"].delay(number, 1).get(timeout=60)

jobs = [gevent.spawn(call, number) for number in range(20)]
gevent.joinall(jobs)
print("answers:", sum(job.get() for job in jobs))
"""


@pytest.fixture(scope="module")
def worker(world: World) -> LocalProcess:
    return world.worker("-P", "threads", "-c", "2")


@pytest.fixture
def queue(world: World) -> Iterator[str]:
    """A queue that no worker consumes."""
    yield "apart"
    with world.app.connection_for_write() as connection:
        connection.default_channel.queue_delete("apart")


def test_the_scheduled_command_lists_moves_and_cancels_delayed_calls(world: World, queue: str) -> None:
    add = world.app.tasks["served.add"]
    kept, cancelled = (add.apply_async((1, 2), countdown=3600, queue=queue).id for _ in range(2))

    world.celery("scheduled", "reschedule", kept, "--in", "7200")
    world.celery("scheduled", "cancel", cancelled)
    listed = json.loads(world.celery("scheduled", "list", "--json"))

    (call,) = listed
    assert call["id"] == kept
    assert (datetime.fromisoformat(call["due"]) - datetime.now(UTC)).total_seconds() > 3700


def test_a_worker_whose_settings_its_queue_does_not_have_ends_with_one_line(world: World, worker: LocalProcess) -> None:
    other = world.worker("-P", "solo", "-n", "other@%h", ready=None, MAX_QUEUE_SIZE="5")

    assert world.end_of(other) == 1
    log = other.logs().decode()
    assert (
        "this worker cannot start: queue 'liap_tasks' is there with another x-max-length (setting MAX_QUEUE_SIZE): "
        in log
    )
    assert "Traceback" not in log


def test_the_dlq_command_replays_a_recorded_letter_to_the_worker(world: World, worker: LocalProcess) -> None:
    store, which = world.app.dead_letter_store, LetterFilter(error="to-replay")
    world.app.tasks["served.fails"].delay(str(world.notes), "to-replay")
    until(lambda: store.list(which), "the dead letter was not recorded")

    world.celery("dlq", "replay", "--task", "served.fails")

    until(lambda: len(world.noted("to-replay")) == 4, "the replayed call did not run")
    until(lambda: len(store.list(which)) == 2, "it did not die again")
    assert {letter.state for letter in store.list(which)} == {LetterState.REPLAYED, LetterState.DEAD}


def test_the_queue_stats_command_shows_the_queues(world: World, worker: LocalProcess) -> None:
    (stats,) = json.loads(world.celery("inspect", "queue_stats", "liap_tasks", "-j")).values()

    assert stats["liap_tasks"]["consumers"] == 1


def test_a_full_queue_refuses_the_call_of_another_process(world: World, queue: str) -> None:
    narrow = world.new_app(max_queue_size=2)
    with narrow.connection_for_write() as connection:
        narrow.missing_queue(queue).bind(connection.default_channel).declare()
    add = narrow.tasks["served.add"]
    for _ in range(2):
        add.apply_async((1, 2), queue=queue)

    with pytest.raises(QueueFullError) as refused:
        add.apply_async((1, 2), queue=queue)

    assert (refused.value.queue, refused.value.max_length) == (queue, 2)
    narrow.close()


def test_urgent_calls_overtake_on_the_priority_transport(priority_world: World) -> None:
    world = priority_world
    for number, priority in enumerate((MessagePriority.LOW, MessagePriority.NORMAL, MessagePriority.CRITICAL)):
        arguments = (str(world.notes), "order", number)
        world.app.tasks["served.in_order"].apply_async(arguments, priority=priority)

    world.worker("-P", "solo")

    until(lambda: len(world.noted("order")) == 6, "not all have run")
    assert [line for line in world.noted("order") if "begun" in line] == ["2 begun", "1 begun", "0 begun"]


def test_beat_sends_what_is_due(world: World, worker: LocalProcess) -> None:
    beat = world.start(
        *("celery", "-A", "tests.liap_tasks.served.worker_app", "beat", "-l", "INFO"),
        *("--schedule", str(world.folder / "beat")),
        label="beat",
        ready="Sending due task often",
    )

    assert worker.wait_for_log("Task served.add", DEADLINE)
    beat.kill("SIGTERM")
    assert world.end_of(beat) == 0


def test_results_can_be_kept_in_a_database(world: World, worker: LocalProcess) -> None:
    database = f"db+sqlite:///{world.folder / 'results.sqlite3'}"
    keeps = world.start(
        *("celery", "-A", "tests.liap_tasks.served.worker_app", "--result-backend", database),
        *("worker", "-l", "INFO", "-P", "solo", "--without-mingle", "-Q", "with-database", "-n", "keeps@here"),
        label="worker",
        ready=" ready.",
    )
    asks = world.new_app()
    asks.conf.result_backend = database

    assert asks.tasks["served.add"].apply_async((40, 2), queue="with-database").get(timeout=DEADLINE) == 42

    keeps.kill("SIGTERM")
    assert world.end_of(keeps) == 0
    asks.close()


def test_greenlets_call_and_wait_at_once(world: World, worker: LocalProcess) -> None:
    program = world.start(sys.executable, "-c", GEVENT, label="gevent", ready="answers: 210")

    assert world.end_of(program) == 0
